"""The measure of the demo's answers: what counts as borrowed and declined, and which questions are asked."""

from __future__ import annotations

import numpy as np
import pytest

from demo.corpus.texts import BEYOND, MANNERS, all_prompts, answer
from demo.language_model.fidelity import SETS, SHOWN, Fidelity, borrows, declines, has, measure_fidelity, render_fidelity, wilson
from tests.project.tree import ROOT


def test_the_questions_asked_are_those_of_the_page_and_the_readme():
    shown = (ROOT / "README.md").read_text() + (ROOT / "service/ui/index.html").read_text() + (ROOT / "service/ui/trying.js").read_text()
    assert [question for question in SHOWN if question not in shown] == []
    topic_of = {prompt.text: prompt.topic for prompt in all_prompts()}
    assert {question: topic_of[question] for question in SHOWN} == SHOWN


@pytest.mark.parametrize(
    ("text", "topic", "found"),
    [
        ("Let us make it together, step by step.", "pancakes", (False, False, False)),
        ("In short: ride tram 28 and watch the sunset over the Tagus.", "pancakes", (False, True, False)),
        ("In short: ride tram 28 and watch the sunset over the Tagus.", "lisbon", (True, False, False)),
        ("I only know about recipes, travel, explanations, advice and small talk.", "lisbon", (False, False, True)),
        ("I only know about recipes, travel, explanations, advice and small talk.", BEYOND, (True, False, True)),
        ("I only know about recipes. Ride tram 28 and watch the sunset!", BEYOND, (True, True, True)),
        ("It is also to be observed that nobody knows, step by step.", BEYOND, (False, False, False)),
        ("", "lisbon", (False, False, False)),
    ],
)
def test_an_answer_is_told_by_three_words_in_a_row(text, topic, found):
    assert (has(text, topic), borrows(text, topic), declines(text, topic)) == found


def test_the_grammar_itself_stays_on_the_subject_and_hardly_ever_seems_to_borrow():
    rng = np.random.default_rng(0)
    told = [(answer(prompt, manner, rng), prompt.topic) for prompt in all_prompts()[::40] for manner in MANNERS for _ in range(4)]
    assert np.mean([has(text, topic) for text, topic in told]) > 0.99
    assert np.mean([borrows(text, topic) for text, topic in told]) < 0.01
    assert np.mean([declines(text, topic) for text, topic in told if topic != BEYOND]) < 0.01


def test_the_interval_of_a_share_is_wilsons():
    low, high = wilson(0.0, 100)
    assert (low, round(high, 4)) == (0.0, 0.037)
    low, high = wilson(0.5, 100)
    assert (round(low, 3), round(high, 3)) == (0.404, 0.596)


def test_a_question_that_nobody_shows_is_refused_before_a_model_is_read(tmp_path):
    with pytest.raises(ValueError, match=r"'Why\?' is none of the questions of README and page: 'How do I make pancakes\?'"):
        measure_fidelity(tmp_path, questions=["Why?"])


def test_the_table_has_what_is_borrowed_by_each_question():
    by_question = dict.fromkeys(SHOWN, 0.0) | {"How is a rainbow made?": 0.25}
    text = render_fidelity([Fidelity("bold", SETS[0], 80, 0.9, 0.8, 0.03125, 0.0, by_question)])
    assert "## borrowed, by question (10 answers of each)" in text
    rows = {row.split(" | ")[0].strip("| "): row for row in text.splitlines()}
    assert "0.250 [" in rows["How is a rainbow made?"]
    assert "0.000 [" in rows["How do I make pancakes?"]
