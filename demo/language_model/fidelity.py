"""Do the demo's members keep their manner and their subject, and say so where they know nothing? Shares with intervals.

    questions of README and page x samples ─┐
    held-out phrasings of every topic ──────┼─> each member ─> own manner, on topic, borrowed, declined ─> table
    held-out questions about no topic ──────┘

A text is about a topic where it has three words in a row of one of the topic's clauses; it borrows where it has such words of
another topic that the corpus never says about its own. The folders on disk answer with their own generation settings.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from attune.models.alignment.causal import BASE, load, sample
from attune.models.measuring.report_files import table
from demo.corpus.bank import load as load_content
from demo.corpus.outside import outside_question
from demo.corpus.tastes import manner_scores
from demo.corpus.texts import BEYOND, MANNERS, all_prompts, answer, outside_prompt, topics
from demo.language_model.judging import runs

SHOWN = {
    "How do I make pancakes?": "pancakes",
    "Why is the sky blue?": "blue_sky",
    "How can I sleep better?": "sleep",
    "What is worth seeing in Edinburgh?": "edinburgh",
    "How is a rainbow made?": "rainbow",
    "How can I save money?": "save_money",
    "Can you give me a recipe for tomato soup?": "tomato_soup",
    "Hi, how are you?": "how_are_you",
}
"""The questions that the README and the page ask, and what they are about."""

SETS = ("shown", "held-out phrasings", "about no topic")
GRAMMAR, WITHOUT_ADAPTER = "grammar", "base"
_OF_EACH_MANNER = 100  # answers of the corpus about a topic whose words in a row count as its own


@dataclass(frozen=True, slots=True)
class Fidelity:
    """Shares of one member's answers to one set of questions.

    Attributes:
        member: that answered; GRAMMAR is what the corpus itself says, the most that a member can have.
        asked: one of SETS.
        answers: how many were judged.
        own_manner: strongest in the manner that the member is named after; None for the base, which has all of them.
        on_topic: with three words in a row of the question's own topic.
        borrowed: with three words in a row of another topic's clauses, which the corpus never says about the question's own.
        declined: with words of the topic that says what is known instead: right of questions about no topic, else wrong.
        by_question: share of borrowing answers to each question.
    """

    member: str
    asked: str
    answers: int
    own_manner: float | None
    on_topic: float
    borrowed: float
    declined: float
    by_question: Mapping[str, float]


def measure_fidelity(
    folder: Path,
    *,
    seed: int = 0,
    samples: int = 40,
    outside: int = 200,
    temperature: float | None = None,
    questions: Sequence[str] = (),
    progress: Callable[[str], None] = lambda _line: None,
) -> tuple[Fidelity, ...]:
    """Returns the shares of the base and of each member under `folder`, for each set of questions, those of the grammar first.

    Args:
        folder: with `base/` and `adapters/<manner>/`.
        seed: of questions and sampling.
        samples: answers of every member to each shown question; to the others each gives one.
        outside: questions about no topic, of words that no training showed.
        temperature: in place of the model's own.
        questions: of `SHOWN`, which alone are asked then; everything if empty.
        progress: told a line per member.

    Raises:
        OSError: there is no such model.
        ValueError: a question is none of `SHOWN`.
    """
    if unknown := [text for text in questions if text not in SHOWN]:
        raise ValueError(f"{unknown[0]!r} is none of the questions of README and page: {', '.join(map(repr, SHOWN))}")
    rng = np.random.default_rng(seed)
    asked = {SETS[0]: [(text, SHOWN[text]) for text in questions or SHOWN for _ in range(samples)]}
    if not questions:
        asked[SETS[1]] = [(prompt.text, prompt.topic) for prompt in all_prompts() if prompt.held_out]
        asked[SETS[2]] = [(outside_question(rng, held_out=True), BEYOND) for _ in range(outside)]
    every = [question for questions in asked.values() for question in questions]
    prompt_of = {prompt.text: prompt for prompt in all_prompts()}
    known = [prompt_of.get(text) or outside_prompt(text) for text, _ in every]
    texts = {GRAMMAR: [answer(prompt, MANNERS[row % len(MANNERS)], rng) for row, prompt in enumerate(known)]}
    members = [name for name in MANNERS if (folder / "adapters" / name).is_dir()]
    model = load(folder / "base", {name: folder / "adapters" / name for name in members})
    if temperature is not None:
        model.network.generation_config.temperature = temperature
    for number, name in enumerate([WITHOUT_ADAPTER, *members]):
        member = BASE if name == WITHOUT_ADAPTER else name
        texts[name] = [one.text for one in sample(model, member, [text for text, _ in every], seed * 1000 + number)]
        progress(f"{name}: {len(every)} answers")
    found = []
    for start, (name, rows) in zip(np.cumsum([0, *map(len, asked.values())]), asked.items(), strict=False):
        found += [_judge(member, name, rows, told[start : start + len(rows)]) for member, told in texts.items()]
    return tuple(found)


def render_fidelity(found: Sequence[Fidelity]) -> str:
    """Returns a table for each set of questions, with 95 % Wilson intervals, and what is borrowed by each question of README and page."""
    lines: list[str] = []
    for asked in dict.fromkeys(one.asked for one in found):
        rows = [
            [
                one.member,
                "" if one.own_manner is None else _share(one.own_manner, one.answers),
                *(_share(share, one.answers) for share in (one.on_topic, one.borrowed, one.declined)),
            ]
            for one in found
            if one.asked == asked
        ]
        count = next(one.answers for one in found if one.asked == asked)
        head = ["member", "own manner", "on topic", "borrowed", "declined"]
        lines += [f"## {asked} ({count} answers of each)", "", *table(head, rows), ""]
    shown = [one for one in found if one.asked == SETS[0]]
    each = shown[0].answers // len(shown[0].by_question)
    rows = [[question, *(_share(one.by_question[question], each) for one in shown)] for question in shown[0].by_question]
    lines += [f"## borrowed, by question ({each} answers of each)", "", *table(["question", *(one.member for one in shown)], rows), ""]
    return "\n".join(lines)


def _judge(member: str, asked: str, questions: Sequence[tuple[str, str]], texts: Sequence[str]) -> Fidelity:
    about = [topic for _, topic in questions]
    borrowed = np.array([borrows(text, topic) for text, topic in zip(texts, about, strict=True)])
    same = {question: [question == other for other, _ in questions] for question in dict.fromkeys(text for text, _ in questions)}
    strongest = [MANNERS[int(np.argmax(scores))] if (scores := manner_scores(text)).any() else "" for text in texts]
    return Fidelity(
        member=member,
        asked=asked,
        answers=len(texts),
        own_manner=float(np.mean([manner == member for manner in strongest])) if member in MANNERS else None,
        on_topic=float(np.mean([has(text, topic) for text, topic in zip(texts, about, strict=True)])),
        borrowed=float(borrowed.mean()),
        declined=float(np.mean([declines(text, topic) for text, topic in zip(texts, about, strict=True)])),
        by_question={text: float(borrowed[rows].mean()) for text, rows in same.items()},
    )


def has(text: str, topic: str) -> bool:
    """Returns whether `text` has three words in a row of one of the topic's clauses."""
    return not _words(topic).isdisjoint(runs(text, 3))


