"""Scoring texts for a user: tokenize, one submission to the batcher while the user is read, then the family's own mathematics.

`N` candidates, `K` heads. Whatever is scored (answers of a client, generated ones, two texts of a feedback) goes through here, so that a
text has one score wherever it comes from.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from attune.models.seam.families import Families
from attune.models.seam.family import Family, Row, Scored
from attune.models.seam.member_values import POOLED
from attune.models.seam.sparserm import examples_of
from attune.models.seam.text import Encoded
from attune.service.errors import TextTooLong
from attune.service.live.runtime import Call, TextReading
from attune.service.usecases.people import Person, read_person

T = TypeVar("T")
U = TypeVar("U")

INLINE_CHARS = 16_384
"""Texts up to this many characters are tokenized on the event loop (about 2 ms); more would hold up everybody else."""


@dataclass(frozen=True, slots=True)
class Scoring:
    """What is to be scored, and for whom; nobody's view is the prior's, and no family is the one that serves.

    `explain` asks for the heads behind each score; `fields` are what the request calls the responses, where that is another name.
    """

    user: str | None
    prompt: str
    responses: Sequence[str]
    context: str | None = None
    family: str | None = None
    explain: bool = False
    fields: Sequence[str] | None = None


@dataclass(frozen=True, slots=True)
class Contribution:
    """One head's part of a score: `contribution = weight * reward`; `examples` are texts that show what the head stands for.

    Attributes:
        head: name of the head
        weight: this user's weight of the head, from 0 to 1; any number for the kind `attributes`
        reward: what the head gives the response, in logits
        contribution: `weight` times `reward`; the contributions of a response sum to its score
        examples: short texts that the head rates highly, from the bundle; missing if it has none
    """

    head: str
    weight: float
    reward: float
    contribution: float
    examples: list[str] | None = None


@dataclass(frozen=True, slots=True)
class ScoredText:
    """One candidate for one user; `contributions` are sorted by size, and `score` is their sum in this order.

    They are None where nobody asked for them.
    """

    score: float
    std: float
    contributions: list[Contribution] | None


@dataclass(frozen=True, slots=True)
class Scores:
    """Candidates for one user under one family."""

    texts: list[ScoredText]
    weights: dict[str, float]

    def ranks(self) -> list[int]:
        """Returns each candidate's rank, 1 for the best; of equals the earlier is better."""
        order = sorted(range(len(self.texts)), key=lambda index: -self.texts[index].score)
        ranks = [0] * len(order)
        for rank, index in enumerate(order, 1):
            ranks[index] = rank
        return ranks


@dataclass(frozen=True, slots=True)
class ScoredResponses:
    """Responses as one person sees them; `tokens` went through the scorer, and of each response `truncated_tokens` did not."""

    person: Person
    family: str
    scores: Scores
    tokens: int
    truncated_tokens: tuple[int, ...]


async def score_responses(call: Call, asked: Scoring) -> ScoredResponses:
    """Returns the responses as the user sees them.

    Raises:
        TooLarge: a text is too long to be read whole, and the request forbids to cut it.
        Overloaded, DeadlineExceeded, ScorerFailed, NotReady: see `Batcher.submit`.
    """
    bundle, count = call.serving.bundle, len(asked.responses)
    name = asked.family or call.serving.family
    with_prompt = bundle.families[name].scores_with_prompt

    async def rows_of_texts() -> tuple[list[Encoded], list[Row]]:
        fields = asked.fields or [f"responses[{index}]" for index in range(count)]
        encoded = await encode(call, asked.prompt, asked.responses, context=asked.context, with_prompt=with_prompt, fields=fields)
        return encoded, await (submit_with_prompt if with_prompt else submit)(call, encoded)

    person, (encoded, rows) = await both(read_person(call, asked.user), rows_of_texts())
    scores = score_candidates(
        bundle.families, name, person, rows[:count], rows[count] if with_prompt else None, explain=asked.explain, cards=bundle.examples
    )
    return ScoredResponses(person, name, scores, sum(map(len, encoded)), tuple(row.dropped_response_tokens for row in encoded[:count]))


async def encode(
    call: Call, prompt: str, responses: Sequence[str], *, context: str | None, with_prompt: bool, fields: Sequence[str] | None = None
) -> list[Encoded]:
    """Returns one row per response, and after them the prompt's own row if it is asked for.

    Args:
        call: whose `reading` says whether long texts may be cut, and is told what was.
        prompt: of all responses.
        responses: may be none.
        context: read with the prompt's own row.
        with_prompt: whether that row is asked for.
        fields: names of the responses in the request; None for texts that did not come with it, which are cut as they must be.

    Raises:
        TooLarge: a text would be cut and the request forbids it; the detail names it, its tokens and the limit.
    """
    encoder = call.serving.encoder

    def tokenize() -> list[Encoded]:
        rows = encoder.candidates(prompt, responses) if responses else []
        return [*rows, encoder.prompt(prompt, context)] if with_prompt else rows

    with call.timings.measure("tokenize"):
        size = len(prompt) + len(context or "") + sum(map(len, responses))
        rows = tokenize() if size <= INLINE_CHARS else await asyncio.to_thread(tokenize)
    if fields is not None:
        _told(call.reading, rows, (*fields, "prompt"), encoder.template.max_tokens)
    return rows


