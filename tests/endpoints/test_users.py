"""`/users/{user}`: what is known, everything stored, taking back and deleting; users whose id is hard to put into a path."""

from __future__ import annotations

import json
from collections.abc import Callable
from urllib.parse import quote

import numpy as np
import pytest

from attune.service.settings import Settings
from attune.service.state.embedded import EmbeddedRedis
from tests.endpoints.conftest import LONG, PROMPT, SHORT, WARM, Service, running
from tests.stores import FreshStore


def liked(user: str, event_id: str, chosen: str = WARM, rejected: str = LONG) -> dict[str, str]:
    return {"user": user, "prompt": PROMPT, "chosen_text": chosen, "rejected_text": rejected, "event_id": event_id}


async def test_an_unknown_user_is_at_the_prior(service: Service):
    answer = await service.get("/users/nobody")
    assert answer["user"] == {"id": "nobody", "comparisons": 0, "first_seen": None, "last_seen": None}
    families = service.serving.bundle.families
    mean, std = families["vrf"].posterior(families.part("vrf", families.prior()))
    assert answer["families"]["vrf"]["mean"] == mean.tolist()
    assert answer["families"]["vrf"]["std"] == std.tolist()
    assert set(answer["families"]) == {"bradley_terry", "micro", "vrf"}
    assert "mean" not in answer["families"]["micro"]


async def test_a_user_moves_towards_what_they_chose(service: Service):
    before = await service.get("/users/u1")
    for index in range(8):
        await service.post("/feedback", liked("u1", f"e{index}"))
    after = await service.get("/users/u1")
    assert after["user"]["comparisons"] == 8
    assert after["user"]["first_seen"] == "2027-01-15T08:00:00.000Z"
    for family in ("micro", "vrf"):
        assert after["families"][family]["weights"]["warm"] > before["families"][family]["weights"]["warm"]
    assert after["portfolio"]["member"] == "warm"
    assert after["portfolio"]["expected"]["warm"]["mean"] > before["portfolio"]["expected"]["warm"]["mean"]
    assert max(after["families"]["vrf"]["std"]) < min(before["families"]["vrf"]["std"])


async def test_asking_twice_says_the_same(service: Service):
    await service.post("/feedback", liked("u1", "e1"))
    assert await service.get("/users/u1") == await service.get("/users/u1")


@pytest.mark.parametrize(
    "user", ["a/b", "../..", "a/export", "a%2Fb", "100%", "ü ñ", "a?b#c", "{x}", "comparisons/x", "\N{GRINNING FACE}", "+"]
)
async def test_a_user_id_of_any_characters_is_reached_by_its_path(service: Service, user: str):
    await service.post("/feedback", liked(user, "event/1?"))
    path = f"/users/{quote(user, safe='')}"
    found = await service.get(path)
    assert (found["user"]["id"], found["user"]["comparisons"]) == (user, 1)
    first = (await service.client.get(f"{path}/export")).text.splitlines()[0]
    assert json.loads(first)["id"] == user
    taken = await service.client.delete(f"{path}/comparisons/{quote('event/1?', safe='')}")
    assert taken.json()["user"] == {"id": user, "comparisons": 0}
    assert (await service.client.delete(path)).status_code == 200


async def test_export_has_everything_and_what_it_says_adds_up(service: Service):
    made = await service.post("/generate", {"user": "u1", "prompt": PROMPT, "candidates": 2})
    first, second = (candidate["candidate_id"] for candidate in made["candidates"])
    await service.post("/feedback", {"user": "u1", "chosen": first, "rejected": second, "event_id": "by-ids"})
    await service.post("/feedback", liked("u1", "by-texts"))
    answer = await service.client.get("/users/u1/export")
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert [line["type"] for line in lines] == ["user", "sum", "comparison", "comparison", "decision"]
    stored, by_ids, by_texts, decision = lines[1:]
    assert np.array_equal(np.array(by_ids["evidence"]) + np.array(by_texts["evidence"]), stored["evidence"])
    assert (by_ids["event_id"], by_ids["chosen"], by_ids["rejected"]) == ("by-ids", first, second)
    assert by_ids["members"] == [candidate["member"] for candidate in made["candidates"]]
    assert (by_texts["chosen_text"], by_texts["rejected_text"], by_texts["prompt"]) == (WARM, LONG, PROMPT)
    assert set(by_texts["predicted"]) == {"bradley_terry", "micro", "vrf"}
    assert decision["decision_id"] == made["decision_id"]
    assert decision["routing"]["propensities"] == made["routing"]["propensities"]
    assert decision["routing"]["joint_propensity"] == made["routing"]["joint_propensity"]


