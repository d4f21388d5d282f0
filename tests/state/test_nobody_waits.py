"""What several may wait for and all have left fails without a word in the log: nobody is wronged, and the failure is counted."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from attune.service.state.redis_store import RedisStore
from tests.state.conftest import BASIS, comparison, key_of

Asked = Callable[[RedisStore], Awaitable[Any]]


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1", "redis+cluster://127.0.0.1:1"])
@pytest.mark.parametrize(
    "ask",
    [
        pytest.param(lambda store: store.add_comparison(key_of("tenant", "alice"), comparison()), id="a write"),
        pytest.param(lambda store: store.read(key_of("tenant", "alice"), BASIS), id="a read"),
        pytest.param(lambda store: store.read_members("tenant", BASIS), id="members"),
        pytest.param(lambda store: store.ping(), id="a command"),
    ],
)
@pytest.mark.parametrize("turns", range(1, 6))
async def test_a_failure_that_nobody_waits_for_is_not_logged_as_a_defect(url: str, ask: Asked, turns: int) -> None:
    told = list[dict[str, Any]]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    store = RedisStore(url, timeout_s=30.0, confirm=True)
    leaving = asyncio.ensure_future(ask(store))
    for _ in range(turns):
        await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    async with asyncio.timeout(60):
        await store.aclose()
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others)
    gc.collect()
    await asyncio.sleep(0)
    assert not told
