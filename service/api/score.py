"""`POST /score`: candidates as one user would see them, with uncertainty and, on request, the heads behind each score."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from attune.models.seam.family import Row
from attune.models.seam.text import Encoded
from attune.service.api.answers import ScoreAnswer, ScoreOfOne, ScoreUsage, json_response, problems
from attune.service.api.checks import check_fits, check_score
from attune.service.api.wire import ScoreRequest
from attune.service.ids import new_id
from attune.service.live.runtime import Call
from attune.service.usecases.people import read_person
from attune.service.usecases.scoring import both, encode, score_candidates, submit

router = APIRouter()


@router.post("/score", response_model=ScoreAnswer, responses=problems(413), summary="Score responses for a user")
async def score(body: ScoreRequest, request: Request) -> Response:
    """Scores 1..`max_candidates` responses to one prompt as this user would see them; `explain` adds the heads behind each."""
    call: Call = request.state.call
    return json_response(await score_texts(call, body, body.user))


async def score_texts(call: Call, body: ScoreRequest, user: str | None) -> ScoreAnswer:
    """Returns the responses of `body` as `user` sees them; the prior's view if there is no user.

    Raises:
        InvalidRequest, TooLarge: the request is malformed or over a limit.
        Overloaded, DeadlineExceeded, ScorerFailed, NotReady: see `Batcher.submit`.
    """
    bundle = call.serving.bundle
    check_score(body, call.runtime.limits, bundle.families)
    name, count = body.family or call.serving.family, len(body.responses)
    with_prompt = bundle.families[name].scores_with_prompt

    async def rows_of_texts() -> tuple[list[Encoded], list[Row]]:
        encoded = await encode(call, body.prompt_text or "", body.responses, context=body.context, with_prompt=with_prompt)
        check_fits(encoded[:count], bundle.template, [f"responses[{index}]" for index in range(count)])
        return encoded, await submit(call, encoded)

    person, (encoded, rows) = await both(read_person(call, user), rows_of_texts())
    scores = score_candidates(bundle.families, name, person, rows[:count], rows[count] if with_prompt else None)
    scored = enumerate(zip(scores.texts, scores.ranks(), strict=True))
    return ScoreAnswer(
        id=new_id(),
        bundle=bundle.id,
        family=name,
        personalization=person.personalization,
        user=person.seen,
        scores=[
            ScoreOfOne(index, text.score, text.std, rank, text.contributions if body.explain else None) for index, (text, rank) in scored
        ],
        weights=scores.weights,
        usage=ScoreUsage(sum(map(len, encoded)), max(row.dropped_prompt_tokens for row in encoded) or None),
    )
