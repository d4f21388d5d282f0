"""The body of `POST /feedback` in each of its forms, checked, and what it says.

    FeedbackRequest (one flat model) ─> which form ─> what is wrong with its fields ─> Told

A request is one form; which one is told by the fields that are there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Annotated, Literal

import orjson
from pydantic import AwareDatetime, BeforeValidator, Field

from attune.models.seam.weighted import MOST_RANKED
from attune.service.api.prompted import Context, Id, Prompted, User, Written, check_length, check_prompt_length, refuse, wrong_prompt
from attune.service.errors import FieldError
from attune.service.ids import new_id, split_candidate
from attune.service.live.runtime import RequestLimits
from attune.service.state.records import checked_event_id
from attune.service.usecases.forms_of_feedback import Form, Graded, Preferred, Ranked
from attune.service.usecases.learning import Told
from attune.service.usecases.named_answers import ById, ByText, EditedFrom, Named
from attune.service.usecases.reading_ahead import JudgedTexts

CLOCK_SKEW_S = 60.0
"""Clocks of clients differ from ours by this much before an observation is said to lie in the future."""


def _written_time(value: object) -> object:
    """Lets through what may be a time as RFC 3339 writes it; a number, or a text that is one, does not say its unit."""
    if not isinstance(value, str) or "-" not in value[1:]:
        raise ValueError("must be a valid datetime as RFC 3339 writes it, such as 2026-11-28T12:00:00Z")
    return value


class FeedbackRequest(Prompted):
    """Body of `POST /feedback`, one of:

    - a pair: `chosen` and `rejected` (candidate ids), or `prompt`, `chosen_text` and `rejected_text`; with `tie` neither was better;
    - one answer: `rating` from 0 to 1 of `candidate` (an id), or of `response_text` with its `prompt`;
    - a ranking: candidate ids, best first;
    - what the user did: `kept` one answer `over` another, and `how`: ids, or texts with their `prompt`; it weighs less than a choice.

    Attributes:
        user: whose feedback it is; candidates that are named must belong to a decision for the same user
        chosen: candidate id of the answer that was better
        rejected: candidate id of the other one; it may be of another decision for the same user
        chosen_text: text of the answer that was better, at most `max_response_chars` characters
        rejected_text: text of the other one; it must differ
        candidate: candidate id of the answer that is rated
        response_text: text of the answer that is rated
        kept: the answer that the user stayed with: its candidate id, or its text
        over: the answer that the user did without: its candidate id, or its text
        how: what the user did: asked again (`regenerate`), changed the answer (`edit`), or took one over (`copy`)
        decision_id: a decision whose prompt goes with the texts; beside candidate ids it must be theirs
        tie: true with a pair of which neither was better
        event_id: makes a repeat harmless: an event is learned once; 1 to 256 bytes without control characters; one is made up
            if it is missing
        observed_at: when the user said so, RFC 3339 with an offset; at most 60 s ahead of this server's clock; now if it is
            missing
    """

    user: User
    chosen: Id | None = None
    rejected: Id | None = None
    chosen_text: Written | None = None
    rejected_text: Written | None = None
    candidate: Id | None = None
    response_text: Written | None = None
    rating: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False, description="0 is as bad as can be; thumbs are 0 and 1")] | None = None
    ranking: Annotated[list[Id], Field(min_length=2, max_length=MOST_RANKED, description="candidate ids, best first")] | None = None
    kept: Written | None = None
    over: Written | None = None
    how: Literal["regenerate", "edit", "copy"] | None = None
    decision_id: Id | None = None
    context: Context | None = None
    tie: bool = False
    event_id: Id | None = None
    observed_at: Annotated[AwareDatetime, BeforeValidator(_written_time), Field(strict=False)] | None = None


_FORMS = {
    "ids": ("chosen", "rejected"),
    "texts": ("chosen_text", "rejected_text"),
    "rating": ("rating", "candidate", "response_text"),
    "ranking": ("ranking",),
    "kept": ("kept", "over", "how"),
}
_LATER = frozenset({*_FORMS["rating"], *_FORMS["ranking"], *_FORMS["kept"]})
"""Fields that earlier versions did not know: a body without them keeps the digest that it had."""

_ONLY_TEXTS = ("chosen_text", "rejected_text", "response_text")
_TEXTS = (*_ONLY_TEXTS, "kept", "over")


def told_by(body: FeedbackRequest, header: str | None, limits: RequestLimits, now_s: float) -> Told:
    """Returns what is said, whole.

    Args:
        body: of the request.
        header: the event id in `Idempotency-Key`; None if there is none.
        limits: of texts.
        now_s: Unix seconds.

    Raises:
        InvalidRequest: it is no form or several, its two event ids differ, or it was observed in the future.
        TooLarge: a text is over its limit.
    """
    given = [form for form, fields in _FORMS.items() if any(getattr(body, name) is not None for name in fields)]
    wrong = _mixed(body, given) if len(given) > 1 else _CHECKS[given[0] if given else "ids"](body)
    if body.tie and given and given[0] not in {"ids", "texts"}:
        wrong.append(FieldError("tie", f"has no place beside `{_FORMS[given[0]][0]}`; it belongs to a pair"))
    wrong += [FieldError(name, "is a candidate id, and no text") for name in _ONLY_TEXTS if _is_id(getattr(body, name))]
    observed_s = now_s if body.observed_at is None else body.observed_at.timestamp()
    refuse(wrong + _wrong_event(body.event_id, header) + _wrong_time(observed_s - now_s))
    check_prompt_length(body, limits)
    for name in _TEXTS:
        check_length(name, getattr(body, name) or "", limits.max_response_chars)
    named, form = _said(body)
    event_id = header if body.event_id is None else body.event_id
    return Told(body.user, new_id() if event_id is None else event_id, digest(body), min(observed_s, now_s), named, form)


def judged_texts(body: FeedbackRequest, limits: RequestLimits) -> JudgedTexts | None:
    """Returns the texts of a body that says them all, to be scored ahead; None where it names what is kept, or will be refused."""
    answers = tuple(text for name in _TEXTS if (text := getattr(body, name)))
    prompt = body.prompt_text
    if not answers or not prompt or wrong_prompt(body) or max(map(len, answers)) > limits.max_response_chars:
        return None
    return JudgedTexts(prompt, body.context, answers)


def digest(body: FeedbackRequest) -> bytes:
    """Returns 16 bytes that are equal for two bodies that say the same; neither the event id nor how texts are read is part of it."""
    said = body.model_dump(mode="json", exclude={"event_id", "truncate"})
    said = {name: value for name, value in said.items() if value is not None or name not in _LATER}
    return hashlib.blake2b(orjson.dumps(said, option=orjson.OPT_SORT_KEYS), digest_size=16).digest()


def _said(body: FeedbackRequest) -> tuple[Named, Form]:
    """Returns the answers and what is said of them, of a body with which nothing is wrong."""
    if body.rating is not None:
        if body.candidate is not None:
            return ById((body.candidate,), ("candidate",)), Graded(body.rating)
        return _by_text(body, "response_text"), Graded(body.rating)
    if body.ranking is not None:
        return ById(tuple(body.ranking), tuple(f"ranking[{place}]" for place in range(len(body.ranking)))), Ranked()
    if body.kept is not None and body.over is not None:
        if not _is_id(body.over):
            return _by_text(body, "kept", "over"), Preferred(how=body.how)
        if not _is_id(body.kept):
            return EditedFrom(body.kept, body.over, ("kept", "over")), Preferred(how=body.how)
        return ById((body.kept, body.over), ("kept", "over")), Preferred(how=body.how)
    if body.chosen is not None and body.rejected is not None:
        return ById((body.chosen, body.rejected), _FORMS["ids"]), Preferred(body.tie)
    return _by_text(body, *_FORMS["texts"]), Preferred(body.tie)


def _by_text(body: FeedbackRequest, *fields: str) -> ByText:
    return ByText(tuple(getattr(body, name) for name in fields), fields, body.prompt_text, body.context, body.decision_id)


def _has_prompt(body: FeedbackRequest) -> bool:
    return body.prompt is not None or body.messages is not None


def _is_id(answer: str | None) -> bool:
    return answer is not None and split_candidate(answer) is not None


# --- what is wrong ------------------------------------------------------------------------------------------------


def _mixed(body: FeedbackRequest, given: list[str]) -> list[FieldError]:
    if given == ["ids", "texts"]:
        return [FieldError("chosen_text", "cannot stand beside candidate ids; send either two ids or two texts")]
    first, second = (next(name for name in _FORMS[form] if getattr(body, name) is not None) for form in given[:2])
    return [FieldError(second, f"cannot stand beside `{first}`; one request is one form of feedback")]


def _wrong_texts(body: FeedbackRequest) -> list[FieldError]:
    fields = _FORMS["texts"]
    wrong = [FieldError(name, "is missing; feedback by texts needs both") for name in fields if not getattr(body, name)]
    if not wrong and body.chosen_text == body.rejected_text:
        wrong.append(FieldError("rejected_text", "equals chosen_text; a comparison needs two different answers"))
    return wrong + _wrong_prompt_of_texts(body)


def _wrong_prompt_of_texts(body: FeedbackRequest) -> list[FieldError]:
    return wrong_prompt(body) if body.decision_id is None or _has_prompt(body) else []


def _wrong_ids(body: FeedbackRequest) -> list[FieldError]:
    missing = [name for name in _FORMS["ids"] if getattr(body, name) is None]
    wrong = [
        FieldError(name, "is missing; send `chosen` and `rejected` (candidate ids), or `prompt`, `chosen_text` and `rejected_text`")
        for name in missing
    ]
    if len(missing) == len(_FORMS["ids"]):
        return wrong
    wrong += _beside_ids(body)
    if wrong:
        return wrong
    if body.chosen == body.rejected:
        return [FieldError("rejected", "is the same candidate as chosen; a comparison needs two")]
    return _wrong_decision(body, body.chosen or "", body.rejected or "")


def _beside_ids(body: FeedbackRequest) -> list[FieldError]:
    return [
        FieldError(name, "has no place beside candidate ids; the decision knows it")
        for name in ("prompt", "messages", "context")
        if getattr(body, name) is not None
    ]


def _wrong_decision(body: FeedbackRequest, *candidates: str) -> list[FieldError]:
    """Returns what is wrong with a decision that is named beside candidates, which may be of several."""
    places = [split_candidate(candidate) for candidate in candidates]
    if body.decision_id is None or not all(places) or body.decision_id in {place[0] for place in places if place}:
        return []
    return [FieldError("decision_id", f"is not the decision of {'either' if len(places) == 2 else 'any'} candidate")]


def _wrong_rating(body: FeedbackRequest) -> list[FieldError]:
    wrong = [] if body.rating is not None else [FieldError("rating", "is missing; send how good the answer was, from 0 to 1")]
    if body.candidate is not None and body.response_text is not None:
        wrong.append(FieldError("response_text", "cannot stand beside `candidate`; one answer is rated"))
    elif body.candidate is not None:
        wrong += _beside_ids(body) or _wrong_decision(body, body.candidate)
    elif body.response_text is not None:
        wrong += _wrong_prompt_of_texts(body)
    else:
        wrong.append(FieldError("candidate", "is missing; send `candidate` (an id), or `prompt` and `response_text`"))
    return wrong


def _wrong_ranking(body: FeedbackRequest) -> list[FieldError]:
    ranking = body.ranking or []
    repeated = [
        FieldError(f"ranking[{place}]", f"is the same candidate as ranking[{ranking.index(candidate)}]")
        for place, candidate in enumerate(ranking)
        if ranking.index(candidate) < place
    ]
    return repeated + _beside_ids(body) or _wrong_decision(body, *ranking)


def _wrong_kept(body: FeedbackRequest) -> list[FieldError]:
    wrong = [FieldError(name, f"is missing; send {what}") for name, what in _KEPT.items() if getattr(body, name) is None]
    if wrong:
        return wrong
    if body.kept == body.over:
        return [FieldError("over", "equals kept; a comparison needs two different answers")]
    if _is_id(body.over):
        return _beside_ids(body) or _wrong_decision(body, *(answer for answer in (body.kept, body.over) if answer and _is_id(answer)))
    if _is_id(body.kept):
        return [FieldError("over", "is a text beside `kept`, a candidate id; send two ids, or two texts with their prompt")]
    if _has_prompt(body) or body.decision_id is not None:
        return _wrong_prompt_of_texts(body)
    return [FieldError("prompt", "is missing; `over` is no candidate id, and texts are compared with their prompt")]


_KEPT = {
    "kept": "the answer that the user stayed with: its candidate id, or its text",
    "over": "the answer that the user did without: its candidate id, or its text",
    "how": "`regenerate`, `edit` or `copy`",
}

_CHECKS: dict[str, Callable[[FeedbackRequest], list[FieldError]]] = {
    "ids": _wrong_ids,
    "texts": _wrong_texts,
    "rating": _wrong_rating,
    "ranking": _wrong_ranking,
    "kept": _wrong_kept,
}


def _wrong_event(in_body: str | None, in_header: str | None) -> list[FieldError]:
    if in_body is not None and in_header is not None and in_header != in_body:
        return [FieldError("event_id", "differs from the Idempotency-Key header; send one of them, or the same in both")]
    given = in_header if in_body is None else in_body
    if given is None:
        return []
    try:
        checked_event_id(given)
    except ValueError as error:
        return [FieldError("Idempotency-Key" if in_body is None else "event_id", str(error).removeprefix("event id "))]
    return []


def _wrong_time(ahead_s: float) -> list[FieldError]:
    if ahead_s <= CLOCK_SKEW_S:
        return []
    return [FieldError("observed_at", f"is {ahead_s:,.0f} s in the future; at most {CLOCK_SKEW_S:.0f} s are let through")]
