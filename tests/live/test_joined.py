"""A process that takes requests, as its parent tells it which scorers' processes are there."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from attune.service.errors import BundleRefused
from attune.service.live.control import Control
from attune.service.live.joined import Joined
from attune.service.live.process_plan import Child, load_into_all
from attune.service.observe.metrics import Metrics
from tests.batching.serving import until


async def test_a_scorer_that_listens_and_has_not_loaded_yet_is_asked_only_once_the_parent_tells_of_it(tmp_path: Path) -> None:
    arrived = [0, 0]
    sockets = [str(tmp_path / "scorer"), str(tmp_path / "scorer-1")]

    def listening(index: int) -> Any:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            arrived[index] += 1
            await reader.read()
            writer.close()

        return accept

    async def parent(what: str, _: Mapping[str, Any]) -> Mapping[str, Any]:
        assert what == "hello"
        return {"path": "bundle", "sockets": sockets, "scorers": [1]}

    async with AsyncExitStack() as stack:
        for index, path in enumerate(sockets):
            stack.callback((await asyncio.start_unix_server(listening(index), path)).close)
        lines: list[Control] = []

        def line() -> Control:
            lines.append(Control(parent, lambda _: None))
            return lines[-1]

        stack.callback((await asyncio.get_running_loop().create_unix_server(line, str(tmp_path / "control"))).close)
        joined = Joined(str(tmp_path / "control"), 0, Metrics())
        assert await joined.connect() == Path("bundle")
        await until(lambda: arrived[1] == 1)
        assert arrived == [0, 1]
        await lines[0].ask("scorer", deadline_s=60.0, index=0)
        await until(lambda: arrived[0] == 1)
        await lines[0].ask("scorer", deadline_s=60.0, index=1)  # it was connected already
        assert arrived == [1, 1]
        for link in joined._links:
            link.close()


class Loading:
    """The line to a scorer's process that loads whatever it is asked to."""

    def __init__(self, provider: str) -> None:
        self.provider = provider
        self.budgets: list[int] = []

    async def ask(self, _: str, *, budget_tokens: int, **_rest: Any) -> Mapping[str, Any]:
        self.budgets.append(budget_tokens)
        return {"provider": self.provider, "budget_tokens": budget_tokens or 4096, "layout": []}


async def load(*lines: Any) -> Mapping[str, Any]:
    return await load_into_all([Child("scorer", index, control=line) for index, line in enumerate(lines)], 1, Path("bundle"))


async def test_the_first_scorer_measures_the_budget_and_the_others_take_it() -> None:
    lines = [Loading("CUDA"), Loading("CUDA"), Loading("CUDA")]
    assert (await load(*lines))["budget_tokens"] == 4096
    assert [line.budgets for line in lines] == [[0], [4096], [4096]]


@pytest.mark.parametrize(
    ("second", "told"),
    [(Loading("CPU"), "process 1 would run the bundle on CPU, and not on CUDA"), (None, "process 1 has ended and is being started again")],
)
async def test_a_scorer_that_would_compute_elsewhere_or_is_away_is_refused(second: Any, told: str) -> None:
    with pytest.raises(BundleRefused, match=told):
        await load(Loading("CUDA"), second)
