"""A small base on several cores: a batch for each of them, one queue, and no difference in what is answered."""

from __future__ import annotations

import asyncio
import threading

import pytest

pytest.importorskip("peft")

from attune.service.members import local_decode, local_worker
from attune.service.members.local import LocalEngine
from attune.service.members.member import OneMemberFailed
from tests.members.asking import ask, collect
from tests.members.gate import around_each_pass
from tests.members.local_asking import members_of, requests, settled
from tests.members.tiny import ADAPTERS


@pytest.fixture
def engine_of(language_model, monkeypatch):
    """Makes engines of a machine with so many cores, and closes them."""
    engines = []

    def make(cores, **changes):
        monkeypatch.setattr(local_worker, "usable_cores", lambda: cores)
        engine = LocalEngine(language_model / "base", {name: language_model / "adapters" / name for name in ADAPTERS}, **changes)
        engine.load()
        engines.append(engine)
        return engine

    yield make
    for engine in engines:
        asyncio.run(engine.aclose())


class HeldPasses:
    """Holds every forward pass of an engine while it is closed, and notes which threads ran how many rows."""

    def __init__(self, engine):
        self.rows = []
        self.most = 0
        self._engine = engine
        self._begun = threading.Semaphore(0)
        self._open = threading.Event()
        self._open.set()
        self.close, self.open = self._open.clear, self._open.set
        around_each_pass(engine, before=self._before)

    @property
    def threads(self):
        return {thread for thread, _ in self.rows}

    async def begun(self, passes):
        """Returns once so many more forward passes have begun."""
        for _ in range(passes):
            assert await asyncio.to_thread(self._begun.acquire, timeout=30)

    def _before(self, ids):
        self.rows.append((threading.get_ident(), len(ids)))
        self._begun.release()
        self.most = max(self.most, self._engine.load_now().rows)
        assert self._open.wait(30)


@pytest.mark.parametrize("cores", [2, 3, 64])
async def test_sixteen_answers_are_those_of_one_batch_and_each_core_has_its_share(engine_of, shared_engine, cores):
    alone = [await collect(members_of(shared_engine)[i % 4], request) for i, request in enumerate(requests())]
    engine = engine_of(cores)
    members, held = members_of(engine), HeldPasses(engine)
    together = await asyncio.gather(*(collect(members[i % 4], request) for i, request in enumerate(requests())))
    assert together == alone
    decoders = min(cores, local_worker.MOST_DECODERS)
    assert len(held.threads) == decoders
    assert max(rows for _, rows in held.rows) <= -(-16 // decoders)


async def test_the_bound_of_rows_is_that_of_all_batches_together(engine_of):
    engine = engine_of(2, max_batch=3)
    members, held = members_of(engine), HeldPasses(engine)
    await asyncio.gather(*(collect(members[i % 4], request) for i, request in enumerate(requests())))
    assert held.most == 3
    assert len(held.threads) == 2


async def test_a_newcomer_joins_where_there_are_fewest_rows(engine_of):
    engine = engine_of(2)
    members, held = members_of(engine), HeldPasses(engine)
    held.close()
    asked = [asyncio.create_task(collect(members[i], ask(seed=i))) for i in range(2)]
    await held.begun(2)
    assert [rows for _, rows in held.rows] == [1, 1]
    held.open()
    await asyncio.gather(*asked)


async def test_a_check_is_answered_once_every_thread_has_come_round(engine_of):
    engine = engine_of(2)
    member, held = members_of(engine)[0], HeldPasses(engine)
    held.close()
    answer = asyncio.create_task(collect(member, ask(max_tokens=4)))
    await held.begun(1)
    check = asyncio.create_task(member.check())
    await asyncio.wait([check], timeout=0.05)
    assert not check.done()  # the other thread is idle and has answered; this one is in a forward pass
    held.open()
    await check
    await answer
    assert (await settled(engine)).rows == 0


async def test_with_one_thread_dead_nobody_is_left_waiting(engine_of):
    engine = engine_of(2, max_batch=2)
    member, held = members_of(engine)[0], HeldPasses(engine)
    worker = engine.worker("m")
    held.close()
    asked = [asyncio.create_task(collect(member, ask(seed=i))) for i in range(4)]
    await held.begun(2)
    inner, broken = worker._answer_pings, []

    def break_one(number):
        if not broken:
            broken.append(number)
            raise RuntimeError("one of them broke")
        inner(number)

    worker._answer_pings = break_one
    held.open()
    for answer in asked:
        with pytest.raises(OneMemberFailed, match="worker died of RuntimeError: one of them broke"):
            await answer
    with pytest.raises(OneMemberFailed, match="worker died"):
        await member.check()


async def test_one_thread_at_a_time_makes_ids_of_texts(engine_of, monkeypatch):
    # A text that spells a sign is read with other settings of the tokenizer, which all threads share: signs of another would be text.
    engine = engine_of(2)
    inside, together, met, inner = threading.Lock(), [], threading.Event(), local_decode.prompt_ids

    def prompt_ids(*given):
        if not inside.acquire(blocking=False):
            together.append(given)
            met.set()
            return inner(*given)
        try:
            met.wait(0.05)  # long enough for a thread that is idle, should nothing hold it
            return inner(*given)
        finally:
            inside.release()

    monkeypatch.setattr(local_decode, "prompt_ids", prompt_ids)
    members = members_of(engine)
    await asyncio.gather(*(collect(members[i % 4], ask(seed=i, max_tokens=2)) for i in range(8)))
    assert not together


async def test_closing_ends_every_thread(engine_of):
    engine = engine_of(3)
    await collect(members_of(engine)[0], ask(max_tokens=2))
    threads = engine.worker("m")._alive
    assert len(threads) == 3
    await engine.aclose()
    assert not any(thread.is_alive() for thread in threads)


async def test_where_a_thread_cannot_be_begun_none_goes_on(engine_of, monkeypatch):
    begin, begun = threading.Thread.start, []

    def start(thread):
        if thread.name == "attune-local-member":
            if len(begun) == 2:
                raise RuntimeError("can't start new thread")
            begun.append(thread)
        begin(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(RuntimeError, match="can't start"):
        engine_of(3)
    assert len(begun) == 2
    for thread in begun:
        thread.join(30)
        assert not thread.is_alive()


@pytest.mark.parametrize("changes", [{"threads": 1}, {"threads": 2}, {"max_batch": 1}])
async def test_one_batch_where_threads_are_asked_for_or_there_is_one_row(engine_of, changes):
    engine = engine_of(4, **changes)
    assert len(engine.worker("m")._alive) == 1


async def test_one_batch_where_transformers_own_modules_compute(engine_of, monkeypatch):
    monkeypatch.setattr("attune.service.members.local_model.can_read", lambda *_: False)
    engine = engine_of(4)
    assert engine.model.decoder is None
    assert len(engine.worker("m")._alive) == 1
