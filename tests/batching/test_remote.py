"""A batcher over a socket: the rows, refusals, deadlines and cancellations of the one behind it, and an end that everybody hears of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attune.models.seam.text import Encoded
from attune.service.batching.batcher import Batcher
from attune.service.batching.frames import RowLayout, pack_submit, unpack_submit
from attune.service.batching.remote import RemoteBatcher, ScorerLink
from attune.service.batching.session import ScorerSession
from attune.service.errors import BundleRefused, DeadlineExceeded, NotReady, Overloaded, ScorerFailed, TooLarge
from attune.service.framing import FrameKind, Frames, frame, pack_error, unpack_error
from attune.service.live.opened_scorer import RefusedForSetting, SharedScorer, TableScorer
from attune.service.live.scorer_process import RequestsDoor
from tests.batching.scorers import NAN_ID, GatedScorer, text, texts
from tests.batching.serving import LONG_S, serving, settle, until

LAYOUT = RowLayout(("toy_rewards", "pooled"), ((2,), (3,)))


class FlatScorer(GatedScorer):
    """Gives the outputs of a text one after the other, as the scorer's process has them."""

    def run(self, items: Sequence[Encoded]) -> list[Any]:  # type: ignore[override]
        return [np.concatenate([row["toy_rewards"], [7, 8, 9]]).astype(np.float32) for row in super().run(items)]


class Pair:
    """Both ends in one loop: the batcher behind a real Unix socket, and what sees it from the other side."""

    def __init__(self, batcher: Batcher, scorer: GatedScorer, remote: RemoteBatcher, link: ScorerLink, server: asyncio.Server) -> None:
        self.batcher, self.scorer, self.remote, self.link, self.server = batcher, scorer, remote, link, server
        self.opened = SharedScorer(batcher, "toy", 400, LAYOUT)

    def scorer_of(self, generation: int) -> SharedScorer:
        assert generation == 7
        return self.opened


class Behind:
    """What `RequestsDoor` asks of its process."""

    def __init__(self) -> None:
        self.opened: SharedScorer | None = None

    def scorer(self, generation: int) -> SharedScorer:
        if generation != 7 or self.opened is None:
            raise NotReady("the scorer's process has not loaded this bundle yet")
        return self.opened

    async def canary(self, generation: int, deadline_s: float) -> float:
        return await self.scorer(generation).batcher.canary(deadline_s)


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    scorer, behind, link = FlatScorer(refused=frozenset({77})), Behind(), ScorerLink()
    async with serving(scorer, max_items=8) as batcher:
        behind.opened = SharedScorer(batcher, "toy", 400, LAYOUT)
        server = await asyncio.get_running_loop().create_unix_server(partial(RequestsDoor, behind), str(tmp_path / "s"))  # type: ignore[arg-type]
        await link.connect(str(tmp_path / "s"))
        closed: list[int] = []

        async def note() -> None:
            closed.append(7)

        remote = RemoteBatcher(link, generation=7, layout=LAYOUT, max_text_tokens=400, closed=note)
        yield Pair(batcher, scorer, remote, link, server)
        await remote.aclose()
        await remote.aclose()
        assert closed == [7]
        link.close()
        server.close()


def submit(pair: Pair, items: list[Encoded], deadline_s: float = LONG_S) -> asyncio.Task[Any]:
    return asyncio.ensure_future(pair.remote.submit(items, deadline_s))


async def test_rows_come_back_in_order_with_their_times(pair: Pair) -> None:
    pair.scorer.release(9)
    found = await submit(pair, texts(3, 1, 5))
    assert [row["toy_rewards"].tolist() for row in found.rows] == [[3, 3], [2, 1], [15, 5]]
    assert found.rows[0]["toy_rewards"].dtype == np.float32
    assert found.queue_s >= 0 < found.inference_s
    with pytest.raises(ValueError, match="read-only"):
        found.rows[0]["toy_rewards"][0] = 1
    assert pair.remote.drain_tokens_per_s == pair.batcher.drain_tokens_per_s > 0


