"""Everyday prompts and answers in six manners, generated from a hand-written bank of facts.

    content/<domain>.json: topics, phrasings, clauses ─┐
    content/manners.json: sentence skeletons ──────────┴─> prompts() ─> answer(prompt, manner) ─> corpus()

Everything is a pure function of the content and a seed. Which topics train the reward heads and which phrasings the
language model may see is fixed by the content alone, never by a seed, so that two stages with different seeds cannot
leak into each other. This module knows nothing of users or of how strongly a text shows a manner (synthetic_tastes).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal, TypeAlias

import numpy as np

from demo.corpus.bank import load, rank
from demo.corpus.grammar import realise
from demo.corpus.outside import outside_question

Split: TypeAlias = Literal["train", "validation", "test"]
Mood: TypeAlias = Literal["cook", "do", "tell", "chat", "reply", "decline"]

MANNERS = ("concise", "detailed", "playful", "formal", "cautious", "bold")
DOMAINS = ("recipes", "travel", "explanations", "advice", "small_talk")
BEYOND = "beyond"
"""The topic of every question that is about none of the others; its answers say what is known instead."""

_TEST_TOPICS = 4  # of 22 or 23 topics a domain: about a fifth, never seen by a reward head
_VALIDATION_TOPICS = 3
_OUTSIDE_SHARE = 0.1  # of the corpus asks for what no topic is about, in hundreds of ways, since a few are learned as a topic of their own
_HELD_OUT_PHRASINGS = 2  # of 6 to 12 phrasings a topic, never seen by the language model


@dataclass(frozen=True, slots=True)
class Topic:
    """One thing that people ask about, with the clauses that answers are composed of.

    `mood` selects the skeletons: `cook` and `do` clauses are imperatives, `tell` and `chat` clauses are statements,
    `reply` topics (greetings, thanks) have no subject to be named, and `decline` is for what is about no topic. `keywords`
    name the topic for those who do not ask in sentences. A clause has no initial capital and no final stop.
    """

    id: str
    domain: str
    mood: Mood
    split: Split
    about: str
    keywords: tuple[str, ...]
    phrasings: tuple[str, ...]
    clauses: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Prompt:
    """One phrasing of a topic; `held_out` says that the language model's corpus leaves it out."""

    text: str
    topic: str
    domain: str
    split: Split
    held_out: bool


@dataclass(frozen=True, slots=True)
class Example:
    """One prompt with an answer in one manner."""

    prompt: Prompt
    manner: str
    answer: str


def prompts(split: Split, seed: int) -> tuple[Prompt, ...]:
    """Returns every phrasing of every topic of `split`, in an order drawn from `seed`.

    The splits are disjoint by topic: a reward head trained on `train` has met none of the subjects of `test`. The
    language model sees all topics, but of no topic the phrasings marked `held_out`.
    """
    found = [prompt for prompt in all_prompts() if prompt.split == split]
    order = np.random.default_rng(seed).permutation(len(found))
    return tuple(found[i] for i in order)


@cache
def all_prompts() -> tuple[Prompt, ...]:
    """Returns every phrasing of every topic, in the order of the content."""
    found = []
    for topic in topics().values():
        held_out = set(sorted(topic.phrasings, key=lambda text: rank(topic.id, text))[:_HELD_OUT_PHRASINGS])
        found += [Prompt(text, topic.id, topic.domain, topic.split, text in held_out) for text in topic.phrasings]
    return tuple(found)


@cache
def topics() -> Mapping[str, Topic]:
    """Returns the topics of all domains by id."""
    found: dict[str, Topic] = {}
    for domain in DOMAINS:
        content = load(domain)
        ranked = sorted((entry["id"] for entry in content["topics"]), key=lambda topic: rank("split", topic))
        split_of: dict[str, Split] = dict.fromkeys(ranked, "train")
        split_of |= dict.fromkeys(ranked[:_TEST_TOPICS], "test")
        split_of |= dict.fromkeys(ranked[_TEST_TOPICS : _TEST_TOPICS + _VALIDATION_TOPICS], "validation")
        for entry in content["topics"]:
            mood = entry.get("mood", content["mood"])
            templates = [] if mood in {"reply", "decline"} else [text.format(name=entry["name"]) for text in content["prompts"]]
            found[entry["id"]] = Topic(
                id=entry["id"],
                domain=domain,
                mood=mood,
                split=split_of[entry["id"]],
                about=entry.get("about", entry["name"]),
                keywords=tuple(entry["keywords"]),
                phrasings=tuple(entry["prompts"] + templates),
                clauses={slot: tuple(entry[key]) for slot, key in _SLOTS.items()},
            )
    return found


def answer(prompt: Prompt, manner: str, rng: np.random.Generator) -> str:
    """Returns one answer to `prompt` in `manner`: grammatical, true, and worded differently from draw to draw.

    Raises:
        ValueError: `manner` is not one of MANNERS.
    """
    if manner not in MANNERS:
        raise ValueError(f"manner is {manner!r}; known are {', '.join(MANNERS)}")
    topic = topics()[prompt.topic]
    grammar = load("manners")[manner]
    return realise(grammar[topic.mood], grammar, topic.mood, {**topic.clauses, "about": (topic.about,)}, rng)


def corpus(seed: int, size: int, manners: tuple[str, ...] = MANNERS) -> tuple[Example, ...]:
    """Returns `size` examples that a language model may be trained on: every topic, no held-out phrasing.

    Topics and manners are drawn evenly, so that a topic with few phrasings is learned as well as one with many. A share of
    the questions is about no topic at all (`demo.corpus.outside`).
    """
    rng = np.random.default_rng(seed)
    by_topic: dict[str, list[Prompt]] = {}
    for prompt in all_prompts():
        if not prompt.held_out:
            by_topic.setdefault(prompt.topic, []).append(prompt)
    groups = list(by_topic.values())
    found = []
    for _ in range(size):
        group = groups[rng.integers(len(groups))]
        prompt = group[rng.integers(len(group))]
        if rng.random() < _OUTSIDE_SHARE:
            prompt = outside_prompt(outside_question(rng))
        manner = manners[rng.integers(len(manners))]
        found.append(Example(prompt, manner, answer(prompt, manner, rng)))
    return tuple(found)


def outside_prompt(text: str) -> Prompt:
    """Returns a question about no topic as a prompt of the topic that declines."""
    beyond = topics()[BEYOND]
    return Prompt(text, beyond.id, beyond.domain, beyond.split, held_out=False)


_SLOTS = {"core": "core", "point": "points", "why": "why", "best": "best", "care": "care", "fun": "fun", "formal": "formal"}
