"""The decisions of users in Redis: a sealed record each, listed under its user, and a pointer from its id to that user.

Whoever writes a record says under which condition; what is over the limit of a user goes, oldest first. What a record means is not
known here.
"""

from __future__ import annotations

from collections.abc import Sequence

from attune.service.errors import ExpiredCandidate, UnknownDecision
from attune.service.state.durable import Durable
from attune.service.state.keys import (
    DECISION,
    LAST,
    DecisionPlace,
    Owners,
    UserKey,
    WrongUser,
    asked_era,
    is_name,
    pack_pointer,
    pointer_key,
    seal_of,
    unpack_pointer,
)
from attune.service.state.records import Limits
from attune.service.state.replies import Replies
from attune.service.state.scripts import WRITE_DECISION
from attune.service.state.wire import Wire


class KeptDecisions:
    """Decisions of all users.

    Args:
        wire: to Redis.
        writes: through it.
        replies: reads records.
        limits: bounds per user.
    """

    def __init__(self, wire: Wire, writes: Durable, replies: Replies, limits: Limits) -> None:
        self._wire = wire
        self._writes = writes
        self._replies = replies
        self._limits = limits

    async def read(self, tenant: str, decision_id: str) -> tuple[str, bytes]:
        """See `Store.read_decision`."""
        owners = await self.owners("read_decision", tenant, decision_id)
        if owners is None:
            raise UnknownDecision(f"no decision {decision_id[:64]!r} is known")
        key = owners.now
        record = await self._wire.run("read_decision", lambda: self._wire.command("GET", key.decision(decision_id)))
        if record is None:
            raise ExpiredCandidate(f"the record of decision {decision_id} has expired")
        return key.tag, self._replies.unseal(DECISION, key, record)

    async def locate(self, key: UserKey, decision_id: str) -> DecisionPlace:
        """See `Store.locate_decision`."""
        owners = await self.owners("locate_decision", key.tenant, decision_id)
        if owners is None:
            return "unknown"
        if owners.now != key:
            return "moved" if key in owners.former else "foreign"
        live = await self._wire.run("locate_decision", lambda: self._wire.command("EXISTS", key.decision(decision_id)))
        return "live" if live else "expired"

    async def owners(self, operation: str, tenant: str, decision_id: str) -> Owners | None:
        """Returns to whom a decision belongs and belonged, read in the name of an operation; None if nobody knows it."""
        if not is_name(decision_id):
            return None
        pointer = await self._wire.run(operation, lambda: self._wire.command("GET", pointer_key(tenant, decision_id)))
        if pointer is None:
            return None
        try:
            return unpack_pointer(tenant, decision_id, pointer)
        except WrongUser as error:
            raise self._replies.wrong_user(error) from error

    async def keep(
        self,
        key: UserKey,
        decision_id: str,
        record: bytes,
        ttl_s: float,
        served: str | None = None,
        *,
        condition: str | bytes = "",
        ask: bool = True,
        era: bytes | None = None,
        former: Sequence[UserKey] = (),
    ) -> bytes:
        """Returns what became of a record: `kept`, or `absent`, `deleted` or `changed`, of which the script tells the meaning.

        Args:
            key: whose decision; see `Store.write_decision` for what is not told here.
            decision_id: names it.
            record: opaque bytes.
            ttl_s: seconds.
            served: the last member.
            condition: empty for none, `XX` for any record that is there, or the sealed record that must be.
            ask: see `Durable.write`.
            era: what was read when the request began.
            former: whose it was before; where it is there already, what is known of them stays.
        """
        self._limits.check_decision(record, ttl_s)
        ttl_ms = round(1000 * ttl_s)
        last = b"" if served is None else seal_of(LAST, key) + served.encode("utf-8")
        keys = [key.decision(decision_id), key.decisions, key.last, key.deleted]
        arguments = [seal_of(DECISION, key) + record, decision_id, ttl_ms, self._limits.max_decisions, key.decision_prefix, last]
        arguments += [condition, asked_era(era)]
        pointer, value = pointer_key(key.tenant, decision_id), pack_pointer(key, decision_id, former)
        clustered = self._wire.clustered

        async def write() -> list[bytes]:
            if not clustered:
                return await self._wire.script(WRITE_DECISION, [*keys, pointer], [*arguments, value])
            if condition:
                return await self._wire.script(WRITE_DECISION, keys, arguments)
            await self._wire.command("SET", pointer, value, "PX", 2 * ttl_ms)
            outcome = await self._wire.script(WRITE_DECISION, keys, arguments)
            if outcome[0] == b"deleted":  # then the record is nowhere, or still where it was to be moved from
                if former:
                    await self._wire.command("SET", pointer, pack_pointer(former[-1], decision_id, former[:-1]), "PX", 2 * ttl_ms)
                else:
                    await self._wire.command("UNLINK", pointer)
            return outcome

        outcome, *over = await self._writes.write("write_decision", write, ask=ask)
        if over:
            await self._wire.run("trim_decisions", lambda: self.drop_pointers(key, key.decisions, over))
        return outcome

    async def drop_pointers(self, key: UserKey, index: str, ids: Sequence[bytes]) -> int:
        """Removes the pointers of these decisions, and only then the ids from the index that leads to them; returns how many there were."""
        pointers = [pointer_key(key.tenant, decision_id.decode("ascii")) for decision_id in ids]
        if self._wire.clustered:
            removed = [await self._wire.command("UNLINK", pointer) for pointer in pointers]
        else:
            removed = [await self._wire.command("UNLINK", *pointers)]
        await self._wire.command("ZREM", index, *ids)
        return int(sum(removed))
