"""Lines of the log on members that fail while others stand in for them, which no answer shows.

A member that is away fails at every request: the first failure has a line at once, and then there is one a minute at most, with how many
there were. The reasons are those that callers read, so no word of a conversation is among them.
"""

from __future__ import annotations

from collections.abc import Callable

from attune.service.members.member import OneMemberFailed
from attune.service.members.verdicts import reason_of
from attune.service.observe.logs import get_logger

_log = get_logger(__name__)
EVERY_S = 60.0


class FailureLines:
    """Told of each failure of a member.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._told_s: dict[str, float] = {}
        self._untold: dict[str, int] = {}

    def failed(self, name: str, error: OneMemberFailed) -> None:
        """Counts one; the line has the newest one's reason and the number since the line before."""
        self._untold[name] = self._untold.get(name, 0) + 1
        now_s = self._clock()
        if now_s - self._told_s.get(name, float("-inf")) >= EVERY_S:
            _log.warning("a member fails", member=name, reason=reason_of(name, error), since_last_line=self._untold.pop(name))
            self._told_s[name] = now_s
