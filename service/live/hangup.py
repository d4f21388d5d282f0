"""SIGHUP: the configured bundle and roster are loaded anew, as `POST /admin/reload` would, and what serves goes on if they are refused.

One that comes while the first of them are still being loaded is answered once they serve.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Literal

from attune.service.errors import AttuneError
from attune.service.observe.logs import get_logger

_log = get_logger(__name__)
_running: set[asyncio.Future[None]] = set()
_early: set[int] = set()


def _reloads_at_hangup() -> bool:
    """Whether SIGHUP asks for a reload: not in a terminal, where it says that the terminal is gone."""
    return not sys.stdin or sys.stdin.closed or not sys.stdin.isatty()


def keep_hangups() -> None:
    """Has SIGHUP end nothing from here on: one that comes before `answer_hangups` is kept for it."""
    if _reloads_at_hangup():
        signal.signal(signal.SIGHUP, lambda number, _: _early.add(number))


def answer_hangups(load: Callable[[], Awaitable[object]], told: Callable[[Literal["loaded", "refused"]], None] = lambda _: None) -> None:
    """Has SIGHUP reload in the running loop, at once where one was kept; the end is logged, and told for the metrics.

    Args:
        load: loads, checks and puts in place what is configured.
        told: how it ended.
    """
    if not _reloads_at_hangup():
        return
    begin = partial(_begin, load, told)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, begin)
    if _early:
        _early.clear()
        begin()


def leave_hangups_to_parent() -> None:
    """Has SIGHUP do nothing in one of several processes: their parent tells it of a reload."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _begin(load: Callable[[], Awaitable[object]], told: Callable[[Literal["loaded", "refused"]], None]) -> None:
    task = asyncio.ensure_future(_reload(load, told))
    _running.add(task)
    task.add_done_callback(_running.discard)


async def _reload(load: Callable[[], Awaitable[object]], told: Callable[[Literal["loaded", "refused"]], None]) -> None:
    try:
        await load()
    except AttuneError as error:
        told("refused")
        _log.error("reload refused; what served goes on serving", reason=error.detail)
        return
    told("loaded")
    _log.info("reloaded at SIGHUP")
