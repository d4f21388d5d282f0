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
    [({"documents": []}, 400), ({"query": ""}, 400), ({"documents": ["x"] * 65}, 400), ({"model": "nobody"}, 404), ({"top_n": 0}, 400)],
)
async def test_bad_rerank_requests_are_openai_error_objects(service: Service, given: dict[str, Any], status: int):
    answer = await service.post("/v1/rerank", {"query": PROMPT, "documents": [SHORT, LONG]} | given, status=status)
    assert answer["error"]["message"]
