"""The sparse mixture: the posterior first, then the cut. Margins of ln 3 give sigma = 3/4 and 1/4, so numbers are worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from attune.models.seam.families_file import FamiliesInvalid, read_families, write_families
from attune.models.seam.hedge import HedgeSettings
from attune.models.seam.sparse_moe import SparseMoe, awake, keep_largest
from tests.seam import examples
from tests.seam.users import LN3

Row = dict[str, np.ndarray]


def three_experts(active: int = 1) -> SparseMoe:
    """The shared expert and three routed ones, all alike likely without a prompt."""
    return SparseMoe("moe", ("quality", "a", "b", "c"), 1.0, HedgeSettings(), np.log(np.full(4, 0.25)), active)


def gate(*shares: float) -> Row:
    return {"moe_gate": np.log(np.array(shares), dtype=np.float64)}


def test_the_cut_keeps_the_shared_expert_and_the_largest_others_renormalised():
    assert keep_largest(np.array([0.1, 0.2, 0.4, 0.3]), 2).tolist() == pytest.approx([1 / 8, 0.0, 4 / 8, 3 / 8])
    assert keep_largest(np.array([0.1, 0.2, 0.4, 0.3]), 1).tolist() == pytest.approx([1 / 5, 0.0, 4 / 5, 0.0])


def test_of_equal_experts_the_earlier_one_is_kept():
    assert np.flatnonzero(keep_largest(np.full(9, 1 / 9), 3)).tolist() == [0, 1, 2, 3]


def test_an_expert_that_the_gate_would_cut_serves_the_user_whose_losses_speak_for_it():
    family = three_experts()
    prompt = gate(0.2, 0.5, 0.2, 0.1)
    # Gate alone: the shared one and a, 2 to 5.
    assert family.weights(np.zeros(4), prompt).tolist() == pytest.approx([2 / 7, 5 / 7, 0.0, 0.0])
    # The user's losses make b nine times as likely: 2, 5, 18, 1. Cutting before the posterior would have kept a.
    evidence = np.array([0.0, 0.0, -2 * LN3, 0.0])
    assert family.weights(evidence, prompt).tolist() == pytest.approx([2 / 20, 0.0, 18 / 20, 0.0])


def test_evidence_is_the_exact_loss_of_every_expert_also_of_those_that_are_cut():
    family = three_experts()
    chosen, rejected = {"moe_rewards": np.array([0.0, LN3, -LN3, 0.0])}, {"moe_rewards": np.zeros(4)}
    # Losses ln 2, ln 4/3, ln 4, ln 2; their mean is ln(64/3)/4.
    mean = math.log(64 / 3) / 4
    expected = [math.log(2) - mean, math.log(4 / 3) - mean, math.log(4) - mean, math.log(2) - mean]
    np.testing.assert_allclose(family.learn(chosen, rejected, gate(0.97, 0.01, 0.01, 0.01), tie=False), expected, rtol=1e-12)


def test_experts_that_sleep_through_a_prompt_are_charged_what_the_awake_ones_lost_on_average():
    family = replace(three_experts(), sleeping=True)
    # Of three routed experts: shares 1/2, 1/2 and 0 are awake, awake and asleep; 1/6 is half awake.
    np.testing.assert_allclose(awake(np.log([0.2, 0.4, 0.4, 1e-300])), [1.0, 1.0, 1.0, 0.0], atol=1e-12)
    np.testing.assert_allclose(awake(np.log([0.4, 0.3, 0.2, 0.1])), [1.0, 1.0, 1.0, 0.5])
    chosen, rejected = {"moe_rewards": np.array([0.0, LN3, -LN3, -LN3])}, {"moe_rewards": np.zeros(4)}
    learned = family.learn(chosen, rejected, gate(0.2, 0.4, 0.4, 1e-300), tie=False)
    # Losses of the awake ones: ln 2, ln 4/3, ln 4; their mean is ln(32/3)/3.
    mean = math.log(32 / 3) / 3
    np.testing.assert_allclose(learned, [math.log(2) - mean, math.log(4 / 3) - mean, math.log(4) - mean, 0.0], atol=1e-12)


def test_with_a_gate_that_tells_nothing_nobody_sleeps():
    chosen, rejected = {"moe_rewards": np.array([0.3, 1.0, -1.0, 0.2])}, {"moe_rewards": np.zeros(4)}
    even = gate(0.1, 0.3, 0.3, 0.3)
    plain, sleeping = (replace(three_experts(), sleeping=choice).learn(chosen, rejected, even, tie=False) for choice in (False, True))
    np.testing.assert_allclose(sleeping, plain, rtol=1e-12)


def test_the_prediction_worked_out_by_hand():
    family = three_experts(active=2)
    chosen, rejected = {"moe_rewards": np.array([0.0, LN3, -LN3, 20.0])}, {"moe_rewards": np.zeros(4)}
    # Open: shared .2, a .5, b .2, of .9; the last expert is cut and its certainty does not count.
    expected = (0.2 * 1 / 2 + 0.5 * 3 / 4 + 0.2 * 1 / 4) / 0.9
    assert family.predict(np.zeros(4), chosen, rejected, gate(0.2, 0.5, 0.2, 0.1)) == pytest.approx(expected, rel=1e-12)


def test_contributions_of_experts_that_are_cut_are_zero_and_the_rest_sum_to_the_score():
    family = three_experts()
    scored = family.score(np.zeros(4), np.array([[1.0, 2.0, 300.0, -300.0]]), gate(0.2, 0.5, 0.2, 0.1))
    contributions = scored.weights * scored.rewards[0]
    assert contributions.tolist() == pytest.approx([2 / 7, 10 / 7, 0.0, 0.0])
    assert scored.scores.tolist() == pytest.approx([12 / 7])
    # Variance 2/7 (5/7)^2 + 5/7 (2/7)^2 = 10/49.
    assert scored.stds.tolist() == pytest.approx([math.sqrt(10) / 7])


def test_samples_follow_the_posterior_before_the_cut():
    family = three_experts()
    prompt, evidence = gate(0.2, 0.5, 0.2, 0.1), np.array([0.0, 0.4, -0.4, 0.0])
    draws = family.sample_weights(evidence, prompt, np.random.default_rng(0), 20_000)
    assert np.all(draws.sum(axis=0) > 0)
    expected = family.posterior_weights(evidence, prompt)
    assert scipy.stats.chisquare(draws.sum(axis=0), 20_000 * expected).pvalue > 1e-3


@given(arrays(np.float64, 5, elements=st.floats(-700, 0)), arrays(np.float64, 5, elements=st.floats(-1e3, 1e3)), st.integers(1, 4))
def test_at_most_the_shared_and_the_active_experts_have_a_weight(log_gate, evidence, active):
    family = replace(examples.sparse_moe(np.random.default_rng(0)), active=active)
    weights = family.weights(evidence, {"sparse_moe_gate": log_gate})
    assert np.count_nonzero(weights) <= 1 + active
    assert weights.sum() == pytest.approx(1.0, abs=1e-12)
    assert np.all(weights >= 0)
    dense = family.posterior_weights(evidence, {"sparse_moe_gate": log_gate})
    # No routed expert that is cut is likelier than one that is open.
    cut, kept = dense[1:][weights[1:] == 0], dense[1:][weights[1:] > 0]
    assert cut.size == 0 or kept.size == 0 or cut.max() <= kept.min()


def test_a_gate_of_exactly_zero_still_gives_a_law():
    weights = three_experts().weights(np.zeros(4), {"moe_gate": np.full(4, -np.inf)})
    np.testing.assert_allclose(weights, [0.5, 0.5, 0.0, 0.0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"active": 0}, "active is 0; it must be 1 to 4"),
        ({"active": 5}, "active is 5"),
        ({"log_prior": np.zeros(4)}, "log_prior"),
        ({"log_prior": np.array([0.0, 0.0, np.nan, 0.0, 0.0])}, "log_prior"),
        ({"heads": ("a", "a", "b", "c", "d")}, "heads"),
        ({"logit_scale": math.inf}, "logit_scale"),
    ],
)
def test_a_mixture_whose_parts_do_not_fit_is_refused_by_name(rng, changes, message):
    with pytest.raises(ValueError, match=message):
        replace(examples.sparse_moe(rng), **changes)


def test_a_file_without_the_number_of_active_experts_is_refused_by_name(rng):
    files = write_families([examples.sparse_moe(rng)], "sparse_moe")
    with pytest.raises(FamiliesInvalid, match="'sparse_moe' lacks 'active'"):
        read_families(files["families.json"].replace(b'"active"', b'"inactive"'), files["families.npz"])
