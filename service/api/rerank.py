"""`POST /v1/rerank`, `/v2/rerank` and `/rerank`, as Cohere, Jina and vLLM have it: documents by relevance to a user.

Without a `user` the prior scores. Unknown fields are ignored, as these clients expect.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from attune.models.seam.hedge import sigmoid
from attune.models.seam.json_lines import kind_of
from attune.service.api.answer_json import json_response
from attune.service.api.chat import user_of
from attune.service.api.compatible_shapes import RerankAnswer
from attune.service.api.promises import OpenRequest
from attune.service.api.prompted import MAX_USER_CHARS, Text, Written, check_length, refuse, sound_unicode
from attune.service.errors import FieldError
from attune.service.ids import new_id
from attune.service.live.runtime import Call
from attune.service.usecases.text_scores import Scoring, score_responses

router = APIRouter(tags=["compatible"])

MOST_DOCUMENTS = 1000
"""Of one request, as Cohere has it; they are scored in groups of what a native request may hold."""


MOST_FIELDS = 64


class RerankRequest(OpenRequest):
    """Body of `/v1/rerank`, `/v2/rerank` and `/rerank`; in every optional place an empty value stands for none.

    Attributes:
        query: what the documents answer, at most `max_prompt_chars` characters
        rank_fields: names of fields of documents that are objects, whose texts are read in this order, a line each; null is `text`
        top_n: how many results are wanted; null is all
        return_documents: true repeats each document's text in its result
    """

    query: Written
    documents: Annotated[
        list[Any],
        Field(min_length=1, max_length=MOST_DOCUMENTS, description="texts, or objects with `text`; one without text is ranked last"),
    ]
    model: Annotated[Text, Field(max_length=256, description="`auto`, or a family; any other name is read as `auto`")] | None = None
    rank_fields: Annotated[list[Text], Field(max_length=MOST_FIELDS)] | None = None
    top_n: Annotated[int, Field(ge=1)] | None = None
    return_documents: bool | None = None
    user: Annotated[str, Field(max_length=MAX_USER_CHARS, description="whose preferences decide; any opaque string")] | None = None


@router.post("/v1/rerank", response_model=RerankAnswer, summary="Rerank documents for `user`")
@router.post("/v2/rerank", name="rerank_v2", response_model=RerankAnswer, summary="The same, where Cohere's second API has it")
@router.post("/rerank", name="rerank_plain", response_model=RerankAnswer, summary="The same, where Jina, vLLM and infinity have it")
async def rerank(body: RerankRequest, request: Request) -> Response:
    """Documents by relevance to this user."""
    call: Call = request.state.call
    limits, families = call.runtime.limits, call.serving.bundle.families
    # Clients of others send those others' names of models, without knowing ours.
    family = body.model if body.model in families else None
    texts = _texts(body.documents, body.rank_fields or ["text"])
    check_length("query", body.query, limits.max_prompt_chars)
    for index, text in enumerate(texts):
        check_length(f"documents[{index}]", text, limits.max_response_chars)
    user = user_of(request, body.user)
    filled = [index for index, text in enumerate(texts) if text.strip()]
    scores, tokens, name = np.full(len(texts), -np.inf), 0, family or call.serving.family
    for start in range(0, len(filled), limits.max_candidates):
        group = filled[start : start + limits.max_candidates]
        scored = await score_responses(call, Scoring(user, body.query, [texts[index] for index in group], family=family))
        scores[group] = [text.score for text in scored.scores.texts]
        tokens += scored.tokens
    # Rewards have no bounds and these clients expect a relevance within 0..1; the order is that of the scores.
    relevance = sigmoid(scores)
    order = np.argsort(-scores, kind="stable")[: body.top_n or len(texts)]
    results = [
        {
            "index": int(index),
            "relevance_score": float(relevance[index]),
            **({"document": {"text": texts[index]}} if body.return_documents else {}),
        }
        for index in order
    ]
    usage = {"total_tokens": tokens, "prompt_tokens": tokens}
    if call.reading.truncated_tokens:
        usage["truncated_tokens"] = call.reading.truncated_tokens
    meta = {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}}
    return json_response({"id": f"rerank-{new_id()}", "model": name, "results": results, "usage": usage, "meta": meta})


def _texts(documents: list[Any], fields: list[str]) -> list[str]:
    """Returns the documents' texts, empty for one that has none.

    Raises:
        InvalidRequest: a document is neither a text nor an object, a field of it is no text, or it holds what is no Unicode.
    """
    texts, wrong = [], []
    for index, document in enumerate(documents):
        parts = [document.get(field) for field in fields] if isinstance(document, dict) else [document]
        odd = next((part for part in parts if part is not None and not isinstance(part, str)), None)
        if odd is not None:
            told = f"is {kind_of(document)}; a text or an object with {' and '.join(f'`{field}`' for field in fields)} is needed"
            wrong.append(FieldError(f"documents[{index}]", told))
            continue
        try:
            texts.append(sound_unicode("\n".join(part for part in parts if part)))
        except ValueError as error:
            wrong.append(FieldError(f"documents[{index}]", str(error)))
    refuse(wrong)
    return texts
