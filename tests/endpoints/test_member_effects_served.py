"""What is liked of a member beyond its texts: learned from answers by id, shown, taken back, merged, exported and replayed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attune.service.live.standing import EVERYBODY, kept_under
from attune.service.settings import Settings
from attune.service.state.records import NewComparison
from attune.service.state.store import Replayed, UserKey
from tests.endpoints.conftest import LONG, PROMPT, SHORT, WARM, Service, running
from tests.endpoints.voices import Voice
from tests.stores import FreshStore, HeldStore
from tests.tiny_bundle import write_tiny_bundle

ASK = {"user": "u1", "prompt": PROMPT}


@pytest.fixture
def with_effects(settings_of: Callable[..., Settings], tmp_path: Path) -> Callable[..., Settings]:
    """Settings of a bundle that learns members' effects; another salt is another basis."""
    return lambda salt=0.0: settings_of(bundle=str(write_tiny_bundle(tmp_path / "bundles", effects=True, salt=salt)))


def speaking() -> dict[str, Voice]:
    """Members whose texts say nothing of whom one likes: they take turns."""
    texts = {"concise": (SHORT, LONG), "detailed": (LONG, WARM), "warm": (WARM, SHORT)}
    return {name: Voice(name, said) for name, said in texts.items()}


async def choose(service: Service, winner: str, rival: str, event_id: str, user: str = "u1") -> None:
    """Lets a user prefer one member's answer to another's, by candidate ids."""
    ask = {"user": user, "prompt": PROMPT}
    made = [(await service.post("/generate", ask | {"member": member}))["candidates"][0] for member in (winner, rival)]
    ids = [answer["candidate_id"] for answer in made]
    await service.post("/feedback", {"user": user, "chosen": ids[0], "rejected": ids[1], "event_id": event_id})


async def everybody(service: Service, store: FreshStore) -> np.ndarray:
    await service.app.state.live.runtime.tally.flush()
    kept = (await store.read_members("default", kept_under(service.serving.bundle.basis))).get(EVERYBODY)
    return np.zeros(1) if kept is None else kept.total.vector


async def effects(service: Service, user: str = "u1") -> dict[str, float]:
    told = (await service.post("/route", {"user": user, "prompt": PROMPT, "record": False}))["routing"]["effects"]
    return {name: one["mean"] for name, one in told.items()}


async def evidence(service: Service, user: str = "u1") -> list[Any]:
    lines = (await service.client.get(f"/users/{user}/export")).text.splitlines()
    return [line for line in lines if '"type":"sum"' in line]


async def test_a_member_that_is_preferred_whatever_it_writes_is_routed_to_and_its_effect_is_shown(with_effects):
    store = FreshStore()
    async with running(with_effects(), store, speaking()) as service:
        assert set((await effects(service)).values()) == {0.0}
        for number in range(8):
            await choose(service, "detailed", ("concise", "warm")[number % 2], f"e{number}")
        await everybody(service, store)
        found = await effects(service)
        assert found["detailed"] > 0.1 > -0.05 > max(found["concise"], found["warm"])
        told = await service.get("/users/u1")
        assert told["portfolio"]["member"] == "detailed"
        assert told["portfolio"]["effects"]["detailed"]["mean"] == pytest.approx(found["detailed"])
        listed = {member["name"]: member["effect"] for member in (await service.get("/portfolio"))["members"]}
        assert listed["detailed"]["mean"] > 0.05 > listed["concise"]["mean"]
        stranger = await effects(service, "somebody else")
        assert found["detailed"] > stranger["detailed"] > 0.02


async def test_an_effect_is_taken_back_to_the_bit_for_the_user_and_for_everybody(with_effects):
    store = FreshStore()
    async with running(with_effects(), store, speaking()) as service:
        await choose(service, "detailed", "concise", "first")
        own, shared = await evidence(service), await everybody(service, store)
        await choose(service, "warm", "concise", "second")
        assert (await everybody(service, store)).tolist() != shared.tolist()
        answer = await service.client.delete("/users/u1/comparisons/second")
        assert answer.status_code == 200
        assert [line.split('"evidence"')[1] for line in await evidence(service)] == [line.split('"evidence"')[1] for line in own]
        assert (await everybody(service, store)).tolist() == shared.tolist()
        again = await service.client.delete("/users/u1/comparisons/second")
        assert again.status_code == 404
        assert (await everybody(service, store)).tolist() == shared.tolist()


