"""One rule for long texts on every route that scores them: cut and say so, or refuse where the request asks for that."""

from __future__ import annotations

import pytest

from tests.endpoints.conftest import LONG, PROMPT, SHORT, Service
from tests.tiny_bundle import TEMPLATE

ROOM = TEMPLATE.max_tokens - 3
"""Tokens that prompt and response share: prefix, middle and suffix are one each."""

ASK = {"user": "u", "prompt": PROMPT, "responses": [SHORT, "egg " * 100]}
TEXTS = {"user": "u", "prompt": PROMPT, "chosen_text": "egg " * 100, "rejected_text": SHORT}


async def test_a_long_response_is_cut_and_says_so_and_its_neighbour_scores_as_alone(service: Service):
    answer = await service.post("/score", ASK)
    kept = ROOM - len(service.serving.encoder.prompt(PROMPT)) + 2
    assert [each.get("truncated_tokens") for each in answer["scores"]] == [None, 100 - kept]
    assert answer["usage"]["truncated_tokens"] == 100 - kept
    assert "dropped_prompt_tokens" not in answer["usage"]
    alone = await service.post("/score", ASK | {"responses": [SHORT]})
    assert alone["scores"][0]["score"] == pytest.approx(answer["scores"][0]["score"], abs=1e-6)
    assert "truncated_tokens" not in alone["usage"]


async def test_a_prompt_has_the_room_that_a_short_response_leaves_and_its_start_is_cut(service: Service):
    fits = await service.post("/score", ASK | {"prompt": "egg " * (ROOM - 2), "responses": ["yes ."]})
    assert "truncated_tokens" not in fits["usage"]
    answer = await service.post("/score", ASK | {"prompt": "egg " * (ROOM + 8), "responses": ["yes ."]})
    assert answer["usage"]["dropped_prompt_tokens"] == answer["usage"]["truncated_tokens"] == 10
    whole = await service.post("/score", ASK | {"prompt": "dear " + "egg " * 40, "responses": ["yes ."]})
    assert whole["usage"]["tokens"] == 41 + 2 + 3


async def test_feedback_by_texts_learns_from_what_fits_and_says_what_did_not(service: Service):
    learned = await service.post("/feedback", TEXTS)
    assert (learned["result"], learned["user"]["comparisons"]) == ("applied", 1)
    assert learned["truncated_tokens"] > 0
    short = await service.post("/feedback", TEXTS | {"chosen_text": LONG})
    assert "truncated_tokens" not in short


async def test_a_repeated_event_is_the_same_event_however_its_texts_are_read(service: Service):
    event = TEXTS | {"chosen_text": LONG, "event_id": "e"}
    await service.post("/feedback", event)
    assert (await service.post("/feedback", event | {"truncate": False}))["result"] == "duplicate"


async def test_routing_and_generating_cut_a_long_prompt_and_say_so(service: Service):
    body = {"user": "u", "prompt": "egg " * 100}
    routed, generated = await service.post("/route", body), await service.post("/generate", body)
    assert routed["truncated_tokens"] == generated["truncated_tokens"] == 100 - (TEMPLATE.max_tokens - 2)
    assert "truncated_tokens" not in await service.post("/route", body | {"prompt": PROMPT})


async def test_a_long_query_of_rerank_says_so_in_its_usage(service: Service):
    answer = await service.post("/v1/rerank", {"query": "egg " * 200, "documents": [SHORT, LONG]})
    assert answer["usage"]["truncated_tokens"] > 100
    assert "truncated_tokens" not in (await service.post("/v1/rerank", {"query": PROMPT, "documents": [SHORT]}))["usage"]


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/score", ASK, "responses[1] has 100 tokens; beside this prompt"),
        ("/score", ASK | {"prompt": "egg " * 100, "responses": [SHORT]}, "tokens of prompt have no room in the 64"),
        ("/feedback", TEXTS, "chosen_text has 100 tokens"),
        ("/route", {"user": "u", "prompt": "egg " * 100}, "the first 38 tokens of prompt have no room"),
        ("/generate", {"user": "u", "prompt": "egg " * 100}, "the first 38 tokens of prompt have no room"),
    ],
)
async def test_a_request_that_forbids_to_cut_is_refused_with_the_field_and_the_number(service: Service, path, body, message):
    problem = await service.post(path, body | {"truncate": False}, status=413)
    assert (problem["code"], message in problem["detail"]) == ("too-large", True), problem
    assert "truncated_tokens" in str(await service.post(path, body))


async def test_texts_of_which_the_tokenizer_knows_nothing_are_counted(service: Service):
    answer = await service.post("/score", ASK | {"responses": ["🥞", "zzz", "yes ."]})
    assert answer["usage"]["unknown_tokens"] == 2
    assert "unknown_tokens" not in (await service.post("/score", ASK | {"responses": [SHORT]}))["usage"]


async def test_feedback_and_rerank_count_them_too(service: Service):
    learned = await service.post("/feedback", TEXTS | {"chosen_text": "zzqq", "rejected_text": "qqzz"})
    assert learned["unknown_tokens"] == 2
    assert "unknown_tokens" not in await service.post("/feedback", TEXTS)
    ranked = await service.post("/v1/rerank", {"query": PROMPT, "documents": ["zzqq", SHORT]})
    assert ranked["usage"]["unknown_tokens"] == 1
    assert "unknown_tokens" not in (await service.post("/v1/rerank", {"query": PROMPT, "documents": [SHORT]}))["usage"]
