"""SIGHUP: the configured bundle and roster are loaded anew, as `POST /admin/reload` would, and what serves goes on if they are refused."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Literal

from attune.service.errors import AttuneError
from attune.service.observe.logs import get_logger

_log = get_logger(__name__)
_running: set[asyncio.Future[None]] = set()


def reloads_at_hangup() -> bool:
    """Whether SIGHUP asks for a reload: not in a terminal, where it says that the terminal is gone."""
    return not sys.stdin or sys.stdin.closed or not sys.stdin.isatty()


def begin_reload(load: Callable[[], Awaitable[object]], told: Callable[[Literal["loaded", "refused"]], None] = lambda _: None) -> None:
    """Starts a reload in the running loop; its end is logged, and told for the metrics.

    Args:
        load: loads, checks and puts in place what is configured.
        told: how it ended.
    """
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
