"""`POST /v1/rerank`: documents by relevance to a user, in the shapes that rerank clients know."""

from __future__ import annotations

from typing import Any

import pytest

from tests.endpoints.conftest import LONG, PROMPT, SHORT, WARM, Service


async def test_rerank_orders_documents_for_the_user_as_score_does(service: Service):
    documents = [SHORT, LONG, {"text": WARM}]
    body = {"model": "auto", "query": PROMPT, "documents": documents, "user": "u1", "return_documents": True}
    for _ in range(4):
        await service.post("/feedback", {"user": "u1", "prompt": PROMPT, "chosen_text": WARM, "rejected_text": LONG})
    answer = await service.post("/v1/rerank", body)
    scored = await service.post("/score", {"user": "u1", "prompt": PROMPT, "responses": [SHORT, LONG, WARM]})
    ranks = {score["index"]: score["rank"] for score in scored["scores"]}
    assert [ranks[result["index"]] for result in answer["results"]] == [1, 2, 3]
    assert answer["results"][0]["document"] == {"text": WARM}
    relevance = [result["relevance_score"] for result in answer["results"]]
    assert relevance == sorted(relevance, reverse=True)
    assert all(0 < value < 1 for value in relevance)
    assert answer["usage"]["total_tokens"] == scored["usage"]["tokens"]


async def test_rerank_gives_the_first_that_were_asked_for_and_any_family(service: Service):
    answer = await service.post("/v1/rerank", {"model": "micro", "query": PROMPT, "documents": [SHORT, LONG, WARM], "top_n": 2})
    assert (answer["model"], len(answer["results"])) == ("micro", 2)
    assert "document" not in answer["results"][0]


@pytest.mark.parametrize(
    ("given", "status"),
    [({"documents": []}, 400), ({"query": ""}, 400), ({"documents": ["x"] * 1001}, 400), ({"documents": [3]}, 400), ({"top_n": 0}, 400)],
)
async def test_bad_rerank_requests_are_openai_error_objects(service: Service, given: dict[str, Any], status: int):
    answer = await service.post("/v1/rerank", {"query": PROMPT, "documents": [SHORT, LONG]} | given, status=status)
    assert answer["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank"])
async def test_every_usual_path_takes_large_batches_names_of_others_models_and_documents_without_text(service: Service, path: str):
    documents = [WARM, "", "   ", {"title": "no text"}, *[LONG] * 100]
    answer = await service.post(path, {"model": "rerank-v3.5", "query": PROMPT, "documents": documents, "top_n": None, "user": ""})
    assert [result["index"] for result in answer["results"][-3:]] == [1, 2, 3]
    assert [result["relevance_score"] for result in answer["results"][-3:]] == [0.0, 0.0, 0.0]
    alone = await service.post(path, {"query": PROMPT, "documents": [WARM, LONG]})
    relevance = {result["index"]: result["relevance_score"] for result in answer["results"]}
    assert [result["relevance_score"] for result in alone["results"]] == pytest.approx([relevance[0], relevance[103]], abs=1e-6)


async def test_a_wrong_document_is_named_as_the_client_knows_it(service: Service):
    answer = await service.post("/v1/rerank", {"query": PROMPT, "documents": ["a", 7, "b"]}, status=400)
    assert answer["error"]["param"] == "documents[1]"
    long = await service.post("/v2/rerank", {"query": PROMPT, "documents": ["a", "x" * 40_000]}, status=400)
    assert long["error"]["code"] == "context_length_exceeded"
    assert "documents[1] has 40,000 characters; the limit is 32,768" in long["message"]


async def test_the_fields_that_are_named_are_read_in_their_order(service: Service):
    documents = [{"title": SHORT, "text": WARM}, {"title": LONG, "note": WARM}, {"title": "", "text": SHORT}, WARM]
    answer = await service.post(
        "/v1/rerank", {"query": PROMPT, "documents": documents, "rank_fields": ["title", "note"], "return_documents": True}
    )
    plain = await service.post("/v1/rerank", {"query": PROMPT, "documents": [SHORT, f"{LONG}\n{WARM}", "", WARM], "return_documents": True})
    assert answer["results"] == plain["results"]
    assert answer["results"][-1] == {"index": 2, "relevance_score": 0.0, "document": {"text": ""}}


async def test_a_field_that_is_no_text_is_named(service: Service):
    asked = {"query": PROMPT, "documents": [{"title": "a", "year": 2026}], "rank_fields": ["title", "year"]}
    answer = await service.post("/v1/rerank", asked, status=400)
    assert answer["error"]["param"] == "documents[0]"
    assert "an object with `title` and `year`" in answer["message"]


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank"])
async def test_a_body_of_text_embeddings_inference_gets_its_answer(service: Service, path: str):
    told = {"query": PROMPT, "texts": [SHORT, LONG, "", WARM]}
    scored = await service.post("/score", {"prompt": PROMPT, "user": "u1", "responses": [SHORT, LONG, WARM]})
    reward = dict(zip((0, 1, 3), [each["score"] for each in scored["scores"]], strict=True)) | {2: -1000.0}
    order = sorted(reward, key=lambda index: -reward[index])
    raw = (await service.client.post(path, json=told | {"user": "u1", "raw_scores": True, "return_text": True, "truncate": True})).json()
    assert [(each["index"], each["text"]) for each in raw] == [(index, told["texts"][index]) for index in order]
    assert [each["score"] for each in raw] == pytest.approx([reward[index] for index in order], abs=1e-6)
    plain = (await service.client.post(path, json=told | {"raw_scores": False, "return_text": False})).json()
    assert [sorted(each) for each in plain] == [["index", "score"]] * 4
    documents = await service.post(path, {"query": PROMPT, "documents": told["texts"]})
    assert [(each["index"], each["score"]) for each in plain] == [(each["index"], each["relevance_score"]) for each in documents["results"]]


@pytest.mark.parametrize(
    ("given", "field", "message"),
    [
        ({}, "documents", "send `documents`, or `texts`"),
        ({"texts": [SHORT], "documents": [SHORT]}, "texts", "`documents` are both there"),
        ({"texts": [SHORT, 7]}, "texts[1]", "is a number"),
        ({"texts": []}, "texts", ""),
        ({"texts": [SHORT], "truncate": "END"}, "truncate", "true or false is needed"),
        ({"texts": [SHORT], "truncate": 0}, "truncate", "true or false is needed"),
        ({"texts": [SHORT, "x" * 40_000]}, None, "texts[1] has 40,000 characters"),
        ({"texts": [SHORT, "egg " * 4_000], "truncate": False}, None, "texts[1] has 4,000 tokens"),
    ],
)
async def test_a_wrong_body_of_text_embeddings_inference_is_told_by_its_own_names(
    service: Service, given: dict[str, Any], field: str | None, message: str
):
    answer = await service.post("/rerank", {"query": PROMPT} | given, status=400)
    assert answer["error"]["param"] == field or field is None
    assert message in answer["error"]["message"]
