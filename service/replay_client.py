"""`attune replay`: asks a running Attune to learn users' logs anew, one bounded call after the other, until it is done.

    POST /admin/replay ─> {done, cursor, replayed, …} ─> the same with the cursor ─> …

Nothing is kept here: broken off, the next run goes through the users again and finds done what is done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx

from attune.client.failures import failure_of, why_silent
from attune.command_line import key_hint
from attune.models.seam.counts import counted

MAX_WAITS = 20
"""Times in a row that a busy server is waited for."""

CALL_S = 600.0


class ReplayFailed(Exception):
    """Attune could not be reached, or refused.

    Args:
        said: why.
        goes_on: whether the same command, given again, goes on with what is left; after a refusal something is to be changed first.
    """

    def __init__(self, said: str, *, goes_on: bool = True) -> None:
        super().__init__(said)
        self.goes_on = goes_on


@dataclass(frozen=True, slots=True)
class Replayed:
    """Everything that was done so far."""

    basis: str = ""
    done: bool = False
    users: int = 0
    replayed: int = 0
    without_texts: int = 0
    unusable: int = 0
    damaged: int = 0

    def __str__(self) -> str:
        text = f"{counted(self.replayed, 'comparison')} of {counted(self.users, 'user')} replayed under basis {self.basis}"
        text = f"done: {text}" if self.done else text
        left = {"without texts": self.without_texts, "unusable": self.unusable}
        parts = [text, *(f"{count:,} {what}" for what, count in left.items() if count)]
        if self.damaged:
            parts.append(f"{counted(self.damaged, 'user')} with a damaged record, which the server's log names")
        return ", ".join(parts)

    def plus(self, answer: dict[str, Any]) -> Replayed:
        """Returns what is done with this answer of `/admin/replay` too."""
        counts = {name: getattr(self, name) + int(answer[name]) for name in ("users", "replayed", "without_texts", "unusable")}
        counts["damaged"] = self.damaged + int(answer.get("damaged", 0))  # older servers stop at one
        return Replayed(basis=answer["basis"], done=answer["done"], **counts)


def replay_logs(
    url: str,
    *,
    tenant: str | None,
    user: str | None,
    key: str,
    client: httpx.Client | None = None,
    wait: Callable[[float], None] = time.sleep,
) -> Iterator[Replayed]:
    """Yields what is done so far after every call, and last with `done`.

    Args:
        url: where Attune listens.
        tenant: whose users; None for those of every tenant.
        user: the one user, of `tenant` or of the key's own; None for all.
        key: an API key with the admin right; empty sends none.
        client: in place of one of its own; left open.
        wait: sleeps for a number of seconds while the server is busy.

    Raises:
        ReplayFailed: Attune cannot be reached, refuses, or stays busy.
    """
    total, cursor, waits = Replayed(), None, 0
    own = client or httpx.Client(base_url=url, timeout=CALL_S)
    headers = {"authorization": f"Bearer {key}"} if key else {}
    try:
        while not total.done:
            try:
                answer = own.post("/admin/replay", json={"tenant": tenant, "user": user, "cursor": cursor}, headers=headers)
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                raise ReplayFailed(f"{url} did not answer: {why_silent(error)}") from error
            if answer.status_code in {429, 503} and waits < MAX_WAITS:
                waits += 1
                wait(_asked_wait_s(answer.headers.get("retry-after", "")))
                continue
            if answer.status_code != httpx.codes.OK:
                said = failure_of(answer.status_code, answer.content, answer.headers)
                raise ReplayFailed(f"{url} answered {said}{key_hint(said.status)}", goes_on=said.status >= 500 or said.status == 429)
            try:
                told = answer.json()
                waits, cursor, total = 0, told["cursor"], total.plus(told)
            except (ValueError, KeyError, TypeError) as error:
                raise ReplayFailed(f"{url} answered, and not what was replayed; is it an Attune?", goes_on=False) from error
            yield total
    finally:
        if client is None:
            own.close()


def _asked_wait_s(retry_after: str) -> float:
    """Returns how long a busy server asks to be left alone, seconds; a date, as a proxy may say it, and nothing at all count as one."""
    return min(60.0, float(retry_after)) if retry_after.isdecimal() and retry_after.isascii() else 1.0
