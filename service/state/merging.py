"""Merging one user into another: two users are two slots, so it is a few steps, each atomic, each safe to repeat.

    1. part_user      on the first slot: what was learned goes aside, claimed for the second; its events stay known there, as moved
    2. decisions      written again under the second user, with the time that they had left
    3. receive_sums   on the second: sums added, event ids known, a receipt under the merging event
    4. receive_entry  on the second: the log, entry by entry, with what was replayed of it
    5. drop_parted    what went aside is removed; then the receipt says that all is done

Broken off anywhere, the same call with the same event goes on where it stopped: what is aside waits, and the receipt says whether it was
added. Who is to be merged on, or deleted, while steps 3 to 5 are under way has them finished first: nobody keeps a sum without its log.
An event id that both users had used counts for both; its entry of the first user is not moved.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from attune.service.errors import EventConflict, UserDeleted
from attune.service.state.codec import (
    CHECK_BYTES,
    ENTRY_HEAD,
    EVENT_BYTES,
    TOKEN_BYTES,
    EventValue,
    event_digest,
    unpack_entry,
)
from attune.service.state.durable import Durable
from attune.service.state.export_pages import PAGE, bases_of, replayed_under
from attune.service.state.kept_decisions import KeptDecisions
from attune.service.state.keys import DECISION, ERA_BYTES, SUM, TAG_BYTES, UserKey, key_with, seal_of
from attune.service.state.records import checked_event_id
from attune.service.state.replies import Replies
from attune.service.state.scripts import (
    CHANGE_IF,
    DROP_DECISION,
    DROP_PARTED,
    MARK_DECISION,
    PART_USER,
    READ_LOG,
    RECEIVE_ENTRY,
    RECEIVE_SUMS,
    REFUSE_SUMS,
)
from attune.service.state.wire import Wire

_RECEIPT, _FORWARDED = b"\x04", b"\x05"
_UNDER_WAY = b"\x01"
_UNCLAIMED = b"-"
_TOGETHER = 16
_MARKS = 1024
"""Fractions of a millisecond that can be told apart in an index of decisions, whose times have 41 of the 53 bits of a double."""


@dataclass(frozen=True, slots=True)
class Merged:
    """What a merge did: whether now or before, and how many comparisons and decisions this call moved."""

    result: Literal["applied", "duplicate"]
    comparisons: int
    decisions: int


def merge_digest(source: UserKey, event_id: str) -> bytes:
    """Returns the 12 bytes by which a merge of `source` is known; as with comparisons, two users may have events of one id.

    Raises:
        ValueError: no event can have this id.
    """
    return event_digest(f"{source.tag}:{checked_event_id(event_id)}")


class PartedKey(UserKey):
    """Where what was learned of a user lies aside."""

    @property
    def base(self) -> str:
        return f"{{t:{self.tenant}:u:{self.tag}}}:parted"


class Merging:
    """Merges users through a wire.

    Args:
        wire: to Redis.
        writes: through it.
        replies: reads records.
        decisions: of both users.
        ttl_ms: life of what is received.
        mark_ms: how long what began before a merge is refused, and how long marks outlive a deletion.
        max_log: entries of a log.
    """

    def __init__(
        self, wire: Wire, writes: Durable, replies: Replies, decisions: KeptDecisions, *, ttl_ms: int, mark_ms: int, max_log: int
    ) -> None:
        self._wire = wire
        self._writes = writes
        self._replies = replies
        self._decisions = decisions
        self._ttl_ms, self._mark_ms, self._max_log = ttl_ms, mark_ms, max_log

    async def merge(self, source: UserKey, target: UserKey, event_id: str) -> Merged:
        """See `Store.merge_users`."""
        if source.tenant != target.tenant or source.tag == target.tag:
            raise ValueError("two users are merged that are different ones of one tenant")
        event, aside = merge_digest(source, event_id), PartedKey(source.tenant, source.tag)
        claim = event + target.raw_tag
        era = await self._read("GET", target.deleted) or b""  # a deletion of the target from here on refuses what is still to be moved
        receipt = any([await self._read("HEXISTS", name, _RECEIPT + event) for name in (target.events, target.moved)])
        if receipt and await self._read("GET", aside.base) != claim:
            # Made before, and nothing waits: what came of the source since is another merge's, and would be lost in this one.
            return Merged("duplicate", 0, 0)
        outcome = await self._part(source, aside, claim)
        if outcome == b"other":
            raise EventConflict("this user is being merged under another event id or into another user; send that request again first")
        if outcome == b"done":
            return Merged("duplicate", 0, 0)
        try:
            decisions = await self._move_decisions(source, target, era)
            moved = await self._receive(aside, target, event, era) if outcome == b"parted" else 0
        except UserDeleted:
            await self._change(aside.base, "", claim, _UNCLAIMED)
            raise
        if outcome == b"nothing":
            await self._change(source.moved, _RECEIPT + claim, b"", b"1")
        return Merged("duplicate" if receipt else "applied", moved, decisions)

    async def end(self, source: UserKey) -> tuple[int, int]:
        """Before `source` is deleted: what lies aside goes, once whoever was to have it has it whole, or not at all.

        Returns how many keys went, and how many comparisons that nobody has.
        """
        aside, keys, comparisons = PartedKey(source.tenant, source.tag), 0, 0
        while claim := await self._read("GET", aside.base, operation="find_merges"):
            event, tag = claim[:EVENT_BYTES], claim[EVENT_BYTES:]
            if tag:
                target = key_with(source.tenant, tag)
                refused, arguments = [target.events, target.moved], [event, self._mark_ms]
                await self._writes.write("merge_users", lambda: self._wire.script(REFUSE_SUMS, refused, arguments))  # noqa: B023 - awaited here
                gone = await self._receive_rest(aside, target, event)
            else:
                gone = await self._drop(aside, claim)
            keys, comparisons = keys + gone[0], comparisons + gone[1]
        return keys, comparisons

    async def finish(self, target: UserKey) -> None:
        """Moves the rest of the log of everybody who is being merged into `target`, also where that was broken off."""
        cursor = b"0"
        while True:
            cursor, fields = await self._read("HSCAN", target.events, cursor, "MATCH", _RECEIPT + b"*", "COUNT", 1000)
            for field, tag in fields.items():
                if tag[TAG_BYTES:] == _UNDER_WAY:
                    source = key_with(target.tenant, tag[:TAG_BYTES])
                    await self._receive_rest(PartedKey(source.tenant, source.tag), target, field[len(_RECEIPT) :])
            if not int(cursor):
                return

    async def shorten_marks(self, target: UserKey) -> None:
        """Before `target` is deleted: what others moved to it is known there no longer than a deletion is remembered."""
        cursor = b"0"
        while True:
            marks = b"[" + _RECEIPT + _FORWARDED + b"]*"
            cursor, fields = await self._read("HSCAN", target.events, cursor, "MATCH", marks, "COUNT", 1000, operation="find_merges")
            for tag in fields.values():
                if len(tag) >= TAG_BYTES:
                    moved = key_with(target.tenant, tag[:TAG_BYTES]).moved
                    if await self._read("PTTL", moved) > self._mark_ms:
                        await self._write("PEXPIRE", moved, self._mark_ms)
            if not int(cursor):
                return

    async def _part(self, source: UserKey, aside: PartedKey, claim: bytes) -> bytes:
        """Returns what part_user did, once everybody whom the source is receiving has been received whole."""
        keys = [source.events, source.log, source.deleted, source.moved, aside.base, aside.events, aside.log]
        prefixes = [source.sum_prefix, source.replayed_prefix, aside.sum_prefix, aside.replayed_prefix]
        arguments = [claim, secrets.token_bytes(ERA_BYTES), self._mark_ms, *prefixes]
        while True:
            outcome, *receiving = await self._writes.write("merge_users", lambda: self._wire.script(PART_USER, keys, arguments))
            if outcome != b"receiving":
                return bytes(outcome)
            for event, tag in zip(receiving[::2], receiving[1::2], strict=True):
                other = key_with(source.tenant, tag)
                await self._receive_rest(PartedKey(other.tenant, other.tag), source, event)

    async def _drop(self, aside: PartedKey, claim: bytes) -> tuple[int, int]:
        """Returns how many keys and comparisons were removed."""
        keys, prefixes = [aside.base, aside.events, aside.log], [aside.sum_prefix, aside.replayed_prefix]
        _, *gone = await self._writes.write("merge_users", lambda: self._wire.script(DROP_PARTED, keys, [claim, *prefixes]))
        return (gone[0], gone[1]) if gone else (0, 0)

    async def _change(self, name: str, field: bytes | str, before: bytes, after: bytes) -> None:
        await self._writes.write("merge_users", lambda: self._wire.script(CHANGE_IF, [name], [field, before, after]))

    async def _receive(self, aside: PartedKey, target: UserKey, event: bytes, era: bytes) -> int:
        bases, records, moved = await bases_of(aside, self._read), list[Any](), 0
        for basis in bases:
            record = await self._read("GET", aside.sum(basis))
            if (read := self._replies.sum(aside, record)) is not None:
                moved = max(moved, read.count)
                records += [basis, seal_of(SUM, target) + self._replies.unseal(SUM, aside, record)]
        ids, receipts = await self._ids(aside)
        if await self._read("GET", aside.base) != event + target.raw_tag:
            return 0  # the same call, made beside this one, was faster, or the source was deleted; what was read may be half of it
        keys, prefixes = [target.events, target.deleted, target.log, target.moved], [target.sum_prefix, target.replayed_prefix]
        arguments = [seal_of(SUM, target), event, self._ttl_ms, *prefixes, ids, aside.raw_tag, receipts, b"=" + era, *records]
        outcome, *rest = await self._writes.write("merge_users", lambda: self._wire.script(RECEIVE_SUMS, keys, arguments))
        if outcome == b"deleted":
            raise _deleted()
        if outcome not in {b"applied", b"duplicate"}:
            raise self._replies.refused(outcome, rest, ", ".join(bases), None)
        await self._receive_rest(aside, target, event)
        return moved if outcome == b"applied" else 0

    async def _receive_rest(self, aside: PartedKey, target: UserKey, event: bytes) -> tuple[int, int]:
        """Moves the log of a user whose sums were received under this event, and takes note of it once nothing lies aside any more.

        Returns how many keys went, and how many comparisons that were not received.
        """
        receiving = aside.raw_tag + _UNDER_WAY
        under_way = await self._read("HGET", target.events, _RECEIPT + event) == receiving
        if under_way:
            await self._receive_log(aside, target, await bases_of(aside, self._read))
        keys, comparisons = await self._drop(aside, event + target.raw_tag)
        if under_way:
            await self._change(target.events, _RECEIPT + event, receiving, aside.raw_tag)
        return keys, 0 if under_way else comparisons

    async def _ids(self, aside: PartedKey) -> tuple[bytes, bytes]:
        """Returns every event of the user, and who was merged into them.

        Events are a hash and a value with a place in no log, 24 bytes each; the others the hash of a merge's event and a tag, 28 bytes.
        """
        cursor, found, receipts = b"0", dict[bytes, bytes](), dict[bytes, bytes]()
        while True:
            cursor, fields = await self._read("HSCAN", aside.events, cursor, "COUNT", 1000)
            for field, value in fields.items():
                if len(field) == EVENT_BYTES:
                    found[field] = EventValue.unpack(value).without_place()
                elif field[:1] in {_RECEIPT, _FORWARDED}:
                    receipts[field[1:]] = value
            if not int(cursor):
                return _joined(found), _joined(receipts)

    async def _receive_log(self, aside: PartedKey, target: UserKey, bases: list[str]) -> None:
        number = 1
        while True:
            keys, page = (aside.events, aside.log), (number, PAGE)
            first, _, *entries = await self._wire.run("merge_users", lambda: self._wire.script(READ_LOG, keys, page))  # noqa: B023 - awaited here
            if not entries:
                return
            numbers = range(first, first + len(entries))
            replayed = {basis: await replayed_under(aside, basis, numbers, self._read) for basis in bases}
            for at, entry in enumerate(entries):  # one after the other: the log keeps its order
                pairs = [part for basis in bases if (kept := replayed[basis][at]) is not None for part in (basis, kept)]
                await self._receive_entry(target, bases, entry, pairs)
            number = first + len(entries)

    async def _receive_entry(self, target: UserKey, bases: list[str], entry: bytes, pairs: list[Any]) -> None:
        try:
            read = unpack_entry(entry)
        except ValueError as error:
            raise self._replies.damaged(error) from error
        token = entry[1 + CHECK_BYTES : 1 + CHECK_BYTES + TOKEN_BYTES]
        keys = [target.events, target.log]
        arguments: list[Any] = [
            event_digest(read.event_id),
            target.raw_tag[:CHECK_BYTES],
            entry[:1],
            token,
            bases[read.basis],
            entry[ENTRY_HEAD:],
        ]
        arguments += [self._max_log, self._ttl_ms, target.replayed_prefix, target.sum_prefix, *pairs]
        await self._writes.write("merge_users", lambda: self._wire.script(RECEIVE_ENTRY, keys, arguments))

    async def _move_decisions(self, source: UserKey, target: UserKey, era: bytes) -> int:
        ids = [decision_id.decode("ascii") for decision_id in await self._read("ZRANGE", source.decisions, 0, -1)]
        moved = 0
        for start in range(0, len(ids), _TOGETHER):
            moved += sum(await asyncio.gather(*(self._move_decision(source, target, each, era) for each in ids[start : start + _TOGETHER])))
        return moved

    async def _move_decision(self, source: UserKey, target: UserKey, decision_id: str, era: bytes) -> bool:
        keys, moved, written = [source.decision(decision_id), source.decisions], False, False
        while not moved:  # answers may be handed in for it between reading and removing: then it is moved with them
            mark = [decision_id, (1 + secrets.randbelow(_MARKS - 1)) / _MARKS]
            found = await self._wire.run("merge_users", lambda: self._wire.script(MARK_DECISION, keys, mark))  # noqa: B023 - awaited here
            if not found:
                return False  # its pointer still names the source, whose deletion finds it by this index
            record, left_ms, score = found
            owners = await self._decisions.owners("merge_users", source.tenant, decision_id)
            if written and owners is not None and owners.now == source:
                return True  # it went over, and a merge the other way has brought it back since
            former = (*(owners.former if owners is not None else ()), source)
            body = self._replies.unseal(DECISION, source, record)
            if await self._decisions.keep(target, decision_id, body, left_ms / 1000, era=era, former=former) == b"deleted":
                raise _deleted()
            written = True
            arguments = [record, decision_id, score]
            outcome = await self._writes.write("merge_users", lambda: self._wire.script(DROP_DECISION, keys, arguments))  # noqa: B023 - awaited here
            moved = outcome == [b"dropped"]
        return True

    async def _read(self, *command: Any, operation: str = "merge_users") -> Any:
        return await self._wire.run(operation, lambda: self._wire.command(*command))

    async def _write(self, *command: Any) -> Any:
        return await self._writes.write("merge_users", lambda: self._wire.command(*command))


def _deleted() -> UserDeleted:
    return UserDeleted("the user who would be left was deleted during the merge; what was learned of the other waits for another one")


def _joined(fields: Mapping[bytes, bytes]) -> bytes:
    return b"".join(field + value for field, value in fields.items())
