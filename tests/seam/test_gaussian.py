"""The Gaussian user: pair encoder, posterior, Wasserstein matching, variance, sampling."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from attune.models.seam import gaussian
from attune.models.seam.gaussian import Bases, PairEncoder
from tests.seam import examples

LN3 = math.log(3.0)


def sigma(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x))


# --- posterior


def test_an_unknown_user_is_the_standard_normal():
    mean, std = gaussian.posterior(np.zeros(6))
    assert (mean.tolist(), std.tolist()) == ([0.0] * 3, [1.0] * 3)


def test_the_posterior_is_the_product_of_experts_with_the_prior():
    # Votes (6, -3) with precision 3, then (0, 5) with precision 1 on the second axis only.
    first = gaussian.vote_evidence(np.array([3.0, 3.0]), np.array([6.0, -3.0]))
    second = gaussian.vote_evidence(np.array([0.0, 1.0]), np.array([0.0, 5.0]))
    assert first.tolist() == [3.0, 3.0, 6.0, -3.0]
    mean, std = gaussian.posterior(first + second)
    # Axis 1: precision 1 + 3, mean 6/4. Axis 2: precision 1 + 3 + 1, mean (-3 + 5)/5.
    np.testing.assert_allclose(mean, [3 / 2, 2 / 5], rtol=1e-15)
    np.testing.assert_allclose(std, [1 / 2, 1 / math.sqrt(5)], rtol=1e-15)


def test_of_no_user_more_is_known_than_the_floor_leaves():
    # Of variance 1 a tenth can never be known: after precision 1 it is 0.1 + 0.9 / 2, after a million comparisons 0.1.
    _, std = gaussian.posterior(np.array([1.0, 1e9, 0.0, 0.0]), floor=0.1)
    np.testing.assert_allclose(std**2, [0.55, 0.1], rtol=1e-8)
    assert gaussian.posterior(np.zeros(2), floor=0.1)[1].tolist() == [1.0]


def test_a_tie_makes_the_user_surer_and_moves_nothing():
    assert gaussian.vote_evidence(np.array([3.0]), np.array([2.0]), tie=True).tolist() == [3.0, 0.0]


# --- matching


def test_weights_at_known_positions():
    # One axis, bases at 0 and 2: at 0 the squared distances are 0 and 4, and tau = 4 / ln 3 makes that 1 to 1/3.
    bases = Bases(np.array([[0.0], [2.0]]), np.ones((2, 1)), 4.0 / LN3)
    np.testing.assert_allclose(gaussian.matching_weights(np.array([0.0]), np.ones(1), bases), [3 / 4, 1 / 4], rtol=1e-14)
    np.testing.assert_allclose(gaussian.matching_weights(np.array([1.0]), np.ones(1), bases), [1 / 2, 1 / 2], rtol=1e-14)
    np.testing.assert_allclose(gaussian.matching_weights(np.array([2.0]), np.ones(1), bases), [1 / 4, 3 / 4], rtol=1e-14)


def test_weights_see_standard_deviations_and_not_variances():
    # Means agree; sigma = 1 is 0 from the first base and (2 - 1)**2 = 1 from the second (variances would be 3 apart).
    bases = Bases(np.zeros((2, 1)), np.array([[1.0], [2.0]]), 1.0 / LN3)
    np.testing.assert_allclose(gaussian.matching_weights(np.zeros(1), np.ones(1), bases), [3 / 4, 1 / 4], rtol=1e-14)


def test_distances_are_those_of_the_general_formula_for_gaussians(rng):
    # W2^2 = |m1 - m2|^2 + tr(C1 + C2 - 2 (C2^1/2 C1 C2^1/2)^1/2); -tau log w_k gives it up to what all bases share.
    bases = examples.bases(rng)
    mean, std = rng.normal(size=examples.LATENT), rng.uniform(0.1, 1.0, size=examples.LATENT)
    distances = []
    for base_mean, base_std in zip(bases.means, bases.stds, strict=True):
        root = np.diag(base_std)
        inner = scipy.linalg.sqrtm(root @ np.diag(std**2) @ root)
        distances.append(np.sum((mean - base_mean) ** 2) + np.trace(np.diag(std**2) + root @ root - 2.0 * inner))
    found = -bases.tau * np.log(gaussian.matching_weights(mean, std, bases))
    np.testing.assert_allclose(found - found[0], np.array(distances) - distances[0], rtol=1e-10, atol=1e-12)


def plain_weights(mean: list[float], std: list[float], bases: Bases) -> list[float]:
    powers = []
    for base_mean, base_std in zip(bases.means.tolist(), bases.stds.tolist(), strict=True):
        distance = sum((a - b) ** 2 for a, b in zip(mean, base_mean, strict=True))
        distance += sum((a - b) ** 2 for a, b in zip(std, base_std, strict=True))
        powers.append(math.exp(-distance / bases.tau))
    return [power / sum(powers) for power in powers]


def test_weights_of_many_positions_are_those_of_each(rng):
    bases = examples.bases(rng)
    positions, std = rng.normal(size=(5, examples.LATENT)), rng.uniform(0.1, 1.0, size=examples.LATENT)
    weights = gaussian.matching_weights(positions, std, bases)
    for found, position in zip(weights, positions, strict=True):
        np.testing.assert_allclose(found, plain_weights(position.tolist(), std.tolist(), bases), rtol=1e-12)


@given(
    arrays(np.float64, examples.LATENT, elements=st.floats(-1e4, 1e4)),
    arrays(np.float64, examples.LATENT, elements=st.floats(1e-4, 1)),
)
def test_weights_stay_on_the_simplex(mean, std):
    weights = gaussian.matching_weights(mean, std, examples.bases(np.random.default_rng(5)))
    assert np.all(weights >= 0)
    assert np.sum(weights) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("latent", [2, 8, 32, 256])
def test_an_unknown_user_is_spread_over_the_bases_however_large_the_latent_space(rng, latent):
    # tau grows with the latent size as the distances do; a fixed tau would be one-hot at 256.
    bases = Bases(rng.normal(size=(8, latent)), rng.uniform(0.5, 1.0, size=(8, latent)), 1.0 * latent)
    weights = gaussian.matching_weights(*gaussian.posterior(np.zeros(2 * latent)), bases)
    assert math.exp(-np.sum(weights * np.log(weights))) > 4.0  # effective bases, of 8
    fixed = gaussian.matching_weights(*gaussian.posterior(np.zeros(2 * latent)), replace(bases, tau=1.0))
    assert latent < 256 or np.max(fixed) > 0.99


# --- variance of a margin


def test_the_variance_worked_out_by_hand():
    # Bases at 0 and 2, w = (3/4, 1/4), r = (1, 0): m_bar = 1/2 and sum w r (m - m_bar) = 3/4 * (0 - 1/2) = -3/8.
    # With tau = 2 the gradient is -3/8; with sigma = 1/2 the variance is (3/16)**2.
    bases = Bases(np.array([[0.0], [2.0]]), np.ones((2, 1)), 2.0)
    variance = gaussian.margin_variance(np.array([0.75, 0.25]), np.array([1.0, 0.0]), np.array([0.5]), bases)
    assert float(variance) == pytest.approx(9 / 256, rel=1e-14)


def test_the_variance_is_that_of_finite_differences(rng):
    bases = examples.bases(rng)
    mean, std, rewards = rng.normal(size=examples.LATENT), rng.uniform(0.1, 1.0, size=examples.LATENT), rng.normal(size=(3, examples.HEADS))
    step, expected = 1e-5, np.zeros(3)
    for axis in range(examples.LATENT):
        shift = step * np.eye(examples.LATENT)[axis]
        up = rewards @ np.array(plain_weights((mean + shift).tolist(), std.tolist(), bases))
        down = rewards @ np.array(plain_weights((mean - shift).tolist(), std.tolist(), bases))
        expected += (std[axis] * (up - down) / (2 * step)) ** 2
    weights = gaussian.matching_weights(mean, std, bases)
    np.testing.assert_allclose(gaussian.margin_variance(weights, rewards, std, bases), expected, rtol=1e-7)
    np.testing.assert_allclose(gaussian.margin_variance(weights, rewards[1], std, bases), expected[1], rtol=1e-7)


def test_the_variance_is_that_of_the_written_formula(rng):
    bases = examples.bases(rng)
    weights, rewards, std = rng.dirichlet(np.ones(examples.HEADS)), rng.normal(size=examples.HEADS), rng.uniform(0.1, 1.0, examples.LATENT)
    expected = 0.0
    for axis in range(examples.LATENT):
        centre = sum(weights[k] * bases.means[k, axis] for k in range(examples.HEADS))
        gradient = 2.0 / bases.tau * sum(weights[k] * rewards[k] * (bases.means[k, axis] - centre) for k in range(examples.HEADS))
        expected += std[axis] ** 2 * gradient**2
    assert float(gaussian.margin_variance(weights, rewards, std, bases)) == pytest.approx(expected, rel=1e-12)


def test_a_user_without_doubt_and_heads_that_agree_give_no_variance(rng):
    bases, weights = examples.bases(rng), rng.dirichlet(np.ones(examples.HEADS))
    assert gaussian.margin_variance(weights, rng.normal(size=examples.HEADS), np.zeros(examples.LATENT), bases) == 0.0
    agreed = gaussian.margin_variance(weights, np.full(examples.HEADS, 2.5), np.ones(examples.LATENT), bases)
    assert agreed == pytest.approx(0.0, abs=1e-28)


# --- attenuation


def test_the_probability_without_variance_is_bradley_terry():
    assert gaussian.attenuated_probability(LN3, 0.0) == pytest.approx(3 / 4, rel=1e-15)


def test_the_attenuated_probability_worked_out_by_hand():
    # S^2 = 24/pi makes sqrt(1 + pi S^2 / 8) = 2, and a margin of 2 ln 3 becomes ln 3.
    assert gaussian.attenuated_probability(2 * LN3, 24 / math.pi) == pytest.approx(3 / 4, rel=1e-15)
    assert gaussian.attenuated_probability(-2 * LN3, 24 / math.pi) == pytest.approx(1 / 4, rel=1e-15)


def test_extreme_margins_and_variances_do_not_overflow():
    assert gaussian.attenuated_probability(1e6, 0.0) == 1.0
    assert gaussian.attenuated_probability(-1e6, 0.0) == 0.0
    assert gaussian.attenuated_probability(5.0, 1e300) == pytest.approx(0.5, abs=1e-12)
    assert gaussian.attenuated_probability(0.0, 3.0) == 0.5


@pytest.mark.parametrize(("margin", "spread"), [(0.5, 0.5), (1.0, 1.0), (-2.0, 1.5), (3.0, 3.0), (0.0, 2.0)])
def test_the_attenuated_probability_is_close_to_the_marginal_likelihood(rng, margin, spread):
    draws = margin + spread * rng.standard_normal(400_000)
    marginal = float(np.mean(1.0 / (1.0 + np.exp(-draws))))
    assert gaussian.attenuated_probability(margin, spread**2) == pytest.approx(marginal, abs=0.02)  # the approximation's own error


def test_variance_pulls_the_probability_towards_a_half():
    probabilities = [gaussian.attenuated_probability(2.0, variance) for variance in (0.0, 0.5, 2.0, 8.0, 100.0)]
    assert probabilities == sorted(probabilities, reverse=True)
    assert probabilities[-1] > 0.5


# --- pair encoder


def test_the_encoder_worked_out_by_hand():
    # One unit that reads the difference ln 3: silu(ln 3) = 3/4 ln 3 and silu(-ln 3) = -1/4 ln 3; odd part ln(3)/2, even ln(3)/4.
    layer = (np.array([[1.0, 0.0]]), np.zeros(1))
    vote, gate, precision = (np.array([[size]]) for size in (2.0, 1.0, 4.0))
    encoder = PairEncoder((layer,), vote=vote, gate=gate, precision=precision, precision_bias=np.zeros(1), scale=2.0)
    told = LN3**2 / math.sqrt(1.0 + LN3**2)
    precision, vote = encoder(np.array([LN3]), np.array([9.0]))
    assert vote.tolist() == [pytest.approx(LN3, rel=1e-14)]  # 2 * ln(3)/2
    assert precision.tolist() == [pytest.approx(told * math.log(2.0), rel=1e-14)]  # softplus(ln 3) / 2 = ln(4) / 2
    # The prompt on the same unit: silu(ln 3 + ln 3) and silu(0): odd and even parts are both half of 2 ln 3 * 9/10.
    encoder = replace(encoder, layers=((np.array([[1.0, 1.0]]), np.zeros(1)),))
    precision, vote = encoder(np.array([LN3]), np.array([LN3]))
    assert vote.tolist() == [pytest.approx(1.8 * LN3, rel=1e-14)]
    assert precision.tolist() == [pytest.approx(told * math.log1p(3.0**3.6) / 2, rel=1e-14)]


def plain_hidden(encoder: PairEncoder, inputs: list[float]) -> list[float]:
    for weight, bias in encoder.layers:
        logits = [sum(w * x for w, x in zip(line, inputs, strict=True)) + b for line, b in zip(weight.tolist(), bias.tolist(), strict=True)]
        inputs = [x * sigma(x) for x in logits]
    return inputs


def test_the_encoder_is_the_odd_and_even_part_of_its_layers(rng):
    encoder = examples.encoder(rng)
    difference, prompt = rng.normal(size=examples.FEATURES), rng.normal(size=examples.PROMPT_FEATURES)
    forward = plain_hidden(encoder, [*difference, *prompt])
    backward = plain_hidden(encoder, [*(-difference), *prompt])
    votes, precisions = [], []
    apart = [sum(w * x for w, x in zip(line, difference, strict=True)) for line in encoder.gate.tolist()]
    length = math.sqrt(1.0 + sum(x * x for x in apart))
    for axis in range(examples.LATENT):
        votes.append(sum(w * (a - b) / 2 for w, a, b in zip(encoder.vote[axis], forward, backward, strict=True)))
        logit = sum(w * (a + b) / 2 for w, a, b in zip(encoder.precision[axis], forward, backward, strict=True))
        precisions.append(apart[axis] ** 2 / length * math.log1p(math.exp(logit + encoder.precision_bias[axis])) / encoder.scale)
    precision, vote = encoder(difference, prompt)
    np.testing.assert_allclose(vote, votes, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(precision, precisions, rtol=1e-12)


@settings(max_examples=200)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(0, 20), st.integers(1, 33))
def test_swapping_winner_and_loser_turns_the_vote_round_exactly(seed, features, prompt_features, latent):
    rng = np.random.default_rng(seed)
    encoder = examples.encoder(rng, features=features, prompt=prompt_features, latent=latent)
    difference, prompt = 3.0 * rng.normal(size=features), rng.normal(size=prompt_features)
    precision, vote = encoder(difference, prompt)
    swapped_precision, swapped_vote = encoder(-difference, prompt)
    assert np.array_equal(precision, swapped_precision)
    assert np.array_equal(vote, -swapped_vote)
    assert np.all(precision >= 0)


def test_no_difference_gives_no_vote(rng):
    encoder = examples.encoder(rng)
    assert not encoder(np.zeros(examples.FEATURES), rng.normal(size=examples.PROMPT_FEATURES))[1].any()


def test_extreme_features_do_not_overflow(rng):
    encoder = examples.encoder(rng)
    with np.errstate(over="raise", invalid="raise"):
        precision, vote = encoder(np.full(examples.FEATURES, 1e6), np.full(examples.PROMPT_FEATURES, -1e6))
    assert np.isfinite(precision).all()
    assert np.isfinite(vote).all()


def test_features_of_another_width_are_refused(rng):
    with pytest.raises(ValueError, match="matmul"):
        examples.encoder(rng)(np.zeros(examples.FEATURES), np.zeros(examples.PROMPT_FEATURES + 1))


def test_an_encoder_survives_its_arrays(rng):
    encoder = examples.encoder(rng)
    again = PairEncoder.from_arrays(encoder.to_arrays())
    difference, prompt = rng.normal(size=examples.FEATURES), rng.normal(size=examples.PROMPT_FEATURES)
    assert [part.tobytes() for part in again(difference, prompt)] == [part.tobytes() for part in encoder(difference, prompt)]


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("layer0_weight", np.zeros(7)),
        ("layer0_bias", np.zeros(examples.HIDDEN - 1)),
        ("layer1_weight", np.zeros((7, 5))),
        ("layer1_bias", np.zeros((7, 1))),
        ("vote", np.zeros((examples.LATENT, 2))),
        ("vote", np.zeros(())),
        ("precision", np.zeros((examples.LATENT + 1, 7))),
        ("precision_bias", np.zeros(examples.LATENT + 1)),
        ("precision_bias", np.full(examples.LATENT, np.nan)),
        ("layer1_bias", np.full(7, np.inf)),
        ("scale", np.zeros(1)),
        ("scale", np.array(0.0)),
        ("scale", np.array(np.nan)),
    ],
)
def test_an_array_that_does_not_fit_is_refused_by_name(rng, name, array):
    with pytest.raises(ValueError, match=name):
        PairEncoder.from_arrays({**examples.encoder(rng).to_arrays(), name: array})


def test_an_encoder_needs_a_layer(rng):
    arrays = {name: array for name, array in examples.encoder(rng).to_arrays().items() if not name.startswith("layer")}
    with pytest.raises(ValueError, match="layer0_weight"):
        PairEncoder.from_arrays(arrays)


@pytest.mark.parametrize(
    ("means", "stds", "tau", "named"),
    [
        (np.zeros((2, 3)), np.ones((2, 2)), 1.0, "base_means"),
        (np.zeros(3), np.ones(3), 1.0, "base_means"),
        (np.zeros((0, 3)), np.ones((0, 3)), 1.0, "base_means"),
        (np.full((2, 3), np.nan), np.ones((2, 3)), 1.0, "base_means"),
        (np.zeros((2, 3)), np.full((2, 3), np.inf), 1.0, "base_stds"),
        (np.zeros((2, 3)), np.zeros((2, 3)), 1.0, "base_stds"),
        (np.zeros((2, 3)), np.ones((2, 3)), 0.0, "tau"),
        (np.zeros((2, 3)), np.ones((2, 3)), math.nan, "tau"),
        (np.zeros((2, 3)), np.ones((2, 3)), math.inf, "tau"),
    ],
)
def test_bases_that_are_none_are_refused_by_name(means, stds, tau, named):
    with pytest.raises(ValueError, match=named):
        Bases(means, stds, tau)


# --- sampling


def test_samples_are_the_weights_of_drawn_positions(rng):
    bases, evidence = examples.bases(rng), np.concatenate([rng.uniform(0, 5, examples.LATENT), rng.normal(size=examples.LATENT)])
    draws = np.random.default_rng(7).standard_normal((4, examples.LATENT))
    sampled = gaussian.sample_weights(evidence, bases, np.random.default_rng(7), 4)
    for found, draw in zip(sampled, draws, strict=True):
        std = [1 / math.sqrt(1 + precision) for precision in evidence[: examples.LATENT]]
        mean = [vote * deviation**2 for vote, deviation in zip(evidence[examples.LATENT :], std, strict=True)]
        position = [centre + deviation * z for centre, deviation, z in zip(mean, std, draw, strict=True)]
        np.testing.assert_allclose(found, plain_weights(position, std, bases), rtol=1e-12)


def test_the_spread_of_sampled_scores_is_the_reported_standard_deviation(rng):
    # Where the posterior is narrow the score is linear in the position, and the delta method is exact.
    bases, rewards = examples.bases(rng), rng.normal(size=examples.HEADS)
    evidence = np.concatenate([np.full(examples.LATENT, 1e5), 1e5 * rng.normal(size=examples.LATENT)])
    scores = gaussian.sample_weights(evidence, bases, rng, 100_000) @ rewards
    mean, std = gaussian.posterior(evidence)
    variance = gaussian.margin_variance(gaussian.matching_weights(mean, std, bases), rewards, std, bases)
    assert np.std(scores) == pytest.approx(math.sqrt(variance), rel=0.02)
