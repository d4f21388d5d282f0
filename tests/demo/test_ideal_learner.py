"""Exact Bayes that may ask: what it is told, worked out by hand, and that nobody who has to learn more is better."""

from __future__ import annotations

import numpy as np
import pytest

from demo.corpus.tastes import DEFAULT_SHARPNESS, draw_users
from demo.ideal_learner import ideal_learner, softened, told_of_the_best
from demo.simulate import Arena, ideal_observer


def arena(prompts, seed):
    """Returns four members who show one manner each, and now and then a little less of it."""
    scores = np.zeros((prompts, 4, 2, 6))
    shown = 1.0 - np.random.default_rng(seed).uniform(0, 0.2, (prompts, 4, 2))
    for member in range(4):
        scores[:, member, :, member] = shown[:, member]
    return Arena([{}] * prompts, [[[{}, {}] for _ in range(4)] for _ in range(prompts)], scores)


def test_what_a_choice_tells_is_worked_out_by_hand():
    # Two particles alike in weight, each with a best member of its own: one votes for the first with 3/4, the other with 1/4.
    weights = np.array([[0.5, 0.0], [0.0, 0.5]])
    chances = np.array([0.75, 0.25], dtype=np.float32).reshape(2, 1, 1, 1)
    by_hand = np.log(2.0) + 0.75 * np.log(0.75) + 0.25 * np.log(0.25)
    assert told_of_the_best(weights, chances) == pytest.approx([by_hand])
    # Of two answers that may be drawn, one that tells everything and one that tells nothing: half of ln 2.
    either = np.array([[1.0, 0.5], [0.0, 0.5]], dtype=np.float32).reshape(2, 1, 1, 2)
    assert told_of_the_best(weights, either) == pytest.approx([0.5 * np.log(2.0)], abs=1e-6)
    assert told_of_the_best(np.array([[0.5, 0.5], [0.0, 0.0]]), chances) == pytest.approx([0.0], abs=1e-9)


def test_errors_in_what_is_seen_soften_choices():
    assert softened(38.0, np.zeros((4, 6))) == softened(38.0, np.full((4, 6), 0.3)) == pytest.approx(38.0)
    # Every manner off by 0.1: variance 38^2 * 2 * 0.01 * E|taste|^2, and a Dirichlet(0.3) of six has 6 * (0.05 + 1/36) = 0.464.
    off = 0.7 + 0.1 * np.array([1.0, -1.0, 1.0, -1.0])[:, None] * np.ones(6)
    assert softened(38.0, off) == pytest.approx(38.0 / np.sqrt(1 + np.pi / 8 * 38**2 * 0.02 * 0.464), rel=0.02)


def test_asking_finds_the_best_of_four_sooner_than_sampling():
    tastes, counts = draw_users(80, 3), (0, 3)
    asked = ideal_learner(arena(12, 0), arena(8, 1), tastes, seed=4, counts=counts, particles=1000)
    sampled = ideal_observer(arena(12, 0), arena(8, 1), tastes, seed=4, counts=counts, particles=1000)
    assert asked[:, 0].mean() < 0.5
    assert asked[:, 1].mean() > max(0.85, sampled[:, 1].mean())


@pytest.mark.parametrize("options", [{"as_served": True}, {"learn_from": 4}, {"errors": 0.3}])
def test_what_it_may_do_and_what_it_sees_change_it(options):
    feedback, held_out, tastes = arena(12, 0), arena(8, 1), draw_users(40, 3)
    errors = options.pop("errors", None)
    if errors:
        noise = np.random.default_rng(2).normal(0, errors, feedback.scores.shape)
        options = {"seen": (feedback.scores + noise, held_out.scores.mean(axis=(0, 2)))}
    free, found = (
        ideal_learner(feedback, held_out, tastes, seed=4, counts=(4,), sharpness=DEFAULT_SHARPNESS, particles=600, **given)
        for given in ({}, options)
    )
    assert set(np.unique(found)) <= {0.0, 1.0}
    assert found.mean() > 0.6
    assert not np.array_equal(free, found)
