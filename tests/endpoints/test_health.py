"""Health is read, not asked for: a part that hangs, refuses or is away, and five hundred callers at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import redis

from attune.service.live.health import EVERY_S
from attune.service.settings import Settings
from attune.service.state.store_memory import StoreMemory
from tests.endpoints.conftest import running
from tests.endpoints.voices import Voice, voices
from tests.stores import FreshStore


@dataclass
class Counted(Voice):
    """A voice that counts how often it was asked whether it can serve, and may never say."""

    checks: int = 0
    hangs: bool = False
    gave_up: bool = False
    never: asyncio.Event = field(default_factory=asyncio.Event)

    async def check(self) -> None:
        self.checks += 1
        if self.hangs:
            try:
                await self.never.wait()
            finally:
                self.gave_up = True
        await super().check()


def counted() -> dict[str, Voice]:
    return {name: Counted(name) for name in voices()}


async def test_a_member_that_never_answers_neither_delays_the_start_nor_the_probe(settings_of: Callable[..., Settings]):
    warm = Counted("warm", hangs=True)
    async with running(settings_of(), FreshStore(), counted() | {"warm": warm}) as service:
        assert (await service.get("/readyz"))["status"] == "ready"
        assert (warm.checks, warm.gave_up) == (1, False)  # it is still being asked


async def test_five_hundred_who_ask_at_once_cost_no_part_anything(settings_of: Callable[..., Settings]):
    members = counted()
    async with running(settings_of(), FreshStore(), members) as service:
        loop = asyncio.get_running_loop()
        began_s, before = loop.time(), [voice.checks for voice in members.values()]
        ran = await service.metric("attune_inference_seconds_count")
        answers = await asyncio.gather(*(service.client.get("/readyz") for _ in range(500)))
        assert {answer.status_code for answer in answers} == {200}
        assert await service.metric("attune_inference_seconds_count") <= ran + 2 + (loop.time() - began_s) / EVERY_S
        rounds = 2 + (loop.time() - began_s) / EVERY_S  # what the background did meanwhile
        assert sum(voice.checks for voice in members.values()) <= sum(before) + rounds * len(before)


class AskedStore(FreshStore):
    """A store that counts how often it was asked whether it writes."""

    asked = 0

    async def check_writes(self) -> None:
        self.asked += 1
        await super().check_writes()


async def test_who_asks_one_after_another_is_told_what_the_background_found(settings_of: Callable[..., Settings]):
    store = AskedStore()
    async with running(settings_of(), store) as service:
        loop = asyncio.get_running_loop()
        began_s, asked, tasks = loop.time(), store.asked, asyncio.all_tasks()
        told = [(await service.get("/readyz"))["scorer"]["canary_ms"] for _ in range(60)]
        rounds = 2 + (loop.time() - began_s) / EVERY_S
        assert len(asyncio.all_tasks() - tasks) <= 10  # whoever asks starts nothing; the background may have
        assert store.asked - asked <= 2 * rounds  # twice where a write came late
        assert len(set(told)) <= rounds


class TellingStore(FreshStore):
    """A store that counts how often it was asked for its memory, and keeps what it told."""

    asked = 0
    told: StoreMemory | None = None

    async def memory(self) -> StoreMemory | None:
        self.asked += 1
        self.told = await super().memory()
        return self.told


async def test_the_memory_of_the_store_is_what_the_background_read_and_a_scrape_asks_nobody(settings_of: Callable[..., Settings]):
    store = TellingStore()
    async with running(settings_of(), store) as service:
        health = service.app.state.health
        await health.aclose()  # no round but ours
        with redis.Redis.from_url(store.url, protocol=2) as client:
            client.config_set("maxmemory", 2**40)
            try:
                await health.try_store()
                asked = store.asked
                assert store.told is not None
                assert await service.metric("attune_store_memory_bytes", kind="used") == store.told.used_bytes > 0
                assert await service.metric("attune_store_memory_bytes", kind="limit") == 2**40
                assert store.asked == asked
                # The tests' server keeps no file; to a caller of a server by URL that is told, and it serves all the same.
                (doubt,) = (await service.get("/readyz"))["store_doubts"]
                assert "keeps no append-only file" in doubt
                client.config_set("maxmemory-policy", "volatile-ttl")
                await health.try_store()
                assert len((await service.get("/readyz"))["store_doubts"]) == 2
            finally:
                client.config_set("maxmemory", 0)
                client.config_set("maxmemory-policy", "noeviction")
        await health.try_store()
        told = (await service.client.get("/metrics")).text
        assert 'attune_store_memory_bytes{kind="used"}' in told
        assert 'attune_store_memory_bytes{kind="limit"}' not in told
        await store.aclose()
        await health.try_store()
        assert "attune_store_memory_bytes{" not in (await service.client.get("/metrics")).text


async def test_a_store_that_answers_and_refuses_writes_is_not_ready_and_is_again_afterwards(settings_of: Callable[..., Settings]):
    store = FreshStore()
    async with running(settings_of(), store) as service:
        health = service.app.state.health
        with redis.Redis.from_url(store.url, protocol=2) as client:
            client.config_set("min-replicas-to-write", 1)
            try:
                await health.try_store()
                problem = await service.get("/readyz", status=503)
                assert problem["store"].startswith("refuses writes")
                assert await service.metric("attune_ready_part", part="store") == 0
                assert await service.metric("attune_ready") == 0
                assert (await service.client.get("/livez")).status_code == 200
            finally:
                client.config_set("min-replicas-to-write", 0)
        await health.try_store()
        assert (await service.get("/readyz"))["store"] == "ok"
        assert await service.metric("attune_ready") == 1


async def test_refused_writes_may_leave_it_ready_where_an_operator_says_so(settings_of: Callable[..., Settings]):
    store = FreshStore()
    async with running(settings_of(ready_needs_store=False), store) as service:
        with redis.Redis.from_url(store.url, protocol=2) as client:
            client.config_set("min-replicas-to-write", 1)
            try:
                await service.app.state.health.try_store()
                assert (await service.get("/readyz"))["store"].startswith("refuses writes")
            finally:
                client.config_set("min-replicas-to-write", 0)


async def test_verdicts_have_an_age_and_a_scorer_that_stopped_answering_is_stale(settings_of: Callable[..., Settings]):
    async with running(settings_of(), FreshStore()) as service:
        health = service.app.state.health
        assert (await service.get("/readyz"))["scorer"]["age_s"] < 10
        health._clock = lambda: 1e9
        problem = await service.get("/readyz", status=503)
        assert "has not answered its canary" in problem["detail"]


async def test_a_fresh_bundle_is_not_judged_by_the_one_before(settings_of: Callable[..., Settings]):
    async with running(settings_of(ready_needs_store=False), FreshStore()) as service:
        for voice in service.members.values():
            voice.away = True
        await service.app.state.health.try_members()
        await service.get("/readyz", status=503)
        for voice in service.members.values():
            voice.away = False  # nobody has asked them since; whoever asks from now on finds them well
        await service.post("/admin/reload", {})
        assert (await service.get("/readyz"))["status"] == "ready"
