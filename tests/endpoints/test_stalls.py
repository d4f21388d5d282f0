"""What the collector walks after a start, and how late the loop is."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable

from attune.service.observe.stalls import LoopWatch, settle_heap
from attune.service.settings import Settings
from tests.endpoints.conftest import Service, running
from tests.stores import FreshStore


async def test_after_a_start_a_full_collection_walks_few_objects(settings_of: Callable[..., Settings]):
    gc.unfreeze()  # what services of other tests have frozen is walked too, or there would be nothing to compare with
    before = len(gc.get_objects())
    async with running(settings_of(), FreshStore(), settle=settle_heap) as service:
        assert gc.get_freeze_count() > 50_000
        walked = len(gc.get_objects())
        assert walked < 0.1 * before
        await service.post("/admin/reload", {})
        assert len(gc.get_objects()) < 0.1 * before


async def test_what_a_reload_replaced_is_not_kept_by_the_frozen_heap():
    class Bundle:
        pass

    old = Bundle()
    old.__dict__["itself"] = old
    seen = weakref.ref(old)
    settle_heap()
    del old
    assert seen() is not None  # frozen, and a circle: nothing but a collection of the whole heap ends it
    settle_heap()
    assert seen() is None


async def test_a_loop_that_was_held_is_told_and_so_is_a_collection():
    lags, pauses, now_s, woke = [], [], 0.0, asyncio.Event()

    def lagged(seconds: float) -> None:
        lags.append(seconds)
        woke.set()

    watch = LoopWatch(lagged, lambda generation, seconds: pauses.append((generation, seconds)), lambda: now_s)
    watch.start()
    try:
        now_s = 5.0  # the clock goes on while nothing ran
        await woke.wait()
        gc.collect()
    finally:
        watch.stop()
    assert lags[0] == 4.9
    assert pauses[-1][0] == 2
    told = len(pauses)
    gc.collect()
    assert len(pauses) == told


async def test_lag_and_pauses_are_metrics(settings_of: Callable[..., Settings]):
    async with running(settings_of(), FreshStore()) as service:
        gc.collect()
        assert await service.metric("attune_gc_pause_seconds_count", generation="2") >= 1
        assert isinstance(service, Service)