async def test_the_pooled_vector_comes_with_a_prompts_row_and_with_no_answers(pair: Pair) -> None:
    pair.scorer.release(9)
    prompt = Encoded((4, 5), 0, 2, of_prompt=True)
    rows = (await submit(pair, [text(1, 2), prompt, text(3, 4, 5), prompt])).rows
    assert [row["toy_rewards"].tolist() for row in rows] == [[3, 2], [9, 2], [12, 3], [9, 2]]
    assert [row["pooled"].tolist() if "pooled" in row else None for row in rows] == [None, [7, 8, 9], None, [7, 8, 9]]


@given(cuts=st.lists(st.integers(1, 60), max_size=30), payloads=st.lists(st.binary(max_size=40), max_size=8))
def test_frames_arrive_whole_however_the_stream_is_cut(cuts: list[int], payloads: list[bytes]) -> None:
    class Kept(Frames):
        def __init__(self) -> None:
            super().__init__()
            self.found: list[tuple[FrameKind, int, bytes]] = []

        def frame_received(self, kind: FrameKind, number: int, payload: memoryview) -> None:
            self.found.append((kind, number, bytes(payload)))

    stream = b"".join(frame(FrameKind.ASK, number, payload) for number, payload in enumerate(payloads))
    door, place = Kept(), 0
    for cut in (*cuts, len(stream)):
        if stream[place : place + cut]:
            door.data_received(stream[place : place + cut])
        place += cut
    assert door.found == [(FrameKind.ASK, number, payload) for number, payload in enumerate(payloads)]


async def test_spare_time_and_hurry_are_told_behind_the_socket(pair: Pair) -> None:
    first = submit(pair, texts(3))
    assert await pair.scorer.entered.get() == [3]
    spare = asyncio.ensure_future(pair.remote.submit(texts(5), LONG_S, spare=True))
    asked = submit(pair, texts(6))
    await until(lambda: pair.batcher.waiting_items == 2)
    pair.scorer.release()
    assert await pair.scorer.entered.get() == [6]  # it came later, and somebody waits for it
    later = submit(pair, texts(300))
    await until(lambda: pair.batcher.waiting_items == 2)
    pair.remote.hurry()
    behind = submit(pair, texts(301))
    await until(lambda: pair.batcher.waiting_items == 3)
    pair.scorer.release(9)
    await asyncio.gather(first, spare, asked, later, behind)
    assert pair.scorer.batches.index([5]) < pair.scorer.batches.index([301])


async def test_submissions_of_one_turn_share_a_batch_behind_the_socket(pair: Pair) -> None:
    tasks = [submit(pair, [text(1, 1)]) for _ in range(4)]
    assert await pair.scorer.entered.get() == [2, 2, 2, 2]
    pair.scorer.release()
    assert [len((await task).rows) for task in tasks] == [1, 1, 1, 1]


async def test_the_queues_refusal_arrives_as_what_it_was(pair: Pair) -> None:
    running = submit(pair, [text(1, 1)])
    await pair.scorer.entered.get()
    waiting = submit(pair, texts(*[1] * 7))
    while pair.batcher.waiting_items < 7:
        await settle()
    with pytest.raises(Overloaded, match="8") as refused:
        await submit(pair, texts(1, 1))
    assert refused.value.retry_after_s > 0
    with pytest.raises(TooLarge, match="text 1 of 1 has 401 tokens"):
        await submit(pair, [text(*[1] * 401)])
    pair.scorer.release(9)
    await asyncio.gather(running, waiting)


async def test_a_text_that_the_scorer_fails_on_fails_its_request_alone(pair: Pair) -> None:
    bad, good = submit(pair, [text(1, 77)]), submit(pair, [text(1, 2)])
    pair.scorer.release(9)
    with pytest.raises(ScorerFailed, match="text 1 of 1"):
        await bad
    assert (await good).rows[0]["toy_rewards"].tolist() == [3, 2]


async def test_a_caller_that_leaves_takes_its_texts_out_of_the_queue_behind(pair: Pair) -> None:
    running = submit(pair, [text(1, 1)])
    await pair.scorer.entered.get()
    leaving = submit(pair, [text(1, 1, 1)])
    while not pair.batcher.waiting_items:
        await settle()
    leaving.cancel()
    while pair.batcher.waiting_items:
        await settle()
    pair.scorer.release(9)
    await running
    assert pair.scorer.batches == [[2]]


