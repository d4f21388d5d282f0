"""Rules that need numbers of the deployment, or more than one field: what pydantic's models leave open.

Each check takes the request and the numbers it needs and returns, or raises InvalidRequest with every field that is wrong and its limit,
or TooLarge with the number and the limit. Nothing is looked up here.
"""

from __future__ import annotations

from collections.abc import Sequence

from attune.models.seam.families import Families
from attune.models.seam.text import Encoded, TextTemplate
from attune.service.api.wire import FeedbackRequest, GenerateRequest, Prompted, RouteRequest, ScoreRequest
from attune.service.errors import FieldError, TooLarge, UnknownMember
from attune.service.http.problems import invalid, printable
from attune.service.ids import split_candidate
from attune.service.live.runtime import Limits


def check_score(request: ScoreRequest, limits: Limits, families: Families) -> None:
    """Checks a `/score`: one prompt, 1..`max_candidates` responses, a family that is served, lengths."""
    wrong = _prompt(request)
    if not 1 <= len(request.responses) <= limits.max_candidates:
        wrong.append(FieldError("responses", f"has {len(request.responses)} items; 1 to {limits.max_candidates} are scored"))
    wrong += _family(request.family, families)
    _raise(wrong)
    _lengths(request, limits)
    for index, response in enumerate(request.responses):
        _length(f"responses[{index}]", response, limits.max_response_chars)


def check_route(request: RouteRequest, limits: Limits, families: Families, members: Sequence[str]) -> None:
    """Checks a `/route`, and what `/generate` shares with it.

    Raises:
        UnknownMember: the member that is forced is not in the portfolio.
    """
    wrong = _prompt(request) + _family(request.family, families)
    if request.candidates > limits.max_generate_candidates:
        wrong.append(FieldError("candidates", f"is {request.candidates}; at most {limits.max_generate_candidates} are generated"))
    elif request.member is None and request.candidates > len(members):
        wrong.append(
            FieldError(
                "candidates",
                f"is {request.candidates} and the portfolio has {len(members)} members, each of which answers once; "
                "name a `member` to have several answers of one",
            )
        )
    _raise(wrong)
    if request.member is not None and request.member not in members:
        raise UnknownMember(f"member {printable(request.member)!r} is not in the portfolio, which has {', '.join(members)}")
    _lengths(request, limits)


def check_generate(request: GenerateRequest, limits: Limits, families: Families, members: Sequence[str]) -> None:
    """Checks a `/generate`."""
    if request.max_tokens > limits.max_new_tokens:
        _raise([FieldError("max_tokens", f"is {request.max_tokens}; at most {limits.max_new_tokens} are generated")])
    check_route(request, limits, families, members)


def check_feedback(request: FeedbackRequest, limits: Limits, header_event_id: str | None) -> None:
    """Checks that a `/feedback` has one of its two forms, whole, and that two names for its event agree."""
    by_ids = request.chosen is not None or request.rejected is not None
    by_texts = request.chosen_text is not None or request.rejected_text is not None
    wrong: list[FieldError] = []
    if by_ids and by_texts:
        wrong.append(FieldError("chosen_text", "cannot stand beside candidate ids; send either two ids or two texts"))
    elif by_texts:
        wrong += _texts_form(request)
    else:
        wrong += _ids_form(request)
    if header_event_id is not None and request.event_id is not None and header_event_id != request.event_id:
        wrong.append(FieldError("event_id", "differs from the Idempotency-Key header; send one of them, or the same in both"))
    _raise(wrong)
    if by_texts:
        _lengths(request, limits)
        _length("chosen_text", request.chosen_text or "", limits.max_response_chars)
        _length("rejected_text", request.rejected_text or "", limits.max_response_chars)


def check_fits(rows: Sequence[Encoded], template: TextTemplate, fields: Sequence[str]) -> None:
    """Checks that no response was cut by the template.

    Raises:
        TooLarge: one was; the detail names its field, its tokens and the limit.
    """
    for field, row in zip(fields, rows, strict=True):
        if row.dropped_response_tokens:
            kept = row.pool_stop - row.pool_start
            raise TooLarge(
                f"{field} has {kept + row.dropped_response_tokens:,} tokens; beside this prompt at most {kept:,} of "
                f"{template.max_tokens:,} are left for it"
            )


def _texts_form(request: FeedbackRequest) -> list[FieldError]:
    wrong = [
        FieldError(name, "is missing; feedback by texts needs both")
        for name in ("chosen_text", "rejected_text")
        if not getattr(request, name)
    ]
    if not wrong and request.chosen_text == request.rejected_text:
        wrong.append(FieldError("rejected_text", "equals chosen_text; a comparison needs two different answers"))
    if request.decision_id is None or request.prompt is not None or request.messages is not None:
        wrong += _prompt(request)
    return wrong


def _ids_form(request: FeedbackRequest) -> list[FieldError]:
    wrong = [
        FieldError(name, "is missing; send `chosen` and `rejected` (candidate ids), or `prompt`, `chosen_text` and `rejected_text`")
        for name in ("chosen", "rejected")
        if getattr(request, name) is None
    ]
    wrong += [
        FieldError(name, "has no place beside candidate ids; the decision knows it")
        for name in ("prompt", "messages", "context")
        if getattr(request, name) is not None
    ]
    if wrong:
        return wrong
    if request.chosen == request.rejected:
        return [FieldError("rejected", "is the same candidate as chosen; a comparison needs two")]
    if request.decision_id is not None:
        pair = (split_candidate(request.chosen or ""), split_candidate(request.rejected or ""))
        if all(pair) and request.decision_id not in {split[0] for split in pair if split}:
            return [FieldError("decision_id", "is not the decision of either candidate")]
    return []


def _prompt(request: Prompted) -> list[FieldError]:
    given = (request.prompt is not None) + (request.messages is not None)
    if given == 1:
        return []
    return [
        FieldError("prompt", "is missing; send `prompt` or `messages`" if not given else "and `messages` are both there; send one of them")
    ]


def _family(family: str | None, families: Families) -> list[FieldError]:
    if family is None or family in families:
        return []
    return [FieldError("family", f"is none of the families served: {', '.join(families.names)}")]


def _lengths(request: Prompted, limits: Limits) -> None:
    if request.messages is not None:
        size = sum(len(message.content) for message in request.messages)
        if size > limits.max_prompt_chars:
            raise TooLarge(f"messages have {size:,} characters; the limit is {limits.max_prompt_chars:,}")
    elif request.prompt is not None:
        _length("prompt", request.prompt, limits.max_prompt_chars)


def _length(field: str, text: str, limit: int) -> None:
    if len(text) > limit:
        raise TooLarge(f"{field} has {len(text):,} characters; the limit is {limit:,}")


def _raise(wrong: list[FieldError]) -> None:
    if wrong:
        raise invalid(wrong)
