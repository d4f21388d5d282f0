"""What is kept of a user, and the operations on it, whoever keeps it.

    usecases ── NewComparison ──> Store.add_comparison ──> UserSum        RedisStore (redis_store.py) keeps it
    usecases ── decision id ─> Store.read

A user is a sum: evidence vectors are added and subtracted, never recomputed, so events may arrive in any order, from any replica. This
layer does not know what an entry of the vector means; scaling, forgetting and quantisation happen in `models.seam.evidence`.
Alignment of epochs is the one exception, and it is an exact power of two.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from attune.service.state.durable import WriteHealth
from attune.service.state.keys import DecisionPlace, UserKey, user_tag
from attune.service.state.listing import ListedUser, ListedUsers
from attune.service.state.member_sums import MemberSum, Part
from attune.service.state.merging import Merged
from attune.service.state.records import (
    Exported,
    KnownEvent,
    LastMember,
    Limits,
    LoggedComparison,
    NewComparison,
    ReplayedEvidence,
    StoredDecision,
    StoredSum,
    TakenBack,
    UserSum,
    Vector,
)
from attune.service.state.store_memory import StoreMemory

__all__ = [
    "Added",
    "DecisionPlace",
    "Deleted",
    "Exported",
    "KnownEvent",
    "LastMember",
    "Limits",
    "ListedUser",
    "ListedUsers",
    "LoggedComparison",
    "MemberSum",
    "Merged",
    "NewComparison",
    "Observe",
    "Part",
    "Replayed",
    "ReplayedEvidence",
    "Store",
    "StoredDecision",
    "StoredSum",
    "TakenBack",
    "UserKey",
    "UserRead",
    "UserSum",
    "UsersPage",
    "WriteHealth",
    "user_tag",
]

Observe = Callable[[str, float, bool], None]
"""Told of every operation: its name, the seconds it took, whether it was answered. `wrong-user` and `damaged` count
records that were refused."""


@dataclass(frozen=True, slots=True)
class Added:
    """What `add_comparison` did, and the sum afterwards.

    `sum` is None only if the event is a duplicate first learned under another basis and the user has no state under this basis yet.
    """

    result: Literal["applied", "duplicate"]
    sum: UserSum | None


@dataclass(frozen=True, slots=True)
class UserRead:
    """A user as a request finds them.

    Attributes:
        sum: under the basis that was asked for; None if there is none: the user is at the prior.
        era: to be handed to the writes of the same request, so that a deletion in between refuses them.
        decisions: record by decision id.
        last: the member that served last, if that was asked for and is kept.
    """

    sum: UserSum | None
    era: bytes = b""
    decisions: Mapping[str, bytes] = field(default_factory=dict)
    last: str | None = None


Replayed = Literal["applied", "present", "gone"]
"""`present`: the sum had the comparison already; `gone`: it was taken back, or has left the log."""


@dataclass(frozen=True, slots=True)
class UsersPage:
    """Some users; `cursor` asks for the next ones, and is None after the last."""

    users: tuple[UserKey, ...]
    cursor: str | None


@dataclass(frozen=True, slots=True)
class Deleted:
    """What a deletion removed: keys of any kind, comparisons that the log still held, decision records; and whether one came before."""

    keys: int
    comparisons: int
    decisions: int
    deleted_before: bool = False


class Store(Protocol):
    """Everything the service asks of its state.

    Every operation may raise:
        Overloaded: all places at the store were taken for too long; nothing was sent.
        StoreUnavailable: Redis did not answer, or answered with a record of somebody else. A write may or may not have happened, and
            sending it again with the same id is safe.
    """

    async def read(self, key: UserKey, basis: str, *, decisions: Sequence[str] = (), last: bool = False) -> UserRead:
        """Returns what a request needs to know of a user; what is read in one turn of the event loop goes as one command.

        Args:
            key: whom.
            basis: under which the sum is asked for.
            decisions: ids; those of this user's whose records live come back.
            last: whether to read the member that served last.
        """
        ...

    async def write_decision(
        self,
        key: UserKey,
        decision_id: str,
        record: bytes,
        ttl_s: float,
        served: str | None = None,
        *,
        update: bool = False,
        instead_of: bytes | None = None,
        era: bytes | None = None,
    ) -> bool:
        """Keeps a decision record for `ttl_s`, and for twice as long the knowledge that it existed and whose it was.

        Args:
            key: whose decision.
            decision_id: written again, the record takes the place of the first.
            record: opaque bytes.
            ttl_s: seconds.
            served: the member to remember as the last one, likewise for twice `ttl_s`; None leaves what is remembered.
            update: whether to write only where the record is still there: it may have been deleted with its user meanwhile.
            instead_of: the record that was read, where no other may be replaced.
            era: what `read` said when the request began; a deletion since then refuses the record. None asks for nothing.

        Returns:
            Whether it is kept; False where it was refused, and then nothing was written.

        Raises:
            EventConflict: another record than `instead_of` is there, perhaps this one, sent before; nothing was written.
            ValueError: the record or `ttl_s` is out of bounds; nothing was written.
        """
        ...

    async def read_decision(self, tenant: str, decision_id: str) -> tuple[str, bytes]:
        """Returns the tag of the decision's user, and the record.

        Raises:
            UnknownDecision: no such decision was written for this tenant, or twice its time to live has passed.
            ExpiredCandidate: it was written, and its record has gone.
        """
        ...

    async def locate_decision(self, key: UserKey, decision_id: str) -> DecisionPlace:
        """Returns what became of a decision, as seen by this user; for the error path of feedback."""
        ...

    async def add_comparison(self, key: UserKey, comparison: NewComparison, *, era: bytes | None = None) -> Added:
        """Adds the comparison to the sum once, however often it is sent and however long the log is; atomic, one round trip.

        Args:
            key: whose comparison.
            comparison: what to add.
            era: what `read` said when the request began; a deletion since then refuses the comparison. None asks for nothing.

        Raises:
            UserDeleted: the user was deleted since the request began, or since the event was first sent; nothing changed.
            UserMerged: the user was merged into another one since the request began; nothing changed.
            EventConflict: the event id was used with another digest, or was taken back; nothing changed.
            ValueError: the stored evidence has another length, or the payload is over its limit; nothing changed.
        """
        ...

    async def find_event(self, key: UserKey, event_id: str) -> KnownEvent | None:
        """Returns what is known of an event of this user, whatever became of the decisions it named; None if it was never applied."""
        ...

    async def logged(self, key: UserKey, event_id: str, basis: str | None = None) -> LoggedComparison:
        """Returns a comparison as the log has it, or as it was replayed under `basis`, where it was.

        Raises:
            UnknownEvent: there is no such event, or it was taken back.
            ExpiredEvent: it was learned, and its log entry has gone.
        """
        ...

    async def take_back(self, key: UserKey, basis: str, event_id: str) -> UserSum | None:
        """Subtracts exactly what the event added, under every basis it was added to; atomic, one round trip.

        The event stays known as taken back, so that a late repeat of it is refused.

        Returns:
            The sum under `basis` afterwards; None if no comparison is left in it.

        Raises:
            UnknownEvent: there is no such event, or it was taken back before; nothing changed.
            ExpiredEvent: it was learned, and its log entry has gone; nothing changed.
        """
        ...

    async def users(self, tenant: str | None, cursor: str = "") -> UsersPage:
        """Returns some of the users that have a log, of one tenant or of all; each at least once over all pages.

        Users that come or go meanwhile may or may not be among them. No page can be large, and one may be empty.

        Raises:
            ValueError: `cursor` is not one that this store gave.
        """
        ...

    async def list_users(self, tenant: str, basis: str, after: str = "", limit: int = 100) -> ListedUsers:
        """Returns about `limit` users of a tenant with what was learned of them under `basis`; each at least once over all pages.

        Args:
            tenant: whose users.
            basis: under which they are counted.
            after: the cursor of the page before; empty for the first page.
            limit: 1 to 1000; a page may hold a few more, and fewer though others follow.

        Raises:
            ValueError: `after` is not a cursor that this store gave, or `limit` is out of bounds.
        """
        ...

    def to_replay(self, key: UserKey, basis: str) -> AsyncIterator[LoggedComparison]:
        """Yields the user's logged comparisons that are not in the sum under `basis`, oldest first; read in pages."""
        ...

    async def replay_comparison(self, key: UserKey, comparison: NewComparison) -> Replayed:
        """Adds a logged comparison, as it is worth under another basis, to the sum under that basis, once; atomic, one round trip.

        Its digest is not looked at: the event and its log entry stay as they are. Its payload is kept beside what is added, and must be
        of this request alone if there is one: it tells a repeat, after a lost answer, from what another request has replayed.

        Raises:
            ValueError: the stored evidence has another length; nothing changed.
        """
        ...

    def export(self, key: UserKey) -> AsyncIterator[Exported]:
        """Yields everything kept of a user, read in pages.

        That is sums, the log from its oldest entry, what was replayed of it, the member that served last, then decisions; and what lies
        aside for a merge that is not finished.
        """
        ...

    async def delete_user(self, key: UserKey) -> Deleted:
        """Removes everything kept of a user. If it raises, calling it again finishes the work.

        What stays for `Limits.tombstone_s` is a mark: a random number, and 12 bytes of the hash of each event id. It refuses what
        began before the deletion and what is sent again after it.
        """
        ...

    async def read_members(self, tenant: str, basis: str) -> Mapping[str, MemberSum]:
        """Returns what is known of the tenant's members under `basis`, by name, at most a second old in this process."""
        ...

    async def add_member(
        self, tenant: str, basis: str, member: str, vector: Vector, count: float, *, observed_s: float, event_id: str | None = None
    ) -> bool:
        """Adds `count` observations of a member, summed in `vector` `[E]`, to its sum and to that of their month; atomic.

        Args:
            tenant: whose member.
            basis: what the vector is relative to; each basis has sums of its own.
            member: its name.
            vector: sum of what was observed; any length, the same for every addition to one member under one basis.
            count: how many observations it sums; a weight need not be whole, and what is taken back is below 0.
            observed_s: when, Unix seconds: decides which month it counts in.
            event_id: an addition under an id is made once, for as long as the sums live; without one, every call adds.

        Returns:
            Whether it was added; False for an event that was added before.

        Raises:
            ValueError: the stored vector has another length, or an argument is out of bounds; nothing changed.
        """
        ...

    async def merge_users(self, source: UserKey, target: UserKey, event_id: str) -> Merged:
        """Adds everything that was learned of `source` to `target`, moves log and decisions, and leaves `source` at the prior.

        Every step is atomic and is made once; if it raises or is broken off, the same call goes on with the rest. What was learned of
        `source` stays known there as moved: its repeat is a duplicate, for either user, for as long as that user would have lived.

        Args:
            source: who is not to be any more, as after a login.
            target: who they are; another user of the same tenant.
            event_id: of the merge; repeated for these two, it changes nothing.

        Raises:
            EventConflict: `source` is being merged under another event id or into another user.
            UserDeleted: `target` was deleted since this began; what was not moved yet stays aside for another merge.
            ValueError: they are no two users of one tenant, or their sums have different lengths.
        """
        ...

    @property
    def writes(self) -> WriteHealth | None:
        """What became of the last write of this process; None before the first."""
        ...

    async def check_writes(self) -> None:
        """Returns when a small write was acknowledged, made as every operation makes them; `writes` tells it afterwards."""
        ...

    async def ping(self) -> None:
        """Returns when the store answers."""
        ...

    async def memory(self) -> StoreMemory | None:
        """Returns how much memory the store has and may have; None where its server does not tell."""
        ...

    async def aclose(self) -> None:
        """Waits for commands under way, then closes every connection; afterwards every operation raises StoreUnavailable."""
        ...
