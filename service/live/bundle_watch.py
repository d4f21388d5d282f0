"""Another bundle where the configured one lies: found by looking, and loaded as `POST /admin/reload` would, by every replica for itself.

    every few seconds ─> id of the bundle there ─> another than the one that serves ─> reload

A bundle that was refused is not tried again until another one is there. What serves goes on in every case.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from attune.service.errors import AttuneError, ReloadNotNow
from attune.service.observe.logs import get_logger
from attune.service.observe.metrics import Metrics

_log = get_logger(__name__)


class BundleWatch:
    """Looks for another bundle.

    Args:
        there: returns the id of the bundle at the configured place; runs in a thread, since a folder may be a network's.
        serving: returns the id of the bundle that serves.
        load: loads, checks and puts in place what is configured.
        every_s: between two looks, seconds.
        metrics: told how a reload ended.
    """

    def __init__(
        self, there: Callable[[], str], serving: Callable[[], str], load: Callable[[], Awaitable[object]], every_s: float, metrics: Metrics
    ) -> None:
        self._there = there
        self._serving = serving
        self._load = load
        self._every_s = every_s
        self._metrics = metrics
        self._refused = ""
        self._trouble = ""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to look, on the loop that runs."""
        self._task = asyncio.create_task(self._watch())

    async def aclose(self) -> None:
        """Ends it; a reload that has begun is left to whoever loads."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def look(self) -> None:
        """Looks once, and reloads where another bundle is there."""
        try:
            found = await asyncio.to_thread(self._there)
        except (AttuneError, OSError, ValueError) as error:
            if str(error) != self._trouble:  # said once, not every few seconds
                self._trouble = str(error)
                _log.warning("no bundle where it is looked for; what serves goes on serving", reason=self._trouble)
            return
        self._trouble = ""
        if found in {self._serving(), self._refused}:
            return
        try:
            await self._load()
        except ReloadNotNow as error:
            _log.info("another bundle is there and cannot be loaded yet", bundle=found, reason=error.detail)
            return  # the next look tries it, unless it serves by then
        except AttuneError as error:
            self._refused = found
            self._metrics.reloaded("refused")
            _log.error("another bundle was refused; what served goes on serving", bundle=found, reason=error.detail)
            return
        self._metrics.reloaded("loaded")

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            try:
                await self.look()
            except Exception as error:  # noqa: BLE001  a loop that ended would never look again, and nobody would be told
                _log.error("looking for another bundle failed", kind=type(error).__name__, exc_info=error)
