"""Bayesian logistic regression whose evidence adds up: the bound, the posterior, and the family on the simplex."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attune.models.seam import additive
from attune.models.seam.additive import Additive
from attune.models.seam.evidence import GRID, MAX_EVIDENCE, half, quantise
from attune.models.seam.families import Families, Row
from attune.models.seam.families_file import FamiliesInvalid, read_families, write_families

seeds = st.integers(0, 2**32 - 1)
AXES = 3
HEADS = ("everybody", *(f"axis{index}+" for index in range(AXES)), *(f"axis{index}-" for index in range(AXES)))
FAMILY = Additive("additive", HEADS, 1.25, 16.0)


def row(common: float, axes: np.ndarray, family: Additive = FAMILY) -> Row:
    """Returns the row of a text of which everybody thinks `common`, at `axes`, both in logits."""
    ends = family.reach * np.asarray(axes)
    return {"additive_rewards": np.concatenate([[common], common + ends, common - ends]) / family.logit_scale}


def rows(rng: np.random.Generator) -> tuple[Row, Row]:
    return row(rng.normal(), rng.normal(size=AXES)), row(rng.normal(), rng.normal(size=AXES))


def evidence_of(rng: np.random.Generator, comparisons: int = 6) -> np.ndarray:
    families = Families([FAMILY])
    total = sum((families.learn(*rows(rng), {}, tie=index % 4 == 3) for index in range(comparisons)), families.prior())
    return families.part("additive", total)


# --- the bound


@given(st.floats(0, 30), st.floats(-30, 30))
def test_the_quadratic_is_below_the_logistic_and_touches_it_at_xi(xi, logit):
    def bound(at):
        return -math.log1p(math.exp(-xi)) + 0.5 * (at - xi) - 0.5 * float(additive.curvature(np.array(xi))) * (at * at - xi * xi)

    assert bound(logit) <= -np.logaddexp(0.0, -logit) + 1e-9
    assert bound(xi) == pytest.approx(-np.logaddexp(0.0, -xi), abs=1e-9)


def test_the_curvature_at_no_distance_is_a_quarter_and_falls():
    assert additive.curvature(np.array([0.0, 2.0, 200.0])).tolist() == pytest.approx([0.25, math.tanh(1.0) / 4.0, 1 / 400], rel=1e-9)


def test_the_evidence_of_one_comparison_worked_out_by_hand():
    # b = 3, z = (4, 0): xi = 5, c = tanh(2.5) / 10.
    slope = math.tanh(2.5) / 10
    found = additive.bound_evidence(3.0, np.array([4.0, 0.0]))
    assert found.tolist() == pytest.approx([(0.5 - 3 * slope) * 4, 0.0, 16 * slope, 0.0, 0.0])
    louder = additive.bound_evidence(3.0, np.array([4.0, 0.0]), vote=1.5)
    assert louder.tolist() == pytest.approx([(0.75 - 3 * slope) * 4, 0.0, 16 * slope, 0.0, 0.0])
    tied = additive.bound_evidence(3.0, np.array([4.0, 0.0]), tie=True, vote=1.5)
    assert tied.tolist() == pytest.approx([-3 * slope * 4, 0.0, 16 * slope, 0.0, 0.0])


def test_the_posterior_is_the_product_of_the_prior_and_every_bound(rng):
    pairs = [(rng.normal(), rng.normal(size=AXES)) for _ in range(7)]
    precision, target = np.eye(AXES), np.zeros(AXES)
    for common, axes in pairs:
        xi = math.sqrt(common**2 + float(axes @ axes))
        slope = math.tanh(xi / 2) / (2 * xi)
        precision += slope * np.outer(axes, axes)
        target += (0.5 - slope * common) * axes
    mean, covariance = additive.additive_posterior(sum(additive.bound_evidence(*pair) for pair in pairs), AXES)
    np.testing.assert_allclose(covariance, np.linalg.inv(precision), rtol=1e-10)
    np.testing.assert_allclose(mean, np.linalg.solve(precision, target), rtol=1e-10)


def test_no_evidence_is_the_prior():
    mean, covariance = additive.additive_posterior(np.zeros(additive.evidence_size(AXES)), AXES)
    assert mean.tolist() == [0.0] * AXES
    assert covariance.tolist() == np.eye(AXES).tolist()
    assert FAMILY.weights(np.zeros(FAMILY.evidence_size), None).tolist() == [1.0] + [0.0] * (2 * AXES)


def test_evidence_that_is_no_gaussian_is_refused():
    taken = -10.0 * additive.bound_evidence(0.0, np.array([2.0, 0.0, 0.0]))
    with pytest.raises(ValueError, match="3 axes adds up to no Gaussian"):
        FAMILY.weights(taken, None)


# --- a user is a sum


@pytest.mark.parametrize("size", [0.5, 2.0, 20.0, 120.0])
@pytest.mark.parametrize("count", [10, 1_000, 30_000])
def test_nobody_who_says_the_same_again_and_again_is_less_known_than_a_stranger(rng, size, count):
    told = count * size**2 * float(additive.curvature(np.array(size)))
    for _ in range(20):
        axes = rng.normal(size=6)
        axes /= np.linalg.norm(axes)
        _, covariance = additive.additive_posterior(count * half(quantise(additive.bound_evidence(0.0, size * axes))), 6)
        variances = np.linalg.eigvalsh(covariance)
        assert variances.min() > 0
        assert variances.max() <= 1.0 + 1e-12
        assert float(axes @ covariance @ axes) == pytest.approx(1.0 / (1.0 + told), rel=0.02)


@pytest.mark.parametrize("size", [20.0, 130.0, 1e3, 1e8])
@pytest.mark.parametrize("common", [0.0, -5.0, 1e6])
def test_however_far_apart_two_texts_are_a_sum_stays_a_gaussian(rng, size, common):
    total = np.zeros(additive.evidence_size(12))
    for _ in range(40):
        total = total + quantise(additive.bound_evidence(common, size * rng.normal(size=12), tie=False))
        mean, covariance = additive.additive_posterior(total, 12)
        assert np.isfinite(mean).all()
        assert np.linalg.eigvalsh(covariance).min() > 0


def test_a_distance_within_reason_is_left_as_it_is():
    axes = np.array([100.0, 60.0, 50.0])
    evidence = additive.bound_evidence(0.0, axes)
    assert np.max(np.abs(evidence)) <= MAX_EVIDENCE
    slope = math.tanh(np.linalg.norm(axes) / 2) / (2 * np.linalg.norm(axes))
    assert evidence[:3] == pytest.approx(0.5 * axes)
    assert evidence[3] == pytest.approx(slope * axes[0] ** 2)


def test_a_comparison_told_twice_counts_twice(rng):
    chosen, rejected = rows(rng)
    families = Families([FAMILY])
    learned = families.learn(chosen, rejected, {})
    assert np.all(learned / GRID == np.rint(learned / GRID))
    assert families.part("additive", learned).tobytes() == half(quantise(FAMILY.learn(chosen, rejected, {}, tie=False))).tobytes()
    probabilities = [families.predict(times * learned, chosen, rejected, {})["additive"] for times in range(6)]
    assert probabilities == sorted(probabilities)
    assert probabilities[5] > probabilities[0] + 0.05
    spreads = [float(FAMILY.posterior(times * families.part("additive", learned))[1].prod()) for times in range(6)]
    assert spreads == sorted(spreads, reverse=True)


@settings(max_examples=min(25, settings.default.max_examples))
@given(seed=seeds)
def test_a_tie_is_the_same_comparison_in_either_order_and_draws_the_user_to_no_preference(seed):
    rng = np.random.default_rng(seed)
    first, second = rows(rng)
    families = Families([FAMILY])
    forward, backward = families.learn(first, second, {}, tie=True), families.learn(second, first, {}, tie=True)
    assert forward.tobytes() == backward.tobytes()
    before, after = (families.predict(evidence, first, second, {})["additive"] for evidence in (families.prior(), 50 * forward))
    assert abs(after - 0.5) <= abs(before - 0.5) + 1e-9


# --- the family


@settings(max_examples=min(25, settings.default.max_examples))
@given(seed=seeds)
def test_the_score_on_the_simplex_is_the_linear_taste(seed):
    rng = np.random.default_rng(seed)
    evidence = evidence_of(rng)
    mean, covariance = additive.additive_posterior(evidence, AXES)
    common, axes = rng.normal(size=5), rng.normal(size=(5, AXES))
    rewards = np.array([row(*one)["additive_rewards"] for one in zip(common, axes, strict=True)])
    scored = FAMILY.score(evidence, rewards, None)
    np.testing.assert_allclose(scored.scores, (common + axes @ mean) / FAMILY.logit_scale, atol=1e-10)
    np.testing.assert_allclose(scored.stds, np.sqrt(np.einsum("nd,de,ne->n", axes, covariance, axes)) / FAMILY.logit_scale, atol=1e-10)
    np.testing.assert_allclose((scored.rewards * scored.weights).sum(axis=1), scored.scores, atol=1e-12)
    for candidate in range(5):
        alone = FAMILY.score(evidence, rewards[candidate : candidate + 1], None)
        assert (scored.scores[candidate], scored.stds[candidate]) == (alone.scores[0], alone.stds[0])  # to the last bit


@settings(max_examples=min(25, settings.default.max_examples))
@given(seed=seeds, times=st.floats(0.1, 60))
def test_weights_and_their_samples_stay_on_the_simplex(seed, times):
    rng = np.random.default_rng(seed)
    evidence = times * evidence_of(rng)
    every = np.concatenate([FAMILY.weights(evidence, None)[None], FAMILY.sample_weights(evidence, None, rng, 9)])
    assert every.shape == (10, len(HEADS))
    assert np.all(every >= 0)
    np.testing.assert_allclose(every.sum(axis=1), 1.0, atol=1e-12)


def test_a_position_beyond_the_reach_is_shortened_to_it():
    near = Additive("additive", HEADS, 1.25, 0.5)
    evidence = additive.bound_evidence(0.0, np.array([4.0, -2.0, 0.0]))
    mean, _ = additive.additive_posterior(evidence, AXES)
    weights = near.weights(evidence, None)
    assert weights[0] == 0.0
    ends = weights[1 : 1 + AXES] - weights[1 + AXES :]
    np.testing.assert_allclose(ends, mean / np.abs(mean).sum(), rtol=1e-12)


def test_sampled_weights_are_draws_from_the_posterior(rng):
    evidence = evidence_of(rng, 12)
    draws = FAMILY.sample_weights(evidence, None, rng, 20_000)
    positions = FAMILY.reach * (draws[:, 1 : 1 + AXES] - draws[:, 1 + AXES :])
    mean, covariance = additive.additive_posterior(evidence, AXES)
    np.testing.assert_allclose(positions.mean(axis=0), mean, atol=0.03)
    np.testing.assert_allclose(np.cov(positions.T), covariance, atol=0.03)


def test_the_prediction_is_the_attenuated_margin_written_out(rng):
    evidence = evidence_of(rng)
    mean, covariance = additive.additive_posterior(evidence, AXES)
    axes = np.array([0.5, -1.0, 0.25])
    variance = float(axes @ covariance @ axes)
    logit = (0.7 + float(axes @ mean)) / math.sqrt(1 + math.pi * variance / 8)
    found = FAMILY.predict(evidence, row(0.7, axes), row(0.0, np.zeros(AXES)), {})
    assert found == pytest.approx(1 / (1 + math.exp(-logit)), rel=1e-10)
    assert found + FAMILY.predict(evidence, row(0.0, np.zeros(AXES)), row(0.7, axes), {}) == pytest.approx(1.0, abs=1e-12)


def test_a_round_trip_through_files_gives_equal_bytes_and_an_equal_family():
    files = write_families([FAMILY], "additive")
    families, default = read_families(files["families.json"], files["families.npz"])
    assert (families["additive"], default) == (FAMILY, "additive")
    assert write_families([families["additive"]], "additive") == files


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (("1.25", "0.0"), "'additive': logit_scale is 0.0"),
        (("16.0", "-1.0"), "'additive': reach is -1.0"),
        (('"reach"', '"span"'), "'additive' lacks 'reach'"),
        (('"axis2+",', ""), "'additive': heads must be one and two for each axis"),
        (('"evidence_size": 9', '"evidence_size": 8'), "'additive' reads 9 doubles of evidence; its entry says 8"),
    ],
)
def test_a_damaged_entry_is_refused_with_the_field(edit, message):
    files = write_families([FAMILY], "additive")
    damaged = files["families.json"].decode().replace(*edit)
    assert damaged != files["families.json"].decode()
    with pytest.raises(FamiliesInvalid, match=message.replace("+", r"\+")):
        read_families(damaged.encode(), files["families.npz"])


def test_rows_of_another_width_and_rows_that_are_not_finite_are_never_learned():
    families = Families([FAMILY])
    narrow = {"additive_rewards": np.zeros(5, dtype=np.float32)}
    with pytest.raises(ValueError, match=r"are \(5,\); \(7,\) was expected"):
        families.learn(narrow, narrow, {})
    with pytest.raises(ValueError, match="not finite"):
        families.learn({"additive_rewards": np.full(7, np.nan)}, row(0.0, np.zeros(AXES)), {})