def borrows(text: str, topic: str) -> bool:
    """Returns whether `text` has three words in a row of another topic's clauses that the corpus never says about `topic`."""
    return any(run in _clauses() and run not in _said(topic) for run in runs(text, 3))


def declines(text: str, topic: str) -> bool:
    """Returns whether `text` has words of the topic that declines, and that `topic`, where it is another, has not."""
    own = frozenset() if topic == BEYOND else _said(topic)
    return any(run in _words(BEYOND) and run not in own for run in runs(text, 3))


@cache
def _words(topic: str) -> frozenset[tuple[str, ...]]:
    return frozenset(run for clauses in topics()[topic].clauses.values() for clause in clauses for run in runs(clause, 3))


@cache
def _clauses() -> frozenset[tuple[str, ...]]:
    """Returns the runs of all clauses, without those of the topic that declines: saying these is no borrowing."""
    return frozenset[tuple[str, ...]]().union(*(_words(topic) for topic in topics())) - _words(BEYOND)


@cache
def _said(topic: str) -> frozenset[tuple[str, ...]]:
    """Returns the runs of many answers of the corpus about `topic`: where phrases and clauses meet, they make others by chance."""
    prompt, rng = next(prompt for prompt in all_prompts() if prompt.topic == topic), np.random.default_rng(0)
    texts = [answer(prompt, manner, rng) for manner in MANNERS for _ in range(_OF_EACH_MANNER)]
    return _words(topic) | _phrases() | frozenset(run for text in texts for run in runs(text, 3))


@cache
def _phrases() -> frozenset[tuple[str, ...]]:
    """Returns the runs of the manners' own phrases, which go with any topic."""

    def texts(part: Any) -> Iterator[str]:
        if isinstance(part, str):
            yield from re.split(r"<\w+>|\{\w+\}", part)
        else:
            for inner in part.values() if isinstance(part, Mapping) else part:
                yield from texts(inner)

    return frozenset(run for text in texts(load_content("manners")) for run in runs(text, 3))


def _share(share: float, count: int) -> str:
    low, high = wilson(share, count)
    return f"{share:.3f} [{low:.3f}, {high:.3f}]"


def wilson(share: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """Returns the interval of a share of `count` independent draws (Wilson 1927); `z` is the quantile of its confidence."""
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * np.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return float(max(0.0, middle - half)), float(min(1.0, middle + half))
