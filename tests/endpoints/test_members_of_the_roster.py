"""Who serves: the roster's members with what the bundle knows of them, and nobody at all."""

from __future__ import annotations

import json

import pytest
from structlog.testing import capture_logs

from tests.endpoints.conftest import LONG, PROMPT, SHORT, running
from tests.endpoints.voices import Voice, voices
from tests.stores import FreshStore
from tests.tiny_bundle import write_tiny_bundle


async def test_a_bundle_without_members_scores_learns_and_is_ready_and_routes_nobody(settings_of, tmp_path):
    bundle = write_tiny_bundle(tmp_path, members=False)
    async with running(settings_of(bundle=str(bundle)), FreshStore(), {}) as service:
        ready = await service.get("/readyz")
        assert (ready["status"], ready["members"]) == ("ready", {})
        scored = await service.post("/score", {"user": "u", "prompt": PROMPT, "responses": [SHORT, LONG]})
        assert len(scored["scores"]) == 2
        told = {"user": "u", "prompt": PROMPT, "chosen_text": SHORT, "rejected_text": LONG}
        assert (await service.post("/feedback", told))["user"]["comparisons"] == 1
        for path, body in (("/generate", {"prompt": PROMPT}), ("/route", {"prompt": PROMPT})):
            assert (await service.post(path, {"user": "u", **body}, status=409))["code"] == "no-members"
        chat = {"model": "auto", "messages": [{"role": "user", "content": PROMPT}]}
        assert (await service.post("/v1/chat/completions", chat, status=409))["error"]["code"] == "no-members"
        assert (await service.get("/users/u"))["portfolio"] is None
        assert (await service.get("/portfolio"))["members"] == []
        coverage = await service.get("/portfolio/coverage")
        assert (coverage["members"], coverage["drop"]) == ([], None)


async def test_a_member_that_the_bundle_does_not_know_serves_from_the_prior_and_is_told(settings_of):
    members = {**voices(), "newcomer": Voice("newcomer", ("yes .",))}
    with capture_logs() as logs:
        async with running(settings_of(), FreshStore(), members) as service:
            portfolio = {member["name"]: member for member in (await service.get("/portfolio"))["members"]}
            answer = await service.post("/generate", {"user": "u", "prompt": PROMPT, "member": "newcomer"})
            routed = await service.post("/route", {"user": "u", "prompt": PROMPT})
    assert [name for name, member in portfolio.items() if not member["measured"]] == ["newcomer"]
    known = [portfolio[name]["values"]["vrf"]["warm"] for name in ("concise", "detailed", "warm")]
    assert portfolio["newcomer"]["values"]["vrf"]["warm"] == pytest.approx(sum(known) / 3)
    assert portfolio["newcomer"]["intervals"]["vrf"]["warm"] >= 1.96
    assert answer["candidates"][0]["member"] == "newcomer"
    assert set(routed["routing"]["propensities"]) == {"concise", "detailed", "warm", "newcomer"}
    assert [line["at_prior"] for line in logs if "at_prior" in line] == [["newcomer"]]


async def test_a_member_that_the_roster_does_not_name_is_left_out_and_told(settings_of):
    members = {name: voice for name, voice in voices().items() if name != "warm"}
    with capture_logs() as logs:
        async with running(settings_of(), FreshStore(), members) as service:
            portfolio = await service.get("/portfolio")
            assert (await service.post("/route", {"user": "u", "prompt": PROMPT, "member": "warm"}, status=404))["code"] == "unknown-member"
    assert [member["name"] for member in portfolio["members"]] == ["concise", "detailed"]
    assert [line["left_out"] for line in logs if "left_out" in line] == [["warm"]]
    # What was proved of three members is not claimed of two.
    assert (portfolio["certificate"]["epsilon"], portfolio["certificate"]["worst_ratio"]) == (1.0, 0.0)


async def test_a_roster_of_strangers_serves_all_of_them_at_the_prior(settings_of, tmp_path):
    roster = tmp_path / "roster.json"
    place = {"kind": "openai", "base_url": "http://127.0.0.1:9/v1", "model": "m"}
    roster.write_text(json.dumps(dict.fromkeys(("gpt-short", "gpt-long", "gpt-fun"), place)))
    members = {name: Voice(name, ("yes .",)) for name in ("gpt-short", "gpt-long", "gpt-fun")}
    async with running(settings_of(roster=str(roster)), FreshStore(), members) as service:
        routed = await service.post("/route", {"user": "u", "prompt": PROMPT})
        assert set(routed["routing"]["propensities"]) == {"gpt-short", "gpt-long", "gpt-fun"}
        assert (await service.get("/portfolio"))["certificate"] is None
