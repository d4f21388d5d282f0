"""The generated corpus: determinism, splits, grammar, and answers that show the manner they were asked in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

import demo
from attune.models.portfolio.pool import read_pool
from demo.corpus.grammar import realise
from demo.corpus.texts import DOMAINS, MANNERS, Split, all_prompts, answer, corpus, prompts, topics

ARTEFACTS = Path(demo.__file__).parent / "artefacts"


def test_the_same_seed_gives_the_same_corpus_and_another_seed_another():
    assert corpus(3, 200) == corpus(3, 200)
    assert corpus(3, 200) != corpus(4, 200)


def test_a_longer_corpus_begins_with_the_shorter_one():
    assert corpus(5, 300)[:100] == corpus(5, 100)


def test_the_splits_share_no_topic_and_leave_none_out():
    of_split = {split: {prompt.topic for prompt in prompts(split, 0)} for split in get_args(Split)}
    assert sum(len(found) for found in of_split.values()) == len(topics())
    assert set.union(*of_split.values()) == set(topics())
    for split in get_args(Split):
        assert {topics()[topic].domain for topic in of_split[split]} == set(DOMAINS)


def test_the_seed_of_a_split_changes_the_order_only():
    assert prompts("test", 1) != prompts("test", 2)
    assert set(prompts("test", 1)) == set(prompts("test", 2))


def test_the_corpus_holds_every_topic_and_no_held_out_phrasing():
    seen = corpus(0, 6000)
    assert {example.prompt.topic for example in seen} == set(topics())
    assert not any(example.prompt.held_out for example in seen)
    for topic in topics():
        held_out = [prompt for prompt in all_prompts() if prompt.topic == topic and prompt.held_out]
        assert len(held_out) == 2


def test_no_phrasing_belongs_to_two_topics():
    texts = [prompt.text for prompt in all_prompts()]
    assert len(texts) == len(set(texts))


def test_every_domain_has_twenty_topics_and_every_topic_enough_clauses():
    for domain in DOMAINS:
        assert sum(topic.domain == domain for topic in topics().values()) >= 20
    for topic in topics().values():
        assert len(topic.phrasings) >= 6
        counts = {kind: len(clauses) for kind, clauses in topic.clauses.items()}
        assert counts == {"core": 2, "point": 5, "why": 2, "best": 2, "care": 2, "fun": 2, "formal": 3}, topic.id


def test_clauses_can_stand_inside_a_sentence():
    for topic in topics().values():
        for clauses in topic.clauses.values():
            for clause in clauses:
                assert clause == clause.strip(), clause
                assert clause[-1] not in ".!?,;:", clause
                assert not set(clause) & set("{}<>"), clause


def test_every_topic_can_be_answered_in_every_manner_in_whole_sentences():
    rng = np.random.default_rng(0)
    for prompt in {prompt.topic: prompt for prompt in all_prompts()}.values():
        for manner in MANNERS:
            for _ in range(4):
                text = answer(prompt, manner, rng)
                assert re.fullmatch(r"[A-Z0-9].*[.!?]", text), text
                assert not re.search(r"[{}<>_]|  |\.\.|,\.|[.!?] [a-z]", text), text


def test_answers_to_one_prompt_are_worded_differently():
    rng = np.random.default_rng(0)
    prompt = prompts("train", 0)[0]
    for manner in MANNERS:
        assert len({answer(prompt, manner, rng) for _ in range(40)}) >= 5, manner


def test_the_steps_of_a_recipe_keep_their_order():
    rng = np.random.default_rng(0)
    prompt = next(prompt for prompt in all_prompts() if prompt.topic == "pancakes")
    for _ in range(20):
        text = answer(prompt, "detailed", rng).lower()
        places = [text.index(step) for step in topics()["pancakes"].clauses["point"]]
        assert places == sorted(places)


def test_an_unknown_manner_is_refused_by_name():
    with pytest.raises(ValueError, match="'sulky'"):
        answer(all_prompts()[0], "sulky", np.random.default_rng(0))


def test_a_skeleton_that_asks_for_too_many_clauses_is_refused_with_both_numbers():
    with pytest.raises(ValueError, match=r"3 clauses of kind 'why'.*has 2"):
        realise(["{why} {why} {Why}"], {}, "do", {"why": ("a", "b")}, np.random.default_rng(0))


@pytest.mark.parametrize(("kept", "split", "start"), [("base", "train", 0), ("train", "train", 480), ("test", "test", 0)])
def test_the_prompts_of_a_split_are_those_that_the_kept_answers_are_about(kept, split, start):
    asked = read_pool(ARTEFACTS / "answers" / f"{kept}.jsonl").prompts
    assert asked == tuple(prompt.text for prompt in prompts(split, 0))[start : start + len(asked)]
