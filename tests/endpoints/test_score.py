"""`POST /score`: what a client reads is what the families compute, and adds up."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from attune.service.settings import Settings
from attune.service.state.redis_store import RedisStore
from attune.service.usecases.people import Person
from attune.service.usecases.text_scores import score_candidates
from tests.endpoints.conftest import LONG, PROMPT, SHORT, WARM, Service, running
from tests.stores import FreshStore
from tests.tiny_bundle import HEADS, TEMPLATE

ASK = {"user": "u1", "prompt": PROMPT, "responses": [SHORT, LONG, WARM]}


@pytest.mark.parametrize("family", ["vrf", "micro", "bradley_terry"])
async def test_contributions_sum_to_the_score_exactly_and_are_sorted_by_size(service: Service, family: str):
    answer = await service.post("/score", ASK | {"family": family, "explain": True})
    assert answer["family"] == family
    for scored in answer["scores"]:
        total = 0.0
        for part in scored["explanation"]:
            assert part["contribution"] == part["weight"] * part["reward"]
            assert part["weight"] == answer["weights"][part["head"]]
            total += part["contribution"]
        assert total == scored["score"]
        sizes = [abs(part["contribution"]) for part in scored["explanation"]]
        assert sizes == sorted(sizes, reverse=True)


async def test_without_explain_there_is_no_explanation_and_the_scores_are_the_same(service: Service):
    plain = await service.post("/score", ASK)
    explained = await service.post("/score", ASK | {"explain": True})
    assert all("explanation" not in scored for scored in plain["scores"])
    assert [scored["score"] for scored in plain["scores"]] == [scored["score"] for scored in explained["scores"]]


@pytest.mark.parametrize("family", ["vrf", "micro"])
async def test_scores_are_those_of_the_family_on_the_scorers_rows(service: Service, family: str):
    encoder, families = service.serving.encoder, service.serving.bundle.families
    rows = (await service.serving.batcher.submit([*encoder.candidates(PROMPT, ASK["responses"]), encoder.prompt(PROMPT, "warm")], 5)).rows
    nobody = Person("u1", None, 0, families.prior(), "prior")
    expected = score_candidates(families, family, nobody, rows[:3], rows[3])
    answer = await service.post("/score", ASK | {"family": family, "context": "warm"})
    assert [scored["score"] for scored in answer["scores"]] == [text.score for text in expected.texts]
    rewards = np.array([row[f"{family}_rewards"] for row in rows[:3]], dtype=np.float64)
    scored = families[family].score(families.part(family, families.prior()), rewards, rows[3] if family == "micro" else None)
    assert np.allclose([text["score"] for text in answer["scores"]], scored.scores, rtol=1e-12)
    assert [text["std"] for text in answer["scores"]] == scored.stds.tolist()


async def test_scores_stand_in_request_order_and_ranks_begin_with_the_best(service: Service):
    answer = await service.post("/score", ASK)
    assert [scored["index"] for scored in answer["scores"]] == [0, 1, 2]
    best = max(answer["scores"], key=lambda scored: scored["score"])
    assert best["rank"] == 1
    assert sorted(scored["rank"] for scored in answer["scores"]) == [1, 2, 3]


async def test_a_score_does_not_depend_on_the_other_responses(service: Service):
    together = await service.post("/score", ASK)
    for index, response in enumerate(ASK["responses"]):
        alone = await service.post("/score", ASK | {"responses": [response]})
        assert alone["scores"][0]["score"] == together["scores"][index]["score"]


async def test_a_conversation_of_one_user_turn_scores_like_its_prompt(service: Service):
    as_prompt = await service.post("/score", ASK | {"family": "micro"})
    as_messages = await service.post(
        "/score", {"user": "u1", "messages": [{"role": "user", "content": PROMPT}], "responses": ASK["responses"], "family": "micro"}
    )
    assert as_messages["scores"] == as_prompt["scores"]


async def test_a_user_without_comparisons_is_scored_by_the_prior_and_one_with_them_by_their_own_weights(service: Service):
    before = await service.post("/score", ASK)
    assert (before["personalization"], before["user"]) == ("prior", {"id": "u1", "comparisons": 0})
    for _ in range(5):
        await service.post("/feedback", {"user": "u1", "prompt": PROMPT, "chosen_text": WARM, "rejected_text": LONG})
    after = await service.post("/score", ASK)
    assert (after["personalization"], after["user"]["comparisons"]) == ("applied", 5)
    assert after["weights"]["warm"] > before["weights"]["warm"]
    assert after["scores"][2]["rank"] == 1
    assert await service.metric("attune_personalizations_total", outcome="applied") == 1


async def test_with_redis_away_scores_are_those_of_the_prior_and_say_so(settings_of: Callable[..., Settings], tmp_path):
    async with running(settings_of(), FreshStore()) as there:
        prior = await there.post("/score", ASK)
    async with running(settings_of(), RedisStore(f"unix://{tmp_path}/nobody.sock", timeout_s=0.2)) as service:
        answer = await service.post("/score", ASK)
        assert answer["personalization"] == "unavailable"
        assert answer["scores"] == prior["scores"]
        assert await service.metric("attune_personalizations_total", outcome="unavailable") == 1


async def test_a_long_prompt_is_trimmed_and_the_usage_says_by_how_much(service: Service):
    room = TEMPLATE.max_tokens - len(TEMPLATE.prefix) - len(TEMPLATE.middle) - len(TEMPLATE.suffix)
    beside_the_longest = room - len(LONG.split())
    assert beside_the_longest > TEMPLATE.max_prompt_tokens
    answer = await service.post("/score", ASK | {"prompt": "egg " * (beside_the_longest + 10)})
    assert answer["usage"]["dropped_prompt_tokens"] == 10
    assert "dropped_prompt_tokens" not in (await service.post("/score", ASK))["usage"]


async def test_usage_counts_the_tokens_that_went_through_the_scorer(service: Service):
    encoder = service.serving.encoder
    tokens = sum(map(len, encoder.candidates(PROMPT, ASK["responses"])))
    assert (await service.post("/score", ASK))["usage"]["tokens"] == tokens
    with_gate = await service.post("/score", ASK | {"family": "micro"})
    assert with_gate["usage"]["tokens"] == tokens + len(encoder.prompt(PROMPT))


async def test_texts_too_long_for_the_event_loop_score_the_same(service: Service):
    long_prompt = PROMPT + " " * 20_000
    answer = await service.post("/score", ASK | {"prompt": long_prompt})
    assert answer["scores"] == (await service.post("/score", ASK))["scores"]


async def test_timings_and_the_request_id_are_in_the_headers(service: Service):
    answer = await service.client.post("/score", json=ASK, headers={"x-request-id": "mine-1"})
    assert answer.headers["x-request-id"] == "mine-1"
    stages = {entry.split(";")[0].strip() for entry in answer.headers["server-timing"].split(",")}
    assert stages == {"tokenize", "queue", "inference", "redis"}


async def test_weights_are_named_by_head_and_sum_to_one(service: Service):
    weights = (await service.post("/score", ASK))["weights"]
    assert tuple(weights) == HEADS
    assert sum(weights.values()) == pytest.approx(1.0)
