"""Policy `learn` where the product may choose the prompt: one is drawn with the members, and both laws are logged."""

from __future__ import annotations

import pytest

from tests.endpoints.conftest import PROMPT

OFFERED = ["how do i boil an egg ?", "what is the best way to travel ?", "tell me about tea ."]


async def test_a_prompt_is_drawn_answered_logged_and_learned_from(service):
    made = await service.post("/generate", {"user": "u1", "prompts": OFFERED, "policy": "learn", "candidates": 2})
    drawn = made["routing"]["prompt"]
    assert sum(drawn["propensities"]) == pytest.approx(1.0)
    assert drawn["propensity"] == drawn["propensities"][drawn["index"]]
    assert 0 < made["routing"]["joint_propensity"] <= made["routing"]["propensity"]
    kept = await service.get(f"/decisions/{made['decision_id']}")
    assert kept["prompt"] == OFFERED[drawn["index"]]
    assert kept["routing"]["prompt"] == drawn
    asked = [ask.messages[-1].content for member in made["candidates"] for ask in service.members[member["member"]].asked]
    assert set(asked) == {OFFERED[drawn["index"]]}
    ids = [one["candidate_id"] for one in made["candidates"]]
    assert (await service.post("/feedback", {"user": "u1", "chosen": ids[0], "rejected": ids[1]}))["result"] == "applied"


async def test_one_prompt_has_no_law_of_prompts(service):
    routed = await service.post("/route", {"user": "u1", "prompt": PROMPT, "policy": "learn", "candidates": 2})
    assert "prompt" not in routed["routing"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"prompts": OFFERED}, "prompts"),
        ({"prompts": OFFERED, "policy": "best"}, "prompts"),
        ({"prompts": OFFERED, "policy": "learn", "prompt": PROMPT}, "prompt"),
        ({"prompts": OFFERED, "policy": "learn", "member": "warm"}, "member"),
        ({"prompts": OFFERED[:1], "policy": "learn"}, "prompts"),
        ({"prompts": OFFERED * 6, "policy": "learn"}, "prompts"),
    ],
)
async def test_prompts_that_cannot_be_drawn_are_refused_by_name(service, body, field):
    told = await service.post("/route", {"user": "u1"} | body, status=422)
    assert field in [error["field"] for error in told["errors"]]
