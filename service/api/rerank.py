"""`POST /v1/rerank`, as Cohere, Jina and vLLM have it: documents by relevance to a user.

Without a `user` the prior scores. Unknown fields are ignored, as these clients expect.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from attune.models.seam.hedge import sigmoid
from attune.service.api.answers import json_response
from attune.service.api.chat import AUTO, OpenRequest
from attune.service.api.prompted import Text, User, Written, check_length, refuse
from attune.service.api.score import check_response_lengths, wrong_responses
from attune.service.errors import UnknownMember, printable
from attune.service.ids import new_id
from attune.service.live.runtime import Call
from attune.service.usecases.scoring import Scoring, score_responses

router = APIRouter(prefix="/v1", tags=["compatible"])


class RerankDocument(OpenRequest):
    """A document as an object; only its text is read."""

    text: Written


class RerankRequest(OpenRequest):
    """Body of `POST /v1/rerank`."""

    query: Written
    documents: Annotated[list[Written | RerankDocument], Field(min_length=1)]
    model: Annotated[Text, Field(max_length=256)] | None = None
    top_n: Annotated[int, Field(ge=1)] | None = None
    return_documents: bool = False
    user: User | None = None

    @property
    def texts(self) -> list[str]:
        """The documents' texts, in order."""
        return [document if isinstance(document, str) else document.text for document in self.documents]


@router.post("/rerank", summary="Rerank documents for `user`")
async def rerank(body: RerankRequest, request: Request) -> Response:
    """Documents by relevance to this user."""
    call: Call = request.state.call
    limits, families, texts = call.runtime.limits, call.serving.bundle.families, body.texts
    family = None if body.model in {None, AUTO} else body.model
    if family is not None and family not in families:
        raise UnknownMember(f"model {printable(family)!r} is none of {AUTO}, {', '.join(families.names)}")
    refuse(wrong_responses(texts, limits))
    check_length("prompt", body.query, limits.max_prompt_chars)
    check_response_lengths(texts, limits)
    scored = await score_responses(call, Scoring(body.user, body.query, texts, family=family))
    # Rewards have no bounds and these clients expect a relevance within 0..1; the order is that of the scores.
    relevance = sigmoid(np.array([text.score for text in scored.scores.texts]))
    by_rank = sorted(zip(scored.scores.ranks(), range(len(texts)), strict=True))
    results = [
        {
            "index": index,
            "relevance_score": float(relevance[index]),
            **({"document": {"text": texts[index]}} if body.return_documents else {}),
        }
        for _, index in by_rank[: body.top_n or len(texts)]
    ]
    usage = {"total_tokens": scored.tokens, "prompt_tokens": scored.tokens}
    if call.reading.truncated_tokens:
        usage["truncated_tokens"] = call.reading.truncated_tokens
    return json_response({"id": f"rerank-{new_id()}", "model": scored.family, "results": results, "usage": usage})
