"""Families score and predict: contributions, spreads, masks and gates."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from attune.models.seam.bradley_terry import BradleyTerry
from tests.seam import examples
from tests.seam.users import FAMILY_NAMES, LN3, evidence_of, hedge_pair, seeds

GLOBAL = ("bradley_terry", "sparserm")
"""Families that learn nothing of a user."""

# --- scoring


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILY_NAMES)
@settings(max_examples=min(25, settings.default.max_examples))
@given(seed=seeds, candidates=st.integers(1, 9))
def test_contributions_sum_to_the_score(name, seed, candidates):
    rng = np.random.default_rng(seed)
    families = examples.all_families(rng)
    family = families[name]
    rewards = rng.normal(size=(candidates, len(family.heads)))
    scored = family.score(families.part(name, evidence_of(families, rng)), rewards, examples.row(rng))
    for candidate in range(candidates):
        contributions = [scored.weights[head] * scored.rewards[candidate, head] for head in range(len(family.heads))]
        assert scored.scores[candidate] == pytest.approx(math.fsum(contributions), abs=1e-12)
    assert scored.stds.shape == (candidates,)
    assert np.all(scored.stds >= 0)


@pytest.mark.parametrize("name", FAMILY_NAMES)
@settings(max_examples=min(25, settings.default.max_examples))
@given(seed=seeds)
def test_a_candidates_score_does_not_depend_on_its_neighbours(name, seed):
    rng = np.random.default_rng(seed)
    families = examples.all_families(rng)
    family, prompt = families[name], examples.row(rng)
    evidence, rewards = families.part(name, evidence_of(families, rng)), rng.normal(size=(7, len(family.heads)))
    together = family.score(evidence, rewards, prompt)
    for candidate in range(7):
        alone = family.score(evidence, rewards[candidate : candidate + 1], prompt)
        assert (together.scores[candidate], together.stds[candidate]) == (alone.scores[0], alone.stds[0])  # to the last bit
    turned = family.score(evidence, rewards[::-1].copy(), prompt)
    assert turned.scores[::-1].tobytes() == together.scores.tobytes()


@pytest.mark.parametrize("name", [name for name in FAMILY_NAMES if name not in GLOBAL])
@settings(max_examples=min(25, settings.default.max_examples))
@given(seed=seeds, choices=st.integers(1, 5))
def test_users_predicted_together_are_predicted_as_each_is_alone(name, seed, choices):
    rng = np.random.default_rng(seed)
    families = examples.all_families(rng)
    family = families[name]
    users = np.array([families.part(name, evidence_of(families, rng, told)) for told in (0, 1, 6)])
    rows = [(examples.row(rng), examples.row(rng), examples.row(rng)) for _ in range(choices)]
    together = family.chances(users[:, None], *families.stacked(rows))
    assert together.shape == (3, choices)
    for at, one in enumerate(rows):
        alone = [family.predict(user, *one) for user in users]
        np.testing.assert_allclose(family.chances(users, *one), alone, rtol=1e-12)
        np.testing.assert_allclose(together[:, at], alone, rtol=1e-12)


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_no_candidates_give_no_scores(rng, name):
    families = examples.all_families(rng)
    family = families[name]
    scored = family.score(families.part(name, families.prior()), np.zeros((0, len(family.heads))), examples.row(rng))
    assert (scored.scores.shape, scored.stds.shape) == ((0,), (0,))


@pytest.mark.slow
@settings(max_examples=min(50, settings.default.max_examples))
@given(seed=seeds, comparisons=st.integers(0, 40))
def test_weights_and_their_samples_stay_on_the_simplex(seed, comparisons):
    rng = np.random.default_rng(seed)
    families = examples.all_families(rng)
    evidence = evidence_of(families, rng, comparisons)
    for name in families.names:
        family, part = families[name], families.part(name, evidence)
        for prompt in (None, examples.row(rng)):
            every = np.concatenate([family.weights(part, prompt)[None], family.sample_weights(part, prompt, rng, 5)])
            assert every.shape == (6, len(family.heads))
            if name == "attributes":  # a reward may count less than nothing for somebody
                continue
            assert np.all(every >= 0)
            np.testing.assert_allclose(every.sum(axis=1), 1.0, atol=1e-12)


def test_the_spread_of_a_mixture_is_that_of_its_heads():
    # Weights 3/4 and 1/4 on rewards 2 and -2: mean 1, variance 3/4 * 1 + 1/4 * 9 = 3.
    family, *_ = hedge_pair((0.0, 0.0))
    scored = family.score(np.array([-LN3 / 2, LN3 / 2]), np.array([[2.0, -2.0]]), None)
    assert scored.scores.tolist() == [pytest.approx(1.0, rel=1e-12)]
    assert scored.stds.tolist() == [pytest.approx(math.sqrt(3.0), rel=1e-12)]


def test_the_spread_of_the_gaussian_user_is_how_far_its_position_moves_the_score(rng):
    family, rewards = examples.vrf(rng), rng.normal(size=(3, examples.HEADS))
    precision, votes = rng.uniform(0, 3, examples.LATENT), rng.normal(size=examples.LATENT)
    scored = family.score(np.concatenate([precision, votes]), rewards, None)
    variances, step = np.zeros(3), 1e-5
    for axis in range(examples.LATENT):
        shift = step * (1 + precision[axis]) * np.eye(examples.LATENT)[axis]  # of the votes: moves the mean by `step`
        up, down = (family.score(np.concatenate([precision, votes + sign * shift]), rewards, None).scores for sign in (1, -1))
        variances += ((up - down) / (2 * step)) ** 2 / (1 + precision[axis])
    np.testing.assert_allclose(scored.stds, np.sqrt(variances), rtol=1e-7)


def test_everybody_has_the_same_global_head():
    family = BradleyTerry("bt", ("global",), 2.0)
    scored = family.score(np.zeros(0), np.array([[0.5], [-1.0]]), None)
    assert (scored.scores.tolist(), scored.stds.tolist(), scored.weights.tolist()) == ([0.5, -1.0], [0.0, 0.0], [1.0])
    rows = {"bt_rewards": np.array([LN3], dtype=np.float32)}, {"bt_rewards": np.array([LN3 / 2], dtype=np.float32)}
    # sigma(2 * (ln 3 - ln(3)/2)) = sigma(ln 3)
    assert family.predict(np.zeros(0), *rows, {}) == pytest.approx(3 / 4, abs=1e-7)
    assert family.learn(*rows, {}, tie=False).shape == (0,)


# --- masks and gates


def test_masked_heads_have_weight_zero_with_and_without_a_prompt(rng):
    family = examples.micro(rng, mask=(True, False, True, False))
    evidence = np.array([0.0, -50.0, 1.0, -50.0])  # the user would like the masked heads best
    for prompt in (None, examples.row(rng)):
        gate = family.log_prior if prompt is None else prompt["micro_gate"].astype(float)
        odds = [math.exp(gate[0]), math.exp(gate[2] - 1.0)]
        expected = [odds[0] / sum(odds), 0.0, odds[1] / sum(odds), 0.0]
        np.testing.assert_allclose(family.weights(evidence, prompt), expected, rtol=1e-12)
        assert family.sample_weights(evidence, prompt, rng, 50)[:, [1, 3]].sum() == 0.0


def test_a_gate_that_closes_every_open_head_leaves_the_choice_to_the_user(rng):
    family = examples.micro(rng, mask=(True, True, False, True))
    prompt = {"micro_gate": np.array([-np.inf, -np.inf, 0.0, -np.inf], dtype=np.float32)}
    # exp(-C): 1, 3, 6 of 10 among the open heads.
    with np.errstate(invalid="raise"):
        weights = family.weights(np.array([0.0, -LN3, 0.0, -math.log(6.0)]), prompt)
    np.testing.assert_allclose(weights, [0.1, 0.3, 0.0, 0.6], rtol=1e-12)


def test_without_a_prompt_the_mean_gate_is_the_prior(rng):
    family = examples.micro(rng)
    np.testing.assert_allclose(family.weights(np.zeros(examples.HEADS), None), np.exp(family.log_prior), rtol=1e-12)


def test_sampled_heads_of_a_mixture_are_as_frequent_as_their_weights(rng):
    family = examples.micro(rng)
    evidence = np.array([0.5, -0.5, 0.2, -0.2])
    draws = family.sample_weights(evidence, None, rng, 5_000)
    assert set(np.unique(draws)) == {0.0, 1.0}
    assert scipy.stats.chisquare(draws.sum(axis=0), 5_000 * family.weights(evidence, None)).pvalue > 1e-3


# --- prediction


def test_the_prediction_of_a_mixture_worked_out_by_hand():
    family, chosen, rejected, prompt = hedge_pair((LN3, -LN3))
    # Weights 3/4, 1/4 after one such comparison: 3/4 * 3/4 + 1/4 * 1/4.
    assert family.predict(np.zeros(2), chosen, rejected, prompt) == pytest.approx(1 / 2, rel=1e-12)
    learned = family.learn(chosen, rejected, prompt, tie=False)
    assert family.predict(learned, chosen, rejected, prompt) == pytest.approx(5 / 8, rel=1e-12)
    assert family.predict(learned, rejected, chosen, prompt) == pytest.approx(3 / 8, rel=1e-12)


def test_the_prediction_of_the_gaussian_user_is_the_formula_written_out(rng):
    family, prompt = examples.vrf(rng), examples.row(rng)
    chosen, rejected = examples.row(rng), examples.row(rng)
    evidence = np.concatenate([rng.uniform(0, 3, examples.LATENT), rng.normal(size=examples.LATENT)])
    std = [1 / math.sqrt(1 + t) for t in evidence[: examples.LATENT]]
    mean = [e * s * s for e, s in zip(evidence[examples.LATENT :], std, strict=True)]
    margins = [1.2 * (float(a) - float(b)) for a, b in zip(chosen["vrf_rewards"], rejected["vrf_rewards"], strict=True)]
    powers = []
    for base_mean, base_std in zip(family.bases.means, family.bases.stds, strict=True):
        distance = sum((a - b) ** 2 for a, b in zip([*mean, *std], [*base_mean, *base_std], strict=True))
        powers.append(math.exp(-distance / family.bases.tau))
    weights = [power / sum(powers) for power in powers]
    variance = 0.0
    for axis in range(examples.LATENT):
        centre = sum(w * m for w, m in zip(weights, family.bases.means[:, axis], strict=True))
        pulls = zip(weights, margins, family.bases.means[:, axis], strict=True)
        variance += (std[axis] * 2 / family.bases.tau * sum(w * r * (m - centre) for w, r, m in pulls)) ** 2
    margin = sum(w * r for w, r in zip(weights, margins, strict=True))
    expected = 1 / (1 + math.exp(-margin / math.sqrt(1 + math.pi * variance / 8)))
    assert family.predict(evidence, chosen, rejected, prompt) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("name", FAMILY_NAMES)
@settings(max_examples=min(25, settings.default.max_examples))
@given(seed=seeds)
def test_the_two_sides_of_a_prediction_sum_to_one(name, seed):
    rng = np.random.default_rng(seed)
    families = examples.all_families(rng)
    evidence, chosen, rejected, prompt = evidence_of(families, rng), examples.row(rng), examples.row(rng), examples.row(rng)
    forward, backward = families.predict(evidence, chosen, rejected, prompt), families.predict(evidence, rejected, chosen, prompt)
    assert forward[name] + backward[name] == pytest.approx(1.0, abs=1e-12)


def test_rewards_are_subtracted_in_double_precision():
    # 2**24 - 0.5 is 2**24 in single precision; a tiny logit scale makes the half visible in the probability.
    family = BradleyTerry("bt", ("global",), 1e-7)
    chosen, rejected = {"bt_rewards": np.array([2.0**24], np.float32)}, {"bt_rewards": np.array([0.5], np.float32)}
    assert family.predict(np.zeros(0), chosen, rejected, {}) == pytest.approx(1 / (1 + math.exp(-1.67772155)), rel=1e-12)
