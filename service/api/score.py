"""`POST /score`: candidates as one user would see them, with uncertainty and, on request, the heads behind each score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import APIRouter, Request
from starlette.responses import Response

from attune.service.api.answer_json import UserSeen, json_response, problems
from attune.service.api.prompted import (
    Context,
    Prompted,
    User,
    Written,
    check_length,
    check_prompt_length,
    refuse,
    wrong_family,
    wrong_prompt,
)
from attune.service.errors import FieldError
from attune.service.http.documentation import operation_name
from attune.service.ids import new_id
from attune.service.live.runtime import Call, RequestLimits, TextReading
from attune.service.usecases.people import Personalization
from attune.service.usecases.text_scores import Contribution, Scoring, score_responses

router = APIRouter(tags=["users"], generate_unique_id_function=operation_name)


class ScoreRequest(Prompted):
    """Body of `POST /score`.

    Attributes:
        responses: the answers to compare, 1 to `max_candidates` (a setting), each of at most `max_response_chars` characters
        family: the reward family that scores, one of `GET /bundle`; null is the one that serves
        explain: true adds to each score what every head contributed to it
    """

    user: User
    responses: list[Written]
    context: Context | None = None
    family: str | None = None
    explain: bool = False


@dataclass(frozen=True, slots=True)
class ScoreOfOne:
    """One response as this user would see it; `std` is the user's posterior uncertainty; rank 1 is best.

    `truncated_tokens` of the response's end were not read.

    Attributes:
        index: place of the response in the request, from 0
        score: reward of the response for this user, in logits: a difference of 1 means that the higher one wins 73 % of
            comparisons
        std: standard deviation of the score over what is not yet known of the user, in logits
        rank: 1 for the best response of this request
        explanation: contributions of the heads, largest first; only with `explain`
        truncated_tokens: tokens at the end of the response that the scorer had no room for; missing if it read all
    """

    index: int
    score: float
    std: float
    rank: int
    explanation: list[Contribution] | None = None
    truncated_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class ScoreUsage:
    """Tokens through the scorer; those of all texts, and of the prompt's beginning, that it had no room for; and those it does not know.

    Attributes:
        tokens: tokens that went through the scorer, templates included
        truncated_tokens: tokens of all texts that the scorer had no room for; missing if there were none
        dropped_prompt_tokens: tokens cut from the beginning of the prompt; missing if there were none
        unknown_tokens: tokens that the trunk's vocabulary does not know; many of them mean that the score says little
    """

    tokens: int
    truncated_tokens: int | None = None
    dropped_prompt_tokens: int | None = None
    unknown_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class ScoreAnswer:
    """Answer of `POST /score`; contributions of a response sum to its score.

    Attributes:
        id: names this answer in logs; nothing is kept under it, so feedback on scored texts sends the texts
        bundle: the bundle that scored
        family: the reward family that scored
        personalization: `applied`: the user's own comparisons counted; `prior`: there are none yet; `unavailable`: the store
            did not answer in time, and the prior scored
        user: whose scores these are
        scores: one for each response, in the order of the request
        weights: the user's weight of each of the family's heads; shares that sum to 1, or any numbers (kind `attributes`)
        usage: tokens read, and those that could not be
    """

    id: str
    bundle: str
    family: str
    personalization: Personalization
    user: UserSeen
    scores: list[ScoreOfOne]
    weights: dict[str, float]
    usage: ScoreUsage


@router.post("/score", response_model=ScoreAnswer, responses=problems(413), summary="Score responses for a user")
async def score(body: ScoreRequest, request: Request) -> Response:
    """Scores 1..`max_candidates` responses to one prompt as this user would see them; `explain` adds the heads behind each."""
    call: Call = request.state.call
    limits, bundle = call.runtime.limits, call.serving.bundle
    refuse(wrong_prompt(body) + wrong_responses(body.responses, limits) + wrong_family(body.family, bundle.families))
    call.reading.truncate = body.truncate
    check_prompt_length(body, limits)
    check_response_lengths(body.responses, limits)
    scored = await score_responses(
        call, Scoring(body.user, body.prompt_text or "", body.responses, body.context, body.family, body.explain)
    )
    each = enumerate(zip(scored.scores.texts, scored.scores.ranks(), strict=True))
    return json_response(
        ScoreAnswer(
            id=new_id(),
            bundle=bundle.id,
            family=scored.family,
            personalization=scored.person.personalization,
            user=UserSeen(scored.person.id, scored.person.comparisons),
            scores=[
                ScoreOfOne(index, text.score, text.std, rank, text.contributions, scored.truncated_tokens[index] or None)
                for index, (text, rank) in each
            ],
            weights=scored.scores.weights,
            usage=usage_of(call.reading, scored.tokens),
        )
    )


def usage_of(reading: TextReading, tokens: int) -> ScoreUsage:
    """Returns what was read and what was not; zeros are left out."""
    cut = reading.truncated_tokens or None
    return ScoreUsage(tokens, cut, reading.truncated_prompt_tokens or None, reading.unknown_tokens or None)


def wrong_responses(responses: Sequence[str], limits: RequestLimits) -> list[FieldError]:
    """Returns what is wrong with the number of responses."""
    if 1 <= len(responses) <= limits.max_candidates:
        return []
    return [FieldError("responses", f"has {len(responses)} items; 1 to {limits.max_candidates} are scored")]


def check_response_lengths(responses: Sequence[str], limits: RequestLimits) -> None:
    """Returns if every response is within the limit.

    Raises:
        TooLarge: one is not; the detail has its index, the number and the limit.
    """
    for index, response in enumerate(responses):
        check_length(f"responses[{index}]", response, limits.max_response_chars)
