"""What is known of the parts: each is tried in the background, and whoever asks reads the last verdict and its age.

    canary through the scorer's worker ─┐
    a tiny write through the store ─────┼─> Health ─> /readyz, /livez, attune_ready, the line that says ready
    the members' own verdicts ──────────┘

Asking costs nothing and calls nobody. Each part has a loop of its own, so that one which hangs makes no other verdict old.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

from attune.service.errors import AttuneError, DeadlineExceeded, NotReady
from attune.service.live.runtime import Live, Serving
from attune.service.observe.logs import get_logger
from attune.service.observe.metrics import Metrics
from attune.service.state.store import Store
from attune.service.state.store_memory import StoreMemory

_log = get_logger(__name__)
Part = Literal["phase", "scorer", "store", "members"]
PARTS: tuple[Part, ...] = get_args(Part)

EVERY_S = 5.0
LIMIT_S = 5.0
MEMBERS_S = 4.0
"""A member whose last verdict is younger is not asked again: one round of the loop, or what traffic found."""

STALE_S = 30.0
"""A busy scorer may keep the canary waiting; one that has answered none for so long is stuck."""

FIRST_S = 2.0
"""How long the start waits for first verdicts; what has none by then counts as able until it is known."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the last try of a part found.

    Attributes:
        trouble: why it cannot serve; empty if it can.
        at_s: when that was found, on the clock of `Health`.
        canary_s: time of the scorer on the canary.
    """

    trouble: str
    at_s: float
    canary_s: float = 0.0


class Health:
    """Tries the parts and keeps what it found.

    Args:
        live: what serves now.
        store_matters: whether a store that answers and refuses writes makes the process unready. One that is away does not: it is away for
            every replica, and scoring and generating go on from the prior.
        clock: monotonic seconds.
    """

    def __init__(self, live: Live, *, store_matters: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._live = live
        self._store_matters = store_matters
        self._clock = clock
        self._scorer: tuple[Serving, Verdict] | None = None
        self._store: Verdict | None = None
        self._store_refuses = False
        self._store_tells_memory = True
        self._store_doubts: tuple[str, ...] = ()
        self._tasks: list[asyncio.Task[None]] = []
        self._told = ""

    # --- asking: nothing here awaits --------------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        """False while the scorer is dead."""
        return self._live.serving is None or self._live.serving.batcher.alive

    def troubles(self) -> dict[Part, str]:
        """Returns why requests should go elsewhere, by part; empty where they should come."""
        serving, found = self._live.serving, dict[Part, str]()
        if self._live.phase != "ready" or serving is None:
            found["phase"] = f"the service is {self._live.phase}"
        if serving is None:
            return found
        if trouble := self._scorer_trouble(serving):
            found["scorer"] = trouble
        if self._store_matters and self._store_refuses and self._store is not None:
            found["store"] = f"the store {self._store.trouble}"
        names, unable = serving.bundle.portfolio.names, self._unable(serving)
        if names and all(name in unable for name in names):
            found["members"] = "no member can serve: " + "; ".join(f"{name}: {reason}" for name, reason in unable.items())
        return found

    @property
    def ready(self) -> bool:
        """Whether requests should be sent here."""
        return not self.troubles()

    def part_is_well(self, part: Part) -> bool:
        """Returns whether this part is well; the store also where its trouble does not make the process unready."""
        if part == "store":
            return self._store is None or not self._store.trouble
        return part not in self.troubles()

    def missing(self) -> list[str]:
        """Returns what does not work, as words for the line that says ready."""
        serving, found = self._live.serving, []
        if self._store is not None and self._store.trouble:
            found.append(f"store: {self._store.trouble}")
        if serving is not None:
            found += [f"member {name}: {reason}" for name, reason in self._unable(serving).items()]
        return found

    def report(self) -> dict[str, object]:
        """Returns the last verdicts with their ages, seconds.

        Raises:
            NotReady: requests should go elsewhere; the same verdicts are members of its document.
        """
        serving, now_s = self._live.serving, self._clock()
        parts: dict[str, object] = {"phase": self._live.phase}
        if serving is not None:
            verdict = self._scorer[1] if self._scorer is not None and self._scorer[0] is serving else None
            parts["bundle"] = serving.bundle.id
            parts["scorer"] = {
                "provider": serving.provider,
                "state": self._scorer_trouble(serving) or "ok",
                "canary_ms": None if verdict is None else round(1000 * verdict.canary_s, 3),
                "age_s": None if verdict is None else round(now_s - verdict.at_s, 1),
            }
            unable = self._unable(serving)
            parts["members"] = {name: unable.get(name, "ok") for name in serving.bundle.portfolio.names}
            ages_s = [verdict.checked_s for verdict in serving.roster.verdicts().values() if verdict.checked_s is not None]
            parts["members_age_s"] = round(max(ages_s), 1) if ages_s else None
        parts["store"] = "not tried yet" if self._store is None else self._store.trouble or "ok"
        parts["store_doubts"] = list(self._store_doubts)
        parts["store_age_s"] = None if self._store is None else round(now_s - self._store.at_s, 1)
        if troubles := self.troubles():
            raise NotReady("; ".join(troubles.values()), parts)
        return {"status": "ready", **parts}

    def _scorer_trouble(self, serving: Serving) -> str:
        if not serving.batcher.alive:
            return "the scorer has died and must be started again"
        if self._scorer is None or self._scorer[0] is not serving:  # fresh: its probes have just passed
            return ""
        verdict = self._scorer[1]
        age_s = self._clock() - verdict.at_s
        return verdict.trouble or (f"the scorer has not answered its canary for {age_s:.0f} s" if age_s > STALE_S else "")

    def _unable(self, serving: Serving) -> Mapping[str, str]:
        return {name: verdict.detail for name, verdict in serving.roster.verdicts().items() if not verdict.ok}

    # --- finding out ------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Starts the loops; returns once each part was tried, or after `FIRST_S`."""
        try_members = partial(self.try_members, older_than_s=MEMBERS_S)
        tries: tuple[Callable[[], Awaitable[None]], ...] = (self.try_scorer, self.try_store, try_members)
        firsts = [asyncio.Event() for _ in tries]
        self._tasks = [asyncio.ensure_future(self._loop(attempt, first)) for attempt, first in zip(tries, firsts, strict=True)]
        try:
            async with asyncio.timeout(FIRST_S):
                for first in firsts:
                    await first.wait()
        except TimeoutError:
            pass

    async def aclose(self) -> None:
        """Ends the loops."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _loop(self, attempt: Callable[[], Awaitable[None]], first: asyncio.Event) -> None:
        while True:
            try:
                await attempt()
            except Exception as error:  # noqa: BLE001  a loop that ended would leave a verdict that never changes again
                _log.error("a health check failed", kind=type(error).__name__, exc_info=error)
            first.set()
            self._tell()
            await asyncio.sleep(EVERY_S)

    def _tell(self) -> None:
        """Writes a line where the verdict changed, so that probes need none of their own."""
        told = "; ".join(self.troubles().values()) if self._live.phase == "ready" else self._told
        if told != self._told:
            if told:
                _log.warning("not ready", reason=told)
            else:
                _log.info("ready again")
            self._told = told

    async def try_scorer(self) -> None:
        """Sends the canary through the worker."""
        serving = self._live.serving
        if serving is None:
            return
        try:
            canary_s = await serving.batcher.canary(LIMIT_S)
        except DeadlineExceeded:  # busy: the verdict before grows old, and is stale after a while
            if self._scorer is None or self._scorer[0] is not serving:
                self._scorer = (serving, Verdict("", self._clock()))
        except AttuneError as error:
            self._scorer = (serving, Verdict(error.detail, self._clock()))
        else:
            self._scorer = (serving, Verdict("", self._clock(), canary_s))

    async def try_store(self) -> None:
        """Writes to the store, and reads how much memory it has."""
        runtime = self._live.runtime
        if runtime is None:
            return
        store = runtime.store
        trouble = await _trouble(store.check_writes)
        away = await _trouble(store.ping) if trouble else ""
        if trouble and not away:  # one write that came late on a busy machine is no refusal: who refuses does it again
            trouble = await _trouble(store.check_writes)
        self._store = Verdict(f"unavailable: {away}" if away else f"refuses writes: {trouble}" if trouble else "", self._clock())
        self._store_refuses = bool(trouble) and not away
        if away:
            runtime.metrics.store_holds(None, None)
        else:
            self._look_at_memory(await _memory_of(store), runtime.metrics)

    def _look_at_memory(self, memory: StoreMemory | None, metrics: Metrics) -> None:
        """Reports the memory of a store that answers, None where it does not tell; the log has what is new of it."""
        if memory is None:
            metrics.store_holds(None, None)
            if self._store_tells_memory:
                _log.info("the store does not tell its memory", reason="INFO memory was refused, or not answered")
        else:
            metrics.store_holds(memory.used_bytes, memory.limit_bytes)
            for doubt in memory.doubts:
                if doubt not in self._store_doubts:
                    _log.warning("the store may lose what it acknowledged", reason=doubt)
            self._store_doubts = memory.doubts
        self._store_tells_memory = memory is not None

    async def try_members(self, *, older_than_s: float = 0.0) -> None:
        """Asks the members of which nothing has been found for so long, by traffic or by the last round."""
        serving = self._live.serving
        if serving is not None:
            await serving.roster.check(older_than_s=older_than_s)


async def _memory_of(store: Store) -> StoreMemory | None:
    """Returns the store's memory; None where it does not tell or does not answer, which is counted with its operations."""
    try:
        async with asyncio.timeout(LIMIT_S):
            return await store.memory()
    except (AttuneError, TimeoutError):
        return None


async def _trouble(attempt: Callable[[], Awaitable[None]]) -> str:
    """Returns why an attempt failed; empty if it did not."""
    try:
        async with asyncio.timeout(LIMIT_S):
            await attempt()
    except AttuneError as error:
        return error.detail
    except TimeoutError:
        return f"no answer within {LIMIT_S:g} s"
    return ""
