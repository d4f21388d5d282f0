"""What a process behind those that take requests has loaded, and gives back."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from attune.service.errors import BundleRefused
from attune.service.live.child_process import Loaded


class Bundles:
    """Loads when it is let, and notes what is closed."""

    def __init__(self) -> None:
        self.may_end = asyncio.Event()
        self.opened: list[str] = []
        self.closed: list[str] = []
        self.loaded: Loaded[str] = Loaded(self._close)

    async def open(self, name: str) -> str:
        self.opened.append(name)
        await self.may_end.wait()
        if name == "broken":
            raise BundleRefused("broken")
        return name

    async def _close(self, name: str) -> None:
        self.closed.append(name)


async def test_what_was_loaded_is_there_until_it_is_retired() -> None:
    bundles = Bundles()
    bundles.may_end.set()
    assert await bundles.loaded.load(1, partial(bundles.open, "one")) == "one"
    with pytest.raises(BundleRefused, match="broken"):
        await bundles.loaded.load(2, partial(bundles.open, "broken"))
    await bundles.loaded.retire(2)
    assert (bundles.loaded.there, bundles.closed) == ({1: "one"}, [])
    await bundles.loaded.retire(1)
    await bundles.loaded.retire(1)
    assert (bundles.loaded.there, bundles.closed) == ({}, ["one"])


async def test_what_is_retired_while_it_is_loaded_does_not_stay() -> None:
    bundles = Bundles()
    loading = asyncio.ensure_future(bundles.loaded.load(2, partial(bundles.open, "two")))
    await asyncio.sleep(0)
    await bundles.loaded.retire(2)
    bundles.may_end.set()
    with pytest.raises(BundleRefused, match="called off"):
        await loading
    assert (bundles.loaded.there, bundles.closed) == ({}, ["two"])


async def test_one_is_loaded_at_a_time_and_none_that_was_retired_before_its_turn() -> None:
    bundles = Bundles()
    names = ("one", "two", "three")
    loading = [asyncio.ensure_future(bundles.loaded.load(turn, partial(bundles.open, name))) for turn, name in enumerate(names, 1)]
    await asyncio.sleep(0)
    assert bundles.opened == ["one"]
    await bundles.loaded.retire(2)
    bundles.may_end.set()
    found = await asyncio.gather(*loading, return_exceptions=True)
    assert [isinstance(each, BundleRefused) for each in found] == [False, True, False]
    assert (bundles.opened, bundles.closed, sorted(bundles.loaded.there)) == (["one", "three"], [], [1, 3])