async def test_a_deadline_that_passes_is_one_and_drops_what_waited(pair: Pair) -> None:
    running = submit(pair, [text(1, 1)])
    await pair.scorer.entered.get()
    with pytest.raises(DeadlineExceeded):
        await submit(pair, [text(1, 1, 1)], deadline_s=0.05)
    while pair.batcher.waiting_items:
        await settle()
    pair.scorer.release(9)
    await running


async def test_the_canary_runs_behind_the_socket(pair: Pair) -> None:
    pair.scorer.release(9)
    assert await pair.remote.canary(LONG_S) > 0
    assert pair.scorer.batches == [[2]]


async def test_whoever_waits_hears_at_once_that_the_process_has_ended(pair: Pair) -> None:
    waiting = submit(pair, [text(1, 1)])
    await pair.scorer.entered.get()
    assert pair.remote.alive
    assert pair.link.transport is not None
    pair.link.transport.abort()
    with pytest.raises(NotReady, match="started again"):
        await waiting
    assert not pair.remote.alive
    with pytest.raises(NotReady, match="started again"):
        await submit(pair, [text(1, 1)])
    while pair.batcher.waiting_items:  # the door lets go of what nobody waits for
        await settle()


class Deaf(asyncio.Protocol):
    """Takes a connection and reads nothing of it, as a process does that was stopped."""

    def connection_made(self, transport: Any) -> None:
        transport.pause_reading()


async def test_a_process_that_does_not_read_is_told_no_more_than_so_much(tmp_path: Path) -> None:
    server = await asyncio.get_running_loop().create_unix_server(Deaf, str(tmp_path / "scorer"))
    link = ScorerLink()
    await link.connect(str(tmp_path / "scorer"))
    refused = []
    for _ in range(16):  # each leaves at once
        with pytest.raises((TimeoutError, NotReady)) as error:
            await link.ask(FrameKind.SUBMIT, bytes(8 * 2**20), 0.0)
        refused.append(error.type)
    assert refused == [TimeoutError] * 9 + [NotReady] * 7
    link.close()
    server.close()


def test_texts_survive_the_way_through_a_frame() -> None:
    items = [Encoded((5, 70_000, 3), 1, 2), Encoded((8,), 0, 1, of_prompt=True), Encoded((1, 2, 3, 4), 2, 2)]
    found, *rest = unpack_submit(memoryview(pack_submit(items, 1.5, 3)))
    assert [(tuple(each.input_ids), each.pool_start, each.pool_stop, each.of_prompt) for each in found] == [
        (each.input_ids, each.pool_start, each.pool_stop, each.of_prompt) for each in items
    ]
    assert rest == [1.5, 3]
    with pytest.raises(ValueError, match="token ids"):
        unpack_submit(memoryview(pack_submit(items, 1.5, 3)[:-4]))


def test_an_error_that_is_not_known_becomes_one_that_is() -> None:
    import json

    found = unpack_error(json.loads(pack_error(ZeroDivisionError("by nought"))))
    assert isinstance(found, NotReady)
    assert found.detail == "ZeroDivisionError: by nought"
    refused = unpack_error(json.loads(pack_error(RefusedForSetting("no GPU", "require_gpu"))))
    assert (type(refused), refused.detail) == (BundleRefused, "no GPU")
    again = unpack_error(json.loads(pack_error(Overloaded("full", 12.0))))
    assert (type(again), again.detail, again.retry_after_s) == (Overloaded, "full", 12.0)  # type: ignore[attr-defined]


def test_a_table_has_the_rows_that_the_engine_gives_by_name(toy: Path) -> None:
    session = ScorerSession(toy)
    items = texts(3, 1, 5)
    expected = session.run(items)
    layout = TableScorer(session, items[0]).layout
    framed, *_ = unpack_submit(memoryview(pack_submit(items, 1.0, 1)))
    for read in (items, framed):
        rows = TableScorer(session, items[0]).run(read)
        assert [row.shape for row in rows] == [(layout.width,)] * 3
        for named, wanted in zip(layout.rows(np.stack(rows)), expected, strict=True):
            assert {name: values.tolist() for name, values in named.items()} == {name: values.tolist() for name, values in wanted.items()}
    with pytest.raises(FloatingPointError, match="NaN"):
        TableScorer(session, items[0]).run([text(1, NAN_ID)])
