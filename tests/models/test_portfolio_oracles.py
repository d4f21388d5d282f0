"""Oracles over a sampled response set, the frozen rewards in front of them, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest

from attune.models.portfolio.oracles import BestOfN, EvidenceInvalid, expect_rewards, on_simplex
from attune.models.portfolio.rewards import fit_normalisation
from tests.models.portfolio_worlds import best_of_n, users

# Two prompts, two responses: the second prompt's responses tie for equal weights.
REWARDS = np.array([[[1.0, 0.0], [0.4, 0.8]], [[0.0, 0.6], [0.6, 0.0]]])


def test_best_of_n_worked_out_by_hand():
    solution = BestOfN(REWARDS).solve(np.array([0.5, 0.5]))
    assert solution.value.tolist() == pytest.approx([0.2, 0.7])  # responses 1 and, of the two that tie, 0
    assert solution.optimum == pytest.approx(0.45)
    assert BestOfN(REWARDS).solve(np.array([1.0, 0.0])).value.tolist() == pytest.approx([0.8, 0.0])


def test_no_policy_is_above_the_optimum_and_the_solution_is_at_it():
    oracle, rng = best_of_n(0, 3), np.random.default_rng(1)
    for weights in users(3, 20):
        solution = oracle.solve(weights)
        chosen = rng.integers(0, 6, size=(200, 12))
        others = oracle.rewards[np.arange(12), chosen].mean(axis=1) @ weights
        assert others.max() <= solution.optimum + 1e-12
        assert weights @ solution.value == pytest.approx(solution.optimum)
        assert oracle.per_prompt(weights).mean(axis=0) == pytest.approx(solution.value)


def test_with_kl_no_policy_is_above_the_optimum_and_the_solution_is_at_it():
    oracle, rng = best_of_n(0, 3, beta=0.1), np.random.default_rng(1)
    for weights in users(3, 10):
        solution = oracle.solve(weights)
        assert weights @ solution.value - 0.1 * solution.divergence == pytest.approx(solution.optimum)
        for policy in rng.dirichlet(np.ones(6), size=(50, 12)):
            value = np.mean(np.sum(policy[..., None] * oracle.rewards, axis=1), axis=0)
            divergence = np.mean(np.sum(policy * np.log(policy * 6), axis=1))
            assert weights @ value - 0.1 * divergence <= solution.optimum + 1e-12


def test_scaling_weights_and_beta_together_keeps_the_policy_and_scaling_weights_alone_does_not():
    weights, beta = np.array([3.0, 1.0]), 0.4
    on, scaled = on_simplex(weights, beta)
    assert (on.tolist(), scaled) == ([0.75, 0.25], 0.1)
    scores = REWARDS @ weights / beta
    wanted = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(BestOfN(REWARDS, scaled).chances(on), wanted)
    assert np.max(np.abs(BestOfN(REWARDS, beta).chances(on) - wanted)) > 0.1
    assert beta / scaled * BestOfN(REWARDS, scaled).optimum(on) == pytest.approx(np.mean(beta * np.log(np.exp(scores).mean(axis=1))))


def test_weights_off_the_simplex_are_refused_by_an_oracle():
    with pytest.raises(ValueError, match="not on the simplex over 2 rewards; on_simplex"):
        BestOfN(REWARDS).solve(np.array([2.0, 1.0]))
    with pytest.raises(ValueError, match="not on the simplex"):
        BestOfN(REWARDS).solve(np.array([1.1, -0.1]))


@pytest.mark.parametrize("weights", [[0.0, 0.0], [1.0, -1.0], [np.nan, 1.0]])
def test_weights_that_are_none_are_refused(weights):
    with pytest.raises(ValueError, match="finite, non-negative and not all 0"):
        on_simplex(np.array(weights))


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        (REWARDS + 0.5, r"4 of 8 rewards are outside \[0, 1\] \(by reward: \[2, 2\]; range 0.5 to 1.5\)"),
        (REWARDS * np.nan, "8 of 8 rewards are outside"),
        (REWARDS[..., :1], "1 best policy for everybody"),
        (REWARDS[:0], "none empty"),
    ],
)
def test_rewards_that_no_portfolio_can_be_built_on_are_refused(rewards, message):
    with pytest.raises(EvidenceInvalid, match=message):
        expect_rewards(rewards)


def test_rewards_without_prompts_are_refused():
    with pytest.raises(EvidenceInvalid, match=r"\[P, N, d\]"):
        BestOfN(REWARDS[0])


# --- rewards


def test_the_normalisation_is_frozen_and_counts_what_it_clips():
    raw = np.random.default_rng(0).normal([3.0, -20.0], [0.5, 8.0], size=(4000, 2))
    frozen = fit_normalisation(raw)
    assert np.all(frozen.clipped(raw) == pytest.approx(0.01, abs=0.002))
    assert frozen.apply(frozen.offset).tolist() == [0.0, 0.0]
    assert frozen.apply(frozen.offset + 0.25 * frozen.scale).tolist() == pytest.approx([0.25, 0.25])
    assert frozen.apply(raw + 100.0).tolist() == np.ones_like(raw).tolist()
    assert frozen.clipped(raw + 100.0).tolist() == [1.0, 1.0]
    assert np.diag(frozen.weight_map()).tolist() == frozen.scale.tolist()


def test_the_normalisation_of_some_heads_knows_the_ranges_of_the_others():
    raw = np.stack([np.linspace(0.0, 8.0, 101), np.full(101, 3.0), np.linspace(-1.0, 1.0, 101)], axis=1)
    some = fit_normalisation(raw, tail=0.0, places=[2, 0])
    assert (some.offset.tolist(), some.scale.tolist()) == ([-1.0, 0.0], [2.0, 8.0])
    assert some.weight_map().tolist() == [[0.0, 8.0], [0.0, 0.0], [2.0, 0.0]]
    assert some.rest.tolist() == [0.0, 0.0, 0.0]
    assert fit_normalisation(raw, tail=0.0, places=[0]).rest.tolist() == [0.0, 0.0, 2.0]
    with pytest.raises(EvidenceInvalid, match="reward 1 is 3 for all"):
        fit_normalisation(raw, places=[1, 0])


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        (np.array([[0.0, 1.0], [1.0, 1.0]]), "reward 1 is 1 for all of 2"),
        (np.array([[np.inf, 1.0], [1.0, 1.0]]), "1 not finite"),
        (np.ones(3), "needed"),
    ],
)
def test_a_calibration_that_is_none_is_refused(rewards, message):
    with pytest.raises(EvidenceInvalid, match=message):
        fit_normalisation(rewards)


def test_other_rewards_than_were_calibrated_are_refused():
    frozen = fit_normalisation(np.array([[0.0, 1.0], [1.0, 2.0]]))
    with pytest.raises(EvidenceInvalid, match="2 finite rewards were calibrated"):
        frozen.apply(np.ones((4, 3)))
