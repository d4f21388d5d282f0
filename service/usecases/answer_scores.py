"""Answers of a decision through the scorer: at once, where the caller asked for scores, or after they were sent.

    decision, texts ─> rows ─> what members gave, scores for the user ─> the decision with both, to be written

Later, they join the record where it still is. Until then, feedback that names them scores them from their texts (`kept_rows`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import numpy as np

from attune.models.seam.family import Row
from attune.models.seam.text import Encoded
from attune.service.live.runtime import Call
from attune.service.live.score_queue import Later
from attune.service.observe.logs import get_logger
from attune.service.usecases.authors import saw_answers
from attune.service.usecases.decision_record import keep
from attune.service.usecases.member_choice import Decision, write
from attune.service.usecases.text_scores import encode, read_prompt, score_candidates, submit

_log = get_logger(__name__)

PARTS = 10_000
"""A seed's remainder by this says whether its answers are among the share that is scored."""


async def score_now(
    call: Call, decision: Decision, texts: Sequence[str], telling_nothing: Collection[int]
) -> tuple[Decision, Sequence[int | None], tuple[int, ...]]:
    """Returns the decision with its candidates scored, not written yet; their ranks; and how many tokens of each answer were not read.

    An answer for which the scorer has no finite number stays unscored and has no rank: it is sent all the same.

    Args:
        call: the request.
        decision: with its candidates, in the order of the texts.
        texts: their answers, whether or not the record keeps them.
        telling_nothing: places of those that say nothing of what their member's answers are worth: calls of tools are no manner of
            writing, and where a limit left no text there is none.
    """
    encoded = await _read(call, decision, texts)
    rows = await submit(call, encoded)
    scored, ranks, count = _with_rows(call, decision, rows, telling_nothing)
    count()
    return scored, ranks, tuple(row.dropped_response_tokens for row in encoded[: len(texts)])


async def score_uncounted(call: Call, decision: Decision, texts: Sequence[str]) -> tuple[Decision, Callable[[], None]]:
    """Returns the decision with its candidates scored, and what counts them for their members, for when they are kept; see `score_now`."""
    scored, _, count = _with_rows(call, decision, await submit(call, await _read(call, decision, texts)))
    return scored, count


def score_later(call: Call, decision: Decision, texts: Sequence[str], telling_nothing: Collection[int]) -> None:
    """Has the answers scored after they were sent; see `score_now`. The record that was written gets what comes of it.

    Of answers whose texts are kept, or that nobody can name, only so many a second, and a stated share once the members are known; all of
    them while a member seems to change. The seed of the draw and the time decide, which know nothing of the answers.
    """
    keeping = call.runtime.keeping
    standings, tenant = call.serving.standings, call.caller.tenant
    needed = decision.id is not None and not keeping.keep_text
    if not needed and not standings.changing(tenant):
        left_out = decision.record.routing.seed % PARTS >= keeping.score_later_share * PARTS
        if (left_out and standings.known(tenant, keeping.score_later_until)) or not call.runtime.later.spare(tenant):
            return

    async def kept(rows: Sequence[Row]) -> None:
        scored, _, count = _with_rows(call, decision, rows, telling_nothing)
        count()
        await write(call, scored, update=True)

    serving = call.serving
    call.runtime.later.put(Later(decision.id, serving.batcher, serving.leases, lambda: _read(call, decision, texts), kept))


async def _read(call: Call, decision: Decision, texts: Sequence[str]) -> list[Encoded]:
    encoded = await encode(call, decision.prompt, texts, context=None, with_prompt=False)
    if not _wants_prompt(call, decision):
        return encoded
    tokens = decision.tokens
    if tokens is None:
        tokens = await read_prompt(call, decision.prompt, decision.record.context)
    return [*encoded, tokens]


def _wants_prompt(call: Call, decision: Decision) -> bool:
    """Returns whether the prompt's row is missing and cannot be had later, when feedback asks for it."""
    if decision.prompt_row is not None:
        return False
    lost = bool(call.serving.prompt_outputs) and not call.runtime.keeping.keep_text and decision.id is not None
    return lost or call.serving.bundle.families[decision.record.family].scores_with_prompt


def _with_rows(
    call: Call, decision: Decision, rows: Sequence[Row], telling_nothing: Collection[int] = ()
) -> tuple[Decision, Sequence[int | None], Callable[[], None]]:
    record, serving = decision.record, call.serving
    answers, further = rows[: len(record.candidates)], rows[len(record.candidates) :]
    if further:
        record = replace(record, prompt_outputs=keep(further[0], serving.prompt_outputs))
        decision = replace(decision, prompt_row=further[0])
    places = _sound(call, [candidate.member for candidate in record.candidates], answers)
    sound = [answers[place] for place in places]
    candidates = list(record.candidates)
    ranks: list[int | None] = [None] * len(candidates)
    if sound:
        scores = score_candidates(serving.bundle.families, record.family, decision.person, sound, decision.prompt_row)
        for place, text, rank, row in zip(places, scores.texts, scores.ranks(), sound, strict=True):
            # A record keeps the outputs of all of its candidates or of none.
            outputs = keep(row, serving.candidate_outputs) if len(sound) == len(answers) else {}
            candidates[place] = replace(candidates[place], score=text.score, std=text.std, outputs=outputs)
            ranks[place] = rank

    def count() -> None:
        told = [place for place in places if place not in telling_nothing]
        if told and not decision.dry:
            saw_answers(call, [record.candidates[place].member for place in told], [answers[place] for place in told])

    return replace(decision, record=replace(record, candidates=tuple(candidates))), ranks, count


def _sound(call: Call, members: Sequence[str], rows: Sequence[Row]) -> list[int]:
    """Returns the places of rows that are finite throughout; the others are counted against their members."""
    found = [bool(all(np.isfinite(output).all() for output in row.values())) for row in rows]
    for member, sound in zip(members, found, strict=True):
        if not sound:
            call.runtime.metrics.unscorable(member)
            _log.error("the scorer has no finite numbers for an answer, which stays unscored", member=member)
    return [place for place, sound in enumerate(found) if sound]
