"""Members learned from traffic: answers add up, routing goes by the sums, unknown members are explored, dry runs leave no trace."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from attune.models.seam.member_evidence import EvidenceLayout
from attune.service.live.standing import kept_under
from attune.service.settings import Settings
from tests.endpoints.conftest import LONG, PROMPT, SHORT, WARM, Service, running
from tests.endpoints.voices import Voice
from tests.stores import FreshStore
from tests.tiny_bundle import write_tiny_bundle

ASK = {"user": "u1", "prompt": PROMPT}
NOWHERE = {"kind": "openai", "base_url": "http://127.0.0.1:9/v1", "model": "m"}
VOICES = {"gpt-short": SHORT, "gpt-long": LONG, "gpt-warm": WARM}


@pytest.fixture
def strangers(settings_of: Callable[..., Settings], tmp_path: Path) -> Callable[[], Settings]:
    """Settings of a bundle without members, and a roster of three that nobody measured."""

    def make() -> Settings:
        roster = tmp_path / "roster.json"
        roster.write_text(json.dumps(dict.fromkeys(VOICES, NOWHERE)), encoding="utf-8")
        bundle = write_tiny_bundle(tmp_path / "bundles", members=False)
        return settings_of(bundle=str(bundle), roster=str(roster))

    return make


def speaking() -> dict[str, Voice]:
    return {name: Voice(name, (text,)) for name, text in VOICES.items()}


async def ask_everybody(service: Service, times: int) -> None:
    for member in VOICES:
        for _ in range(times):
            await service.post("/generate", ASK | {"user": "anybody", "member": member})
    await service.app.state.live.runtime.tally.flush()


async def test_answers_of_members_add_up_whoever_asked_for_them(strangers):
    store = FreshStore()
    async with running(strangers(), store, speaking()) as service:
        await service.post("/generate", ASK | {"candidates": 3})
        await service.post("/v1/chat/completions", {"model": "gpt-warm", "messages": [{"role": "user", "content": PROMPT}]})
        await service.app.state.live.runtime.later.idle()
        await service.app.state.live.runtime.tally.flush()
        sums = await store.read_members("default", kept_under(service.serving.bundle.basis))
        layout = EvidenceLayout.of(service.serving.bundle.families)
        assert {name: kept.total.count for name, kept in sums.items()} == {"gpt-short": 1.0, "gpt-long": 1.0, "gpt-warm": 2.0}
        row = (await service.serving.batcher.submit(service.serving.encoder.candidates(PROMPT, [WARM]), 5)).rows[0]
        assert sums["gpt-warm"].total.vector == pytest.approx(2 * layout.evidence(row))


async def test_members_that_nobody_measured_are_told_apart_after_a_few_answers(strangers):
    async with running(strangers(), FreshStore(), speaking()) as service:
        for _ in range(5):
            await service.post("/feedback", ASK | {"chosen_text": WARM, "rejected_text": LONG})
        before = (await service.post("/route", ASK))["routing"]
        assert before["expected"]["gpt-warm"]["std"] > 0.5
        assert min(before["propensities"].values()) > 0.2
        await ask_everybody(service, 5)
        after = (await service.post("/route", ASK | {"policy": "best"}))["routing"]
        assert after["member"] == "gpt-warm"
        assert (await service.post("/route", ASK))["routing"]["propensities"]["gpt-warm"] > 0.8
        assert (await service.get("/users/u1"))["portfolio"]["member"] == "gpt-warm"


async def test_a_member_that_joins_is_explored_and_users_are_kept(strangers, tmp_path):
    members = speaking()
    settings = strangers()
    async with running(settings, FreshStore(), members) as service:
        await service.post("/feedback", ASK | {"chosen_text": SHORT, "rejected_text": LONG})
        await ask_everybody(service, 20)
        members["gpt-new"] = Voice("gpt-new", (SHORT,))
        (tmp_path / "roster.json").write_text(json.dumps(dict.fromkeys(members, NOWHERE)), encoding="utf-8")
        assert (await service.post("/admin/reload", {}))["users_kept"] is True
        routed = await service.post("/route", ASK)
        assert routed["user"]["comparisons"] == 1
        expected = routed["routing"]["expected"]
        assert expected["gpt-new"]["std"] > 1.5 * expected["gpt-short"]["std"]
        assert routed["routing"]["propensities"]["gpt-new"] > 0.05


async def test_the_portfolio_tells_evidence_worth_share_and_drift_of_each_member(strangers):
    members = speaking()
    async with running(strangers(), FreshStore(), members) as service:
        fresh = (await service.get("/portfolio"))["members"]
        assert [(member["evidence"]["answers"], member["drift"], member["share"]) for member in fresh] == [(0.0, None, 0.0)] * 3
        assert {number["std"] for number in fresh[0]["worth"]["vrf"].values()} == {1.0}
        for name, times in (("gpt-short", 30), ("gpt-long", 10)):
            await saw(service, name, VOICES[name], times)
        told = {member["name"]: member for member in (await service.get("/portfolio"))["members"]}
        assert (told["gpt-short"]["share"], told["gpt-long"]["share"], told["gpt-short"]["evidence"]["latest"]) == (0.75, 0.25, 30.0)
        worth = told["gpt-short"]["worth"]["vrf"]
        assert worth["concise"]["mean"] > 1.0 > worth["detailed"]["mean"]
        assert worth["concise"]["std"] < 0.3
        assert told["gpt-short"]["measured"] is False


async def test_a_member_that_changes_its_manner_drifts_and_is_routed_by_what_it_does_now(strangers):
    async with running(strangers(), FreshStore(), speaking()) as service:
        for name, text in VOICES.items():
            for _ in range(3):
                await saw(service, name, text, 100)
        await service.post("/route", ASK)
        assert await service.metric("attune_member_drift", member="gpt-warm") < 6
        for _ in range(3):
            await saw(service, "gpt-warm", LONG, 100)
        await service.post("/route", ASK)
        assert await service.metric("attune_member_drift", member="gpt-warm") > 6
        assert await service.metric("attune_member_drift", member="gpt-long") == pytest.approx(0.0, abs=1e-6)
        told = {member["name"]: member for member in (await service.get("/portfolio"))["members"]}
        assert told["gpt-warm"]["worth"]["vrf"]["warm"]["mean"] == pytest.approx(told["gpt-long"]["worth"]["vrf"]["warm"]["mean"], abs=0.3)
        assert told["gpt-warm"]["drift"]["head"] in {"concise", "detailed", "warm"}


async def test_of_members_that_are_known_a_share_of_answers_is_scored_and_of_one_that_changes_all_again(strangers):
    bounds = {"score_later_share": 0.0, "score_later_until": 290, "score_later_per_s": 1e-6}
    settings = strangers().model_copy(update=bounds)
    unscored = ASK | {"score": False}
    async with running(settings, FreshStore(), speaking()) as service:
        later = service.app.state.live.runtime.later

        async def scored() -> float:
            await service.post("/generate", unscored | {"member": "gpt-long"})
            await later.idle()
            return await service.metric("attune_answers_scored_later_total", result="scored") or 0.0

        for name in ("gpt-short", "gpt-long", "gpt-warm"):
            assert await scored() >= 1.0  # not all are known yet
            for _ in range(3):
                await saw(service, name, VOICES[name], 100)
        before = await scored()
        assert await scored() == before == 3.0
        for _ in range(3):
            await saw(service, "gpt-warm", LONG, 100)
        assert await scored() == 4.0


async def saw(service: Service, member: str, text: str, times: int) -> None:
    """Adds one and the same answer of a member many times to its sum."""
    serving, tally = service.serving, service.app.state.live.runtime.tally
    row = (await serving.batcher.submit(serving.encoder.candidates(PROMPT, [text]), 5)).rows[0]
    for _ in range(times):
        tally.saw("default", kept_under(serving.bundle.basis), member, serving.standings.layout.evidence(row))
    await tally.flush()


async def test_a_dry_run_decides_and_keeps_nothing(strangers):
    store = FreshStore()
    async with running(strangers(), store, speaking()) as service:
        routed = await service.client.post("/route", json=ASK | {"record": False})
        assert routed.json()["decision_id"] is None
        assert "x-decision-id" not in routed.headers
        assert sum(routed.json()["routing"]["propensities"].values()) == pytest.approx(1.0)
        made = await service.post("/generate", ASK | {"record": False, "candidates": 2})
        assert (made["decision_id"], [candidate["candidate_id"] for candidate in made["candidates"]]) == (None, [None, None])
        assert all(np.isfinite(candidate["score"]) for candidate in made["candidates"])
        await service.app.state.live.runtime.tally.flush()
        assert await store.read_members("default", kept_under(service.serving.bundle.basis)) == {}
        assert [user async for user in store.export(await user_key(service))] == []
        assert len(service.serving.recent) == 0
        assert await service.metric("attune_decisions_total") == 0.0
        await service.post("/route", ASK)
        assert await service.metric("attune_decisions_total") == 1.0


async def test_who_only_asks_sees_the_same_chances_until_something_is_learned_and_not_always_the_same_draw(strangers):
    async with running(strangers(), FreshStore(), speaking()) as service:
        for name, text in VOICES.items():
            await saw(service, name, text, 100)

        async def look() -> dict:
            return (await service.post("/route", ASK | {"record": False}))["routing"]

        looks = [await look() for _ in range(30)]
        assert all(each["propensities"] == looks[0]["propensities"] for each in looks)
        assert len({each["member"] for each in looks}) > 1
        await service.post("/feedback", ASK | {"chosen_text": WARM, "rejected_text": SHORT})
        assert (await look())["propensities"] != looks[0]["propensities"]
        kept = [(await service.post("/route", ASK))["routing"]["propensities"] for _ in range(3)]
        assert kept[0] != kept[1] or kept[1] != kept[2]


async def user_key(service: Service):
    from attune.service.state.store import UserKey, user_tag

    return UserKey("default", user_tag(service.app.state.live.runtime.user_secret, "default", "u1"))


async def test_policy_learn_asks_about_members_and_users_that_are_not_known_and_logs_its_law(strangers):
    async with running(strangers(), FreshStore(), speaking()) as service:
        made = await service.post("/generate", ASK | {"policy": "learn", "candidates": 2})
        routing = made["routing"]
        assert routing["policy"] == "learn"
        assert sum(routing["propensities"].values()) == pytest.approx(1.0)
        assert 0 < routing["joint_propensity"] <= routing["propensity"]
        assert (await service.get(f"/decisions/{made['decision_id']}"))["routing"]["policy"] == "learn"
        chosen, rejected = (candidate["candidate_id"] for candidate in made["candidates"])
        assert (await service.post("/feedback", {"user": "u1", "chosen": chosen, "rejected": rejected}))["result"] == "applied"