async def read_prompt(call: Call, prompt: str, context: str | None) -> Encoded:
    """Returns the prompt's own row; see `encode`."""
    return (await encode(call, prompt, [], context=context, with_prompt=True, fields=()))[0]


def _told(reading: TextReading, rows: Sequence[Encoded], fields: Sequence[str], limit: int) -> None:
    """Notes what of a request's texts could not be read; raises TooLarge where nothing may be cut."""
    for row, field in zip(rows, fields, strict=False):
        if reading.truncate or not row.dropped_tokens:
            continue
        if row.dropped_response_tokens:
            kept = row.pool_stop - row.pool_start
            raise TextTooLong(
                f"{field} has {kept + row.dropped_response_tokens:,} tokens; beside this prompt {kept:,} of {limit:,} are left for it"
            )
        raise TextTooLong(
            f"the first {row.dropped_prompt_tokens:,} tokens of prompt have no room in the {limit:,} that are read with {field}"
        )
    reading.truncated_prompt_tokens = max((row.dropped_prompt_tokens for row in rows), default=0)
    reading.truncated_tokens = reading.truncated_prompt_tokens + sum(row.dropped_response_tokens for row in rows)
    unknown = sum(row.unknown_response_tokens for row in rows)
    reading.unknown_tokens = max((row.unknown_prompt_tokens for row in rows), default=0) + unknown


async def submit(call: Call, rows: Sequence[Encoded]) -> list[Row]:
    """Returns the scorer's outputs for each row, by the request's deadline."""
    submitted = await call.serving.batcher.submit(rows, call.left_s)
    call.timings.add(("queue", submitted.queue_s), ("inference", submitted.inference_s))
    return submitted.rows


async def submit_with_prompt(call: Call, rows: Sequence[Encoded]) -> list[Row]:
    """Returns the scorer's outputs for each row, of which the last is a prompt's own and is computed only if it is not remembered."""
    *texts, prompt = rows
    serving = call.serving
    known = serving.prompts.get(prompt)
    missing = texts if known is not None else rows
    found = await submit(call, missing) if missing else []
    if known is None:
        known = found.pop()
        serving.prompts.put(prompt, known, (*serving.prompt_outputs, POOLED))
    return [*found, known]


async def submit_judged(call: Call, rows: Sequence[Encoded]) -> list[Row]:
    """Returns what learning needs of each row, the last a prompt's own; an answer that others judged of late is not computed again."""
    *texts, prompt = rows
    judged, names = call.serving.judged, call.serving.candidate_outputs
    known = [judged.get(text) for text in texts]
    missing = list(dict.fromkeys(text for text, row in zip(texts, known, strict=True) if row is None))
    *computed, prompt_row = await submit_with_prompt(call, [*missing, prompt])
    for text, row in zip(missing, computed, strict=True):
        judged.put(text, row, names)
    found = dict(zip(missing, computed, strict=True))
    return [*(found[text] if row is None else row for text, row in zip(texts, known, strict=True)), prompt_row]


def score_candidates(
    families: Families,
    name: str,
    person: Person,
    rows: Sequence[Row],
    prompt: Row | None,
    *,
    explain: bool = False,
    cards: Callable[[str, str], list[str]] | None = None,
) -> Scores:
    """Returns the candidates as this user sees them under one family.

    Args:
        families: of the bundle that computed the rows.
        name: the family.
        person: whose evidence is used.
        rows: outputs of each candidate.
        prompt: outputs of the prompt; None where the family does not read it.
        explain: whether to name the heads behind each score.
        cards: family and head -> answers that show what it stands for.
    """
    family = families[name]
    rewards = np.array([row[f"{name}_rewards"] for row in rows], dtype=np.float64)
    scored = families.score(name, person.evidence, rewards, prompt if family.scores_with_prompt else None)
    contributions = scored.rewards * scored.weights
    texts = []
    for index in range(len(rows)):
        order = np.argsort(-np.abs(contributions[index]), kind="stable")
        total = 0.0
        for part in contributions[index][order].tolist():
            total += part  # one by one, as a reader adds them up: `sum` compensates in newer Pythons and would differ in the last bit
        parts = [_contribution(family, scored, index, head, cards) for head in order.tolist()] if explain else None
        texts.append(ScoredText(total, float(scored.stds[index]), parts))
    return Scores(texts, dict(zip(family.heads, scored.weights.tolist(), strict=True)))


def _contribution(family: Family, scored: Scored, index: int, head: int, cards: Callable[[str, str], list[str]] | None) -> Contribution:
    weight, reward = float(scored.weights[head]), float(scored.rewards[index, head])
    name = family.heads[head]
    examples = list(examples_of(family, head)) or (cards(family.name, name) if cards is not None else [])
    return Contribution(name, weight, reward, weight * reward, examples or None)


async def both(first: Coroutine[Any, Any, T], second: Awaitable[U]) -> tuple[T, U]:
    """Returns both results; `first` runs beside `second`, and is cancelled if that fails."""
    beside = asyncio.ensure_future(first)
    try:
        result = await second
        return await beside, result
    finally:
        beside.cancel()
        await asyncio.gather(beside, return_exceptions=True)  # asks for its error too, which else would be logged as forgotten