async def test_without_texts_kept_an_export_holds_none(settings_of: Callable[..., Settings]):
    async with running(settings_of(keep_text=False), FreshStore()) as service:
        made = await service.post("/generate", {"user": "u1", "prompt": PROMPT, "candidates": 2})
        first, second = (candidate["candidate_id"] for candidate in made["candidates"])
        await service.post("/feedback", {"user": "u1", "chosen": first, "rejected": second})
        await service.post("/feedback", liked("u1", "by-texts"))
        exported = (await service.client.get("/users/u1/export")).text
        for text in (PROMPT, WARM, LONG, made["candidates"][0]["text"]):
            assert text not in exported


async def test_taking_a_comparison_back_restores_the_user_exactly(service: Service):
    await service.post("/feedback", liked("u1", "e1", SHORT, LONG))
    before = await service.get("/users/u1")
    await service.post("/feedback", liked("u1", "e2"))
    assert await service.get("/users/u1") != before
    taken = await service.client.delete("/users/u1/comparisons/e2")
    assert taken.json()["result"] == "taken-back"
    assert taken.json()["weights"] == before["families"]["vrf"]["weights"]
    after = await service.get("/users/u1")
    assert (after["families"], after["user"]["comparisons"]) == (before["families"], 1)
    again = await service.client.delete("/users/u1/comparisons/e2")
    assert (again.status_code, again.json()["code"]) == (404, "unknown-event")
    late = await service.post("/feedback", liked("u1", "e2"), status=409)
    assert late["code"] == "event-conflict"


@pytest.mark.parametrize("event", ["unheard-of", "x" * 300, "%00", "%ff"])
async def test_taking_back_what_was_never_learned_is_404(service: Service, event: str):
    answer = await service.client.delete(f"/users/u1/comparisons/{event}")
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown-event")


async def test_deleting_a_user_leaves_nothing_and_says_how_much_there_was(service: Service):
    made = await service.post("/generate", {"user": "u1", "prompt": PROMPT, "candidates": 2})
    await service.post("/feedback", liked("u1", "e1"))
    await service.post("/feedback", liked("u2", "e1"))
    receipt = (await service.client.delete("/users/u1")).json()["deleted"]
    assert (receipt["comparisons"], receipt["decisions"]) == (1, 1)
    assert receipt["keys"] >= 4
    assert (await service.get("/users/u1"))["user"]["comparisons"] == 0
    assert [json.loads(line)["type"] for line in (await service.client.get("/users/u1/export")).text.splitlines()] == ["user"]
    assert (await service.client.get(f"/decisions/{made['decision_id']}")).status_code == 404
    assert (await service.get("/users/u2"))["user"]["comparisons"] == 1
    nothing = {"keys": 0, "comparisons": 0, "decisions": 0}
    assert (await service.client.delete("/users/u1")).json() == {"deleted": nothing, "deleted_before": True}
    assert (await service.client.delete("/users/never-seen")).json() == {"deleted": nothing, "deleted_before": False}
    assert (await service.post("/feedback", liked("u1", "e1"), status=409))["code"] == "user-deleted"  # a late repeat
    assert (await service.get("/users/u1"))["user"]["comparisons"] == 0
    assert (await service.post("/feedback", liked("u1", "e2")))["result"] == "applied"


async def test_forgetting_fades_a_user_and_leaves_the_count(settings_of: Callable[..., Settings]):
    async with running(settings_of(half_life_days=1.0), FreshStore()) as service:
        await service.post("/feedback", liked("u1", "e1"))
        fresh = (await service.get("/users/u1"))["families"]["vrf"]["mean"]
        service.clock.now_s += 20 * 86_400
        faded = await service.get("/users/u1")
        assert faded["user"]["comparisons"] == 1
        assert np.abs(faded["families"]["vrf"]["mean"]).max() < 1e-4 < np.abs(fresh).max()


async def test_another_half_life_starts_users_anew_and_turning_it_back_finds_them_again(
    settings_of: Callable[..., Settings], redis_server: EmbeddedRedis
):
    seen: dict[float, list[tuple[int, list[float]]]] = {}
    for days in (30.0, 0.0, 30.0):
        async with running(settings_of(half_life_days=days, redis_url=redis_server.url, user_secret="s" * 32)) as service:
            if not seen:
                await service.post("/feedback", liked("half-life", "e1"))
            answer = await service.get("/users/half-life")
            seen.setdefault(days, []).append((answer["user"]["comparisons"], answer["families"]["vrf"]["mean"]))
    assert seen[30.0][0] == seen[30.0][1]
    assert seen[30.0][0][0] == 1
    assert seen[0.0] == [(0, [0.0, 0.0, 0.0])]
