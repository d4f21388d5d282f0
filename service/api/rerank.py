"""`POST /v1/rerank`, `/v2/rerank` and `/rerank`, as Cohere, Jina, vLLM and TEI have it: documents by relevance to a user.

A body with `texts` in the place of `documents` is one of text-embeddings-inference (TEI), and gets TEI's answer, a list: nobody else sends
that name, so the two cannot be taken for each other. Without a `user` the prior scores. Unknown fields are ignored, as these
clients expect.
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
from attune.service.api.compatible_shapes import RankedText, RerankAnswer
from attune.service.api.promises import OpenRequest
from attune.service.api.prompted import MAX_USER_CHARS, Text, Written, check_length, refuse, sound_unicode
from attune.service.errors import FieldError
from attune.service.http.documentation import operation_name
from attune.service.ids import new_id
from attune.service.live.runtime import Call
from attune.service.usecases.text_scores import Scoring, score_responses

router = APIRouter(tags=["compatible"], generate_unique_id_function=operation_name)

MOST_DOCUMENTS = 1000
"""Of one request, as Cohere has it; they are scored in groups of what a native request may hold."""


MOST_FIELDS = 64
LEAST_RAW = -1000.0
"""The raw score of a text without words, which nobody scores: below every reward, and its logistic is 0."""


class RerankRequest(OpenRequest):
    """Body of `/v1/rerank`, `/v2/rerank` and `/rerank`; in every optional place an empty value stands for none.

    Attributes:
        query: what the documents answer, at most `max_prompt_chars` characters
        raw_scores: with `texts`: true gives rewards, in logits, and false their logistic, from 0 to 1
        return_text: with `texts`: true repeats each text in its result
        truncate: with `texts`: false refuses texts for which the scorer has no room; missing or true cuts them
        rank_fields: names of fields of documents that are objects, whose texts are read in this order, a line each; null is `text`
        top_n: how many results are wanted; null is all
        return_documents: true repeats each document's text in its result
    """

    query: Written
    documents: (
        Annotated[
            list[Any],
            Field(min_length=1, max_length=MOST_DOCUMENTS, description="texts, or objects with `text`; one without text is ranked last"),
        ]
        | None
    ) = None
    texts: (
        Annotated[
            list[Any],
            Field(min_length=1, max_length=MOST_DOCUMENTS, description="in place of `documents`, as TEI has it; the answer is TEI's list"),
        ]
        | None
    ) = None
    model: Annotated[Text, Field(max_length=256, description="`auto`, or a family; any other name is read as `auto`")] | None = None
    rank_fields: Annotated[list[Text], Field(max_length=MOST_FIELDS)] | None = None
    top_n: Annotated[int, Field(ge=1)] | None = None
    return_documents: bool | None = None
    raw_scores: bool | None = None
    return_text: bool | None = None
    truncate: Any = None
    user: Annotated[str, Field(max_length=MAX_USER_CHARS, description="whose preferences decide; any opaque string")] | None = None

    def given(self) -> tuple[str, list[Any]]:
        """Returns the name of the field that holds the documents, and what it holds.

        Raises:
            InvalidRequest: neither field is there, or both are, or TEI's `truncate` is no truth value.
        """
        if self.texts is None:
            missing = "is missing; send `documents`, or `texts` as text-embeddings-inference has it"
            refuse([FieldError("documents", missing)] if self.documents is None else [])
            return "documents", self.documents or []
        wrong = [FieldError("texts", "and `documents` are both there; send one of them")] if self.documents is not None else []
        if self.truncate is not None and not isinstance(self.truncate, bool):
            wrong.append(FieldError("truncate", f"is {kind_of(self.truncate)}; true or false is needed"))
        refuse(wrong)
        return "texts", self.texts


Ranked = RerankAnswer | list[RankedText]


@router.post("/v1/rerank", response_model=Ranked, summary="Rerank documents for `user`")
@router.post("/v2/rerank", name="rerank_v2", response_model=Ranked, summary="Rerank, where Cohere's second API has it")
@router.post("/rerank", name="rerank_plain", response_model=Ranked, summary="Rerank, where Jina, vLLM, infinity and TEI have it")
async def rerank(body: RerankRequest, request: Request) -> Response:
    """Documents by relevance to this user; in answer to `texts` a list of index and score, best first, as TEI has it."""
    call: Call = request.state.call
    limits, families = call.runtime.limits, call.serving.bundle.families
    # Clients of others send those others' names of models, without knowing ours.
    family = body.model if body.model in families else None
    field, documents = body.given()
    call.reading.truncate = field == "documents" or body.truncate is not False
    texts = _texts(field, documents, body.rank_fields or ["text"])
    check_length("query", body.query, limits.max_prompt_chars)
    for index, text in enumerate(texts):
        check_length(f"{field}[{index}]", text, limits.max_response_chars)
    user = user_of(request, body.user)
    filled = [index for index, text in enumerate(texts) if text.strip()]
    scores, tokens, name = np.full(len(texts), -np.inf), 0, family or call.serving.family
    for start in range(0, len(filled), limits.max_candidates):
        group = filled[start : start + limits.max_candidates]
        names = [f"{field}[{index}]" for index in group]
        scored = await score_responses(call, Scoring(user, body.query, [texts[index] for index in group], family=family, fields=names))
        scores[group] = [text.score for text in scored.scores.texts]
        tokens += scored.tokens
    # Rewards have no bounds and these clients expect a relevance within 0..1; the order is that of the scores.
    relevance = sigmoid(scores)
    order = np.argsort(-scores, kind="stable")[: body.top_n or len(texts)]
    if field == "texts":
        told = np.maximum(scores, LEAST_RAW) if body.raw_scores else relevance
        return json_response(
            [{"index": int(index), **({"text": texts[index]} if body.return_text else {}), "score": float(told[index])} for index in order]
        )
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
    if call.reading.unknown_tokens:
        usage["unknown_tokens"] = call.reading.unknown_tokens
    meta = {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}}
    return json_response({"id": f"rerank-{new_id()}", "model": name, "results": results, "usage": usage, "meta": meta})


def _texts(name: str, documents: list[Any], fields: list[str]) -> list[str]:
    """Returns the documents' texts, empty for one that has none; `name` is that of their field.

    Raises:
        InvalidRequest: a document is neither a text nor an object, a field of it is no text, or it holds what is no Unicode.
    """
    texts, wrong = [], []
    for index, document in enumerate(documents):
        parts = [document.get(field) for field in fields] if isinstance(document, dict) else [document]
        odd = next((part for part in parts if part is not None and not isinstance(part, str)), None)
        if odd is not None:
            told = f"is {kind_of(document)}; a text or an object with {' and '.join(f'`{field}`' for field in fields)} is needed"
            wrong.append(FieldError(f"{name}[{index}]", told))
            continue
        try:
            texts.append(sound_unicode("\n".join(part for part in parts if part)))
        except ValueError as error:
            wrong.append(FieldError(f"{name}[{index}]", str(error)))
    refuse(wrong)
    return texts
