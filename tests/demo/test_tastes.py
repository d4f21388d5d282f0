"""The ground truth of demo and simulator: manner scores, users, utilities and choices."""

from __future__ import annotations

import numpy as np
import pytest

from demo.corpus.tastes import DEFAULT_SHARPNESS, choose, draw_users, manner_scores, utility
from demo.corpus.texts import MANNERS, answer, corpus, prompts


def mean_scores() -> np.ndarray:
    """Returns `[6, 6]`: row = the manner of the answers, column = the mean score."""
    examples = corpus(11, 3000)
    return np.array([np.mean([manner_scores(e.answer) for e in examples if e.manner == manner], axis=0) for manner in MANNERS])


def test_every_manner_scores_far_above_all_others_on_its_own_answers():
    matrix = mean_scores()
    print("\n" + " " * 10 + "".join(f"{manner:>10}" for manner in MANNERS))  # noqa: T201  shown with -s
    for manner, row in zip(MANNERS, matrix, strict=True):
        print(f"{manner:<10}" + "".join(f"{score:>10.2f}" for score in row))  # noqa: T201  shown with -s
    own = np.diag(matrix)
    others = matrix - np.diag(own)
    assert own.min() > 0.9
    assert others.max() < 0.15


def test_single_answers_show_their_own_manner_most():
    right = [int(manner_scores(e.answer).argmax()) == MANNERS.index(e.manner) for e in corpus(12, 2000)]
    assert np.mean(right) > 0.97


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Boil the eggs for six minutes.", [1, 0, 0, 0, 0, 0]),
        (" ".join(["word"] * 20), [0.5, 0, 0, 0, 0, 0]),
        (" ".join(["word"] * 50), [0, 0.5, 0, 0, 0, 0]),
        (" ".join(["word"] * 80), [0, 1, 0, 0, 0, 0]),
        ("Woohoo! " + " ".join(["word"] * 30), [0, 0, 2 / 3, 0, 0, 0]),
        ("Furthermore, " + " ".join(["word"] * 30), [0, 0, 0, 1 / 3, 0, 0]),
        ("Perhaps it MIGHT, maybe. " + " ".join(["word"] * 30), [0, 0, 0, 0, 1, 0]),
        ("Absolutely. " + " ".join(["word"] * 30), [0, 0, 0, 0, 0, 1 / 3]),
        ("", [0, 0, 0, 0, 0, 0]),
        ("mayor differently shoulder harmony", [1, 0, 0, 0, 0, 0]),
    ],
)
def test_scores_are_what_a_person_counts_by_hand(text, expected):
    assert manner_scores(text) == pytest.approx(expected)


def test_users_lie_on_the_simplex_and_come_from_the_seed():
    users = draw_users(500, 7)
    assert users.shape == (500, 6)
    assert users.min() >= 0
    assert users.sum(axis=1) == pytest.approx(np.ones(500))
    assert np.array_equal(users, draw_users(500, 7))
    assert not np.array_equal(users, draw_users(500, 8))


def test_a_small_concentration_makes_tastes_one_sided():
    assert draw_users(2000, 0, concentration=0.05).max(axis=1).mean() > 0.8
    assert draw_users(2000, 0, concentration=50.0).max(axis=1).mean() < 0.3


def test_impossible_users_are_refused_with_the_numbers():
    with pytest.raises(ValueError, match=r"-1.*0\.3"):
        draw_users(-1, 0)
    with pytest.raises(ValueError, match="concentration 0"):
        draw_users(1, 0, concentration=0)


def test_utility_is_the_weighted_sum_for_one_text_or_many():
    weights, scores = np.array([0.5, 0, 0.5, 0, 0, 0]), np.eye(6)
    assert utility(weights, scores) == pytest.approx([0.5, 0, 0.5, 0, 0, 0])
    assert float(utility(weights, scores[0])) == pytest.approx(0.5)
    assert utility(np.stack([weights, weights]), scores).shape == (6, 2)


def test_choices_follow_bradley_terry():
    rng = np.random.default_rng(0)
    picks = [choose(rng, np.array([0.3, 0.1]), sharpness=5.0) for _ in range(20_000)]
    assert np.mean(np.array(picks) == 0) == pytest.approx(1 / (1 + np.exp(-1.0)), abs=0.01)


def test_no_sharpness_is_a_coin_and_great_sharpness_never_errs():
    rng = np.random.default_rng(0)
    assert {choose(rng, np.array([1.0, 0.0]), sharpness=0.0) for _ in range(50)} == {0, 1}
    assert {choose(rng, np.array([0.0, 1.0]), sharpness=1e6) for _ in range(50)} == {1}


def test_there_must_be_something_to_choose_from():
    with pytest.raises(ValueError, match="empty"):
        choose(np.random.default_rng(0), np.array([]))


def test_one_choice_in_ten_between_two_manners_goes_against_the_taste():
    rng = np.random.default_rng(0)
    asked = prompts("train", 0)
    against = []
    for weights in draw_users(6000, 1):
        prompt = asked[int(rng.integers(len(asked)))]
        first, second = rng.choice(len(MANNERS), 2, replace=False)
        texts = [answer(prompt, MANNERS[first], rng), answer(prompt, MANNERS[second], rng)]
        liked = utility(weights, np.array([manner_scores(text) for text in texts]))
        against.append(liked[choose(rng, liked, DEFAULT_SHARPNESS)] < liked.max())
    print(f"\nchoices against the taste: {np.mean(against):.3f}")  # noqa: T201  shown with -s
    assert 0.085 < np.mean(against) < 0.115
