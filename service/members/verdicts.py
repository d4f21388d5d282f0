"""What is known of each member without asking it now: the last verdict, kept by ordinary traffic and by a check in the background.

    traffic ── found ──────────────┐
    live.health ── check, now and then ─┴──> last verdict a member ── now() ──> /readyz, with its age

Whoever asks for verdicts costs nothing and waits for nobody. A member of which traffic has spoken since is not checked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from attune.service.errors import AttuneError
from attune.service.members.member import Member

AT_ONCE = 4
CHECK_LIMIT_S = 10.0


@dataclass(frozen=True, slots=True)
class MemberVerdict:
    """What was found last of one member.

    Args:
        ok: whether it could serve; true while nothing is known, for nothing speaks against it.
        detail: `ok`, `not checked yet`, or why it cannot, in one sentence.
        checked_s: seconds since that was found; None while nothing is known.
    """

    ok: bool
    detail: str
    checked_s: float | None


class Verdicts:
    """The last verdict of every member.

    Args:
        members: by id.
        clock: seconds that only grow.
        limit_s: for one check.
    """

    def __init__(self, members: Mapping[str, Member], clock: Callable[[], float], limit_s: float = CHECK_LIMIT_S) -> None:
        self._limit_s = limit_s
        self._members = members
        self._clock = clock
        self._found: dict[str, tuple[bool, str, float]] = {}

    def found(self, name: str, *, ok: bool, detail: str = "ok") -> None:
        """Takes note of what was found of a member just now."""
        self._found[name] = (ok, detail, self._clock())

    def now(self) -> Mapping[str, MemberVerdict]:
        """Returns the last verdict of every member, with its age."""
        return {name: self._of(name) for name in self._members}

    async def check(self, *, older_than_s: float = 0.0) -> Mapping[str, str]:
        """Asks the members whose verdict is older, a few at once; returns those that cannot serve, each with its reason."""
        places = asyncio.Semaphore(AT_ONCE)

        async def ask(name: str, member: Member) -> None:
            async with places:
                try:
                    async with asyncio.timeout(self._limit_s):
                        await member.check()
                except TimeoutError:
                    self.found(name, ok=False, detail=f"its check did not end within {self._limit_s:g} s")
                except AttuneError as error:
                    self.found(name, ok=False, detail=reason_of(name, error))
                else:
                    self.found(name, ok=True)

        async with asyncio.TaskGroup() as group:
            for name, member in self._members.items():
                age_s = self._of(name).checked_s
                if age_s is None or age_s >= older_than_s:
                    group.create_task(ask(name, member))
        return {name: verdict.detail for name, verdict in self.now().items() if not verdict.ok}

    def _of(self, name: str) -> MemberVerdict:
        if name not in self._found:
            return MemberVerdict(ok=True, detail="not checked yet", checked_s=None)
        ok, detail, at_s = self._found[name]
        return MemberVerdict(ok, detail, max(0.0, self._clock() - at_s))


def reason_of(name: str, error: AttuneError) -> str:
    """Returns why this member failed, without its name in front."""
    attempts = getattr(error, "attempts", {})
    return str(attempts.get(name, error.detail.removeprefix(f"member {name!r}: ")))