async def test_what_is_learned_for_a_caller_who_has_left_is_told_everybody_too(with_effects):
    store = HeldStore()
    async with running(with_effects(), store, speaking()) as service:
        store.gate.set()
        await choose(service, "detailed", "concise", "first")
        shared = await everybody(service, store)
        store.gate.clear()
        leaving = asyncio.create_task(choose(service, "warm", "concise", "second"))
        await store.reached.wait()
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        store.gate.set()
        await service.app.state.live.runtime.all_finished()
        assert (await everybody(service, store)).tolist() != shared.tolist()
        assert (await service.client.delete("/users/u1/comparisons/second")).status_code == 200
        assert (await everybody(service, store)).tolist() == shared.tolist()


async def test_effects_move_with_a_merge_and_everybodys_stay(with_effects):
    store = FreshStore()
    async with running(with_effects(), store, speaking()) as service:
        for number in range(4):
            await choose(service, "warm", "concise", f"e{number}", user="anonymous")
        shared, before = await everybody(service, store), await effects(service, "anonymous")
        await service.post("/users/anonymous/merge", {"into": "known"})
        assert await effects(service, "known") == pytest.approx(before)
        assert (await everybody(service, store)).tolist() == shared.tolist()


async def test_a_replay_to_another_basis_tells_of_authors_again(with_effects):
    store = FreshStore()
    async with running(with_effects(), store, speaking()) as service:
        for number in range(4):
            await choose(service, "warm", "concise", f"e{number}")
        settings = with_effects(salt=0.25)
        assert (await service.post("/admin/reload", {"bundle": settings.bundle}))["users_kept"] is False
        assert set((await effects(service)).values()) == {0.0}
        assert (await service.post("/admin/replay", {}))["replayed"] == 4
        assert (await everybody(service, store)).any()
        found = await effects(service)
        assert found["warm"] > 0.02 > -0.02 > found["concise"]


class Deaf(FreshStore):
    """A store that hears no first answer to what it replays, and sends it again."""

    async def replay_comparison(self, key: UserKey, comparison: NewComparison) -> Replayed:
        await super().replay_comparison(key, comparison)
        return await super().replay_comparison(key, comparison)


async def test_what_is_replayed_is_told_everybody_once_although_the_first_answer_was_lost(with_effects):
    told = []
    for store in (FreshStore(), Deaf()):
        async with running(with_effects(), store, speaking()) as service:
            for number in range(4):
                await choose(service, "warm", "concise", f"e{number}")
            await service.post("/admin/reload", {"bundle": with_effects(salt=0.25).bundle})
            assert [(await service.post("/admin/replay", {}))["replayed"] for _ in range(2)] == [4, 0]
            told.append((await everybody(service, store)).tolist())
    assert any(told[0])
    assert told[0] == told[1]


async def test_what_was_replayed_under_another_basis_is_taken_back_to_the_bit_for_everybody(with_effects):
    store = FreshStore()
    async with running(with_effects(), store, speaking()) as service:
        for number in range(3):
            await choose(service, "warm", "concise", f"e{number}")
        await service.post("/admin/reload", {"bundle": with_effects(salt=0.25).bundle})
        await choose(service, "warm", "detailed", "later")
        shared = await everybody(service, store)
        assert (await service.post("/admin/replay", {}))["replayed"] == 3
        assert (await everybody(service, store)).tolist() != shared.tolist()
        for number in (1, 0, 2):
            assert (await service.client.delete(f"/users/u1/comparisons/e{number}")).status_code == 200
        assert (await everybody(service, store)).tolist() == shared.tolist()


async def test_texts_without_authors_tell_nothing_of_members(with_effects):
    store = FreshStore()
    async with running(with_effects(), store, speaking()) as service:
        await service.post("/feedback", ASK | {"chosen_text": WARM, "rejected_text": LONG})
        assert set((await effects(service)).values()) == {0.0}
        assert not (await everybody(service, store)).any()


async def test_a_bundle_without_effects_says_nothing_of_them(service):
    await choose(service, "warm", "concise", "one")
    assert "effects" not in (await service.post("/route", ASK))["routing"]
    assert "effects" not in (await service.get("/users/u1"))["portfolio"]
    assert {member["effect"] for member in (await service.get("/portfolio"))["members"]} == {None}
