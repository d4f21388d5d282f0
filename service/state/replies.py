"""What came back from Redis, looked at before anybody gets it: whose record it is, and whether it can be read.

A reply that is crossed with another caller's is betrayed by its seal; it is counted, logged without its content, and becomes
StoreUnavailable like everything else that a caller cannot mend.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import structlog

from attune.service.errors import StoreUnavailable
from attune.service.state.keys import SUM, UserKey, WrongUser, unseal
from attune.service.state.records import UserSum

_log = structlog.get_logger(__name__)


class RecordDamaged(StoreUnavailable):
    """A record of one user cannot be read; it stays as it is, and those of others can be."""


class Replies:
    """Reads records of users.

    Args:
        where: the server, as messages may name it.
        observe: told of every record that was refused, as `wrong-user` or `damaged`.
    """

    def __init__(self, where: str, observe: Callable[[str, float, bool], None]) -> None:
        self._where = where
        self._observe = observe

    def sum(self, key: UserKey, record: bytes | None) -> UserSum | None:
        """Returns the sum of a record; None of none.

        Raises:
            StoreUnavailable: it is of somebody else, or damaged.
        """
        if record is None:
            return None
        body = self.unseal(SUM, key, record)
        try:
            return UserSum.from_record(body)
        except ValueError as error:
            raise self.damaged(error) from error

    def unseal(self, kind: bytes, key: UserKey, record: bytes) -> bytes:
        """Returns the body of a record.

        Raises:
            StoreUnavailable: it is of somebody else or of another kind.
        """
        try:
            return unseal(kind, key, record)
        except WrongUser as error:
            raise self.wrong_user(error) from error

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Runs what reads records; what is wrong with one is raised as StoreUnavailable."""
        try:
            yield
        except WrongUser as error:
            raise self.wrong_user(error) from error
        except ValueError as error:
            raise self.damaged(error) from error

    def wrong_user(self, error: WrongUser) -> StoreUnavailable:
        """Returns the error to raise for a record of somebody else."""
        self._observe("wrong-user", 0.0, False)
        _log.error("redis_wrong_user", where=self._where, detail=str(error))
        return StoreUnavailable(f"Redis at {self._where} gave a record that was not asked for; it was discarded")

    def damaged(self, error: ValueError) -> RecordDamaged:
        """Returns the error to raise for a record that cannot be read."""
        self._observe("damaged", 0.0, False)
        _log.error("redis_damaged_record", where=self._where, detail=str(error))
        return RecordDamaged(f"a record in Redis at {self._where} is damaged: {error}")

    def refused(self, outcome: bytes, rest: Sequence[Any], basis: str, size: int | None) -> Exception:
        """Returns the error to raise for what a script refused: evidence of another length, or a record of somebody else."""
        if outcome == b"shape":
            given = "the logged comparison another number" if size is None else f"the comparison {size}"
            return ValueError(f"the sum under basis {basis} holds {rest[0]} doubles of evidence, {given}")
        return self.wrong_user(WrongUser(f"a script answered {outcome!r}"))
