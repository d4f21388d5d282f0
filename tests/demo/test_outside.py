"""Questions about none of the topics: what is held out, and that every answer to them says what is known instead."""

from __future__ import annotations

import numpy as np

from demo.corpus.outside import outside_question, questions
from demo.corpus.tastes import manner_scores
from demo.corpus.texts import BEYOND, MANNERS, all_prompts, answer, corpus, outside_prompt, topics


def drawn(count: int, *, held_out: bool) -> set[str]:
    rng = np.random.default_rng(0)
    return {outside_question(rng, held_out=held_out) for _ in range(count)}


def test_there_are_thousands_of_questions_and_none_is_about_a_topic():
    known = {prompt.text.lower() for prompt in all_prompts()}
    asked = drawn(4000, held_out=False)
    assert len(asked) > 2000
    assert not known & {text.lower() for text in asked | drawn(2000, held_out=True)}


def test_nothing_that_is_held_out_is_in_training_or_among_the_phrasings_of_a_topic():
    kept, left_out = questions(held_out=False), questions(held_out=True)
    assert not set(kept.whole) & set(left_out.whole)
    nouns = {noun.lower() for _, group in left_out.groups for noun in group}
    assert not nouns & {noun.lower() for _, group in kept.groups for noun in group}
    beyond = " ".join([*topics()[BEYOND].phrasings, *topics()[BEYOND].keywords]).lower()
    assert [noun for noun in nouns if noun in beyond] == []


def test_held_out_nouns_are_asked_about_in_the_words_that_topics_are_asked_about_in():
    templates = {template for group, _ in questions(held_out=True).groups for template in group}
    assert {"How do I make {}?", "What should I do in {}?"} <= templates


def test_every_answer_names_what_is_known_and_shows_its_manner():
    rng = np.random.default_rng(1)
    prompt = outside_prompt("How do I make sushi?")
    for manner in MANNERS:
        for _ in range(40):
            text = answer(prompt, manner, rng)
            assert "I only know about" in text
            assert MANNERS[int(np.argmax(manner_scores(text)))] == manner, text


def test_a_share_of_the_corpus_is_about_no_topic():
    seen = corpus(0, 4000)
    own = set(topics()[BEYOND].phrasings)
    share = np.mean([example.prompt.topic == BEYOND and example.prompt.text not in own for example in seen])
    assert 0.08 < share < 0.12
