"""One answer for all who ask within a second, whatever becomes of those who asked first."""

from __future__ import annotations

import asyncio

from attune.service.observe.shared import Shared
from tests.clock import Clock


class Asked:
    """Counts how often it was asked, and answers once its gate is open."""

    def __init__(self) -> None:
        self.times = 0
        self.gate = asyncio.Event()
        self.fails = False

    async def __call__(self) -> int:
        self.times += 1
        await self.gate.wait()
        if self.fails:
            raise ConnectionError("nobody is there")
        return self.times


async def test_who_asks_at_once_or_within_a_second_shares_one_answer():
    asked, clock = Asked(), Clock()
    shared = Shared(asked, 1.0, clock)
    everyone = [asyncio.ensure_future(shared()) for _ in range(100)]
    asked.gate.set()
    assert await asyncio.gather(*everyone) == [1] * 100
    clock.now_s += 0.9
    assert await shared() == 1
    clock.now_s += 0.2
    assert (await shared(), asked.times) == (2, 2)


async def test_who_leaves_breaks_off_nobody_elses_asking():
    asked = Asked()
    shared = Shared(asked, 1.0, Clock())
    first, second = asyncio.ensure_future(shared()), asyncio.ensure_future(shared())
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    asked.gate.set()
    assert await second == 1


async def test_a_failure_is_told_to_all_who_shared_it_and_asked_again_afterwards():
    asked, clock = Asked(), Clock()
    asked.fails = True
    asked.gate.set()
    shared = Shared(asked, 1.0, clock)
    for told in await asyncio.gather(shared(), shared(), return_exceptions=True):
        assert isinstance(told, ConnectionError)
    asked.fails = False
    clock.now_s += 1.0
    assert await shared() == 2
