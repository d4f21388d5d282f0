"""What members are worth: sums that add up in any order, numbers worked out by hand, and values that are recovered."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from scipy.stats import chisquare

from attune.models.seam.member_evidence import GRID, EvidenceLayout, ObservedRewards, nothing_observed
from attune.models.seam.member_worth import LEAST_SPREAD, Known, drift_of, within_covariance, worth_of
from attune.models.seam.routing import choose, drawn_from, joint_probability, sampled_worth

LAYOUT = EvidenceLayout({"one": 1, "three": 3, "wide": 40})


def row(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {f"{name}_rewards": rng.normal(size=heads).astype(np.float32) for name, heads in LAYOUT.heads.items()}


def observed(rewards: np.ndarray) -> ObservedRewards:
    return ObservedRewards(float(len(rewards)), rewards.sum(axis=0), rewards.T @ rewards)


def known(rewards: np.ndarray, measured: tuple[np.ndarray, np.ndarray] | None = None, recent: np.ndarray | None = None) -> Known:
    nothing = nothing_observed(rewards.shape[1])
    return Known(measured, observed(rewards) if len(rewards) else nothing, nothing if recent is None else observed(recent))


# --- sums


def test_an_answers_evidence_is_its_rewards_and_their_products():
    layout = EvidenceLayout({"two": 2})
    assert layout.evidence({"two_rewards": np.array([0.5, -2.0])}).tolist() == [0.5, -2.0, 0.25, -1.0, 4.0]
    found = layout.observed("two", 2.0, np.array([1.0, 2.0, 3.0, 4.0, 5.0]))
    assert (found.mean.tolist(), found.products.tolist()) == ([0.5, 1.0], [[3.0, 4.0], [4.0, 5.0]])
    assert found.scatter().tolist() == [[2.5, 3.0], [3.0, 3.0]]  # 3 - 2 (1/4), 4 - 2 (1/2), 5 - 2


def test_a_wide_family_keeps_squares_alone():
    assert LAYOUT.size == (1 + 1) + (3 + 6) + (40 + 40)
    rewards = np.arange(40.0) / 8
    vector = EvidenceLayout({"wide": 40}).evidence({"wide_rewards": rewards})
    assert np.array_equal(np.diagonal(EvidenceLayout({"wide": 40}).observed("wide", 1.0, vector).products), rewards**2)


def test_sums_do_not_depend_on_the_order(rng):
    vectors = [LAYOUT.evidence(row(rng)) for _ in range(300)]
    forward, backward = sum(vectors, np.zeros(LAYOUT.size)), sum(reversed(vectors), np.zeros(LAYOUT.size))
    shuffled = sum((vectors[index] for index in rng.permutation(300)), np.zeros(LAYOUT.size))
    assert forward.tobytes() == backward.tobytes() == shuffled.tobytes()
    assert np.all(forward / GRID == np.rint(forward / GRID))


@pytest.mark.parametrize("rewards", [np.array([np.nan, 0.0, 0.0]), np.array([np.inf, 0.0, 0.0]), np.zeros(2)])
def test_what_is_no_reward_is_refused(rewards):
    with pytest.raises(ValueError, match="rewards of three"):
        EvidenceLayout({"three": 3}).evidence({"three_rewards": rewards})


def test_a_measurement_enters_as_the_sum_of_its_answers(rng):
    layout, rewards = EvidenceLayout({"three": 3}), rng.normal(size=(50, 3))
    added = sum((layout.evidence({"three_rewards": one}) for one in rewards), np.zeros(layout.size))
    mean, covariance = rewards.mean(axis=0), np.cov(rewards.T, ddof=0)
    assert layout.summed(50.0, {"three": mean}, {"three": covariance}) == pytest.approx(added, abs=1e-3)


# --- worth


def test_a_posterior_worked_out_by_hand():
    # Two answers, 1 and 3; with the four of unit variance the variance within is (4 + 2) / (4 + 1) = 6/5, of the mean 3/5.
    # Alone, its own mean 2 is the prior's, and precision 1 + 5/3 = 8/3.
    worth = worth_of([known(np.array([[1.0], [3.0]]))])
    assert worth.mean.item() == pytest.approx(2.0)
    assert worth.covariance.item() == pytest.approx(3 / 8)
    # A second at 0 ± 1, no answer: weights 1/(1 + 3/5) and 1/2, so the prior is (5/8 * 2) / (9/8) = 10/9 and the spread 1 (2 - 4/5 between
    # less noise is sqrt(1.2)).
    between = 2.0 - (3 / 5 + 1.0) / 2
    weights = 1 / (between + 3 / 5), 1 / (between + 1.0)
    centre = weights[0] * 2.0 / sum(weights)
    worth = worth_of([known(np.array([[1.0], [3.0]])), known(np.zeros((0, 1)), measured=(np.zeros(1), np.ones(1)))])
    precisions = 1 / between + 5 / 3, 1 / between + 1.0
    assert worth.mean[:, 0] == pytest.approx([(centre / between + 2 * 5 / 3) / precisions[0], centre / between / precisions[1]], rel=1e-6)
    assert worth.std[:, 0] ** 2 == pytest.approx([1 / precisions[0], 1 / precisions[1]], rel=1e-6)


def test_nothing_known_is_the_prior_and_a_new_member_begins_at_the_others_mean(rng):
    nobody = worth_of([known(np.zeros((0, 2))), known(np.zeros((0, 2)))])
    assert (nobody.mean.tolist(), nobody.std.tolist()) == ([[0.0, 0.0]] * 2, [[LEAST_SPREAD] * 2] * 2)
    old = [known(rng.normal([mean, 0.0], 1.0, size=(400, 2))) for mean in (-3.0, 3.0, 6.0)]
    worth = worth_of([*old, known(np.zeros((0, 2)))])
    assert worth.mean[3] == pytest.approx([2.0, 0.0], abs=0.2)
    assert worth.std[3, 0] == pytest.approx(np.std([-3.0, 3.0, 6.0], ddof=1), abs=0.2)
    assert worth.std[3, 1] == LEAST_SPREAD
    assert worth_of([]).mean.shape == (0, 0)


def test_known_values_are_recovered_as_often_as_the_intervals_say(rng):
    hits, most = 0, 0.0
    shape = np.linalg.cholesky(0.5 * np.eye(4) + 0.5)  # not `multivariate_normal`, whose numbers another processor draws differently
    for _ in range(240):
        truth = rng.normal(size=(3, 4))
        worth = worth_of([known(mean + rng.normal(size=(30, 4)) @ shape.T) for mean in truth])
        hits += int(np.sum(np.abs(worth.mean - truth) <= 1.96 * worth.std))
        most = max(most, float(np.abs(worth.mean - truth).max()))
    assert 0.92 <= hits / 2880 <= 0.97
    assert most < 1.0


def test_evidence_that_fits_a_measurement_is_pooled_and_other_evidence_takes_its_place(rng):
    measured = (np.array([1.0, 1.0]), np.array([0.05, 0.05]))
    fitting = worth_of([known(rng.normal(1.0, 1.0, size=(50, 2)), measured)])
    assert fitting.std.max() < 0.06
    another = worth_of([known(rng.normal([1.0, -2.0], 1.0, size=(200, 2)), measured)])
    assert another.mean[0] == pytest.approx([1.0, -2.0], abs=0.25)


def test_what_is_recent_takes_the_place_of_many_earlier_answers_that_it_does_not_fit(rng):
    changed = known(rng.normal(0.0, 1.0, size=(20_000, 2)), recent=rng.normal([0.0, 2.0], 1.0, size=(120, 2)))
    worth = worth_of([changed])
    assert worth.mean[0] == pytest.approx([0.0, 2.0], abs=0.3)
    drift = drift_of(changed, within_covariance([changed], 2))
    assert drift is not None
    assert drift.head == 1
    assert drift.errors > 15


def test_a_member_that_has_not_changed_does_not_drift(rng):
    greatest = []
    for _ in range(200):
        same = known(rng.normal(size=(2_000, 6)), recent=rng.normal(size=(150, 6)))
        drift = drift_of(same, within_covariance([same], 6))
        assert drift is not None
        greatest.append(drift.errors)
    assert max(greatest) < 5.0


def test_little_says_nothing_of_drift(rng):
    little = known(rng.normal(size=(2_000, 2)), recent=rng.normal(size=(29, 2)))
    assert drift_of(little, np.eye(2)) is None


# --- the law with uncertain members


def test_values_are_sampled_with_the_spread_of_weights_and_members(rng):
    weights = rng.dirichlet(np.ones(3), size=20_000)
    mean, root = rng.normal(size=(2, 3)), rng.normal(size=(2, 3, 3))
    covariance = root @ root.transpose(0, 2, 1)
    sampled = sampled_worth(weights, mean, covariance, rng)
    drawn = np.stack([rng.multivariate_normal(mean[m], covariance[m], size=20_000) for m in range(2)], axis=1)
    by_hand = np.einsum("sk,smk->sm", weights, drawn)
    assert sampled.mean(axis=0) == pytest.approx(by_hand.mean(axis=0), abs=0.06)
    assert sampled.std(axis=0) == pytest.approx(by_hand.std(axis=0), rel=0.05)


def test_a_certain_member_is_worth_its_mean(rng):
    weights = rng.dirichlet(np.ones(3), size=8)
    sampled = sampled_worth(weights, np.eye(3), np.zeros((3, 3, 3)), rng)
    assert np.array_equal(sampled, weights)


@pytest.mark.slow
def test_uncertain_members_are_explored_and_the_logged_law_is_that_of_1e5_draws(rng):
    weights = rng.dirichlet(np.ones(2), size=256)
    mean = np.array([[1.0, 0.2], [0.2, 0.8], [0.3, 0.3]])
    covariance = np.array([0.01 * np.eye(2), 0.01 * np.eye(2), np.eye(2)])
    sampled = sampled_worth(weights, mean, covariance, rng)
    logged = choose("sample", sampled, count=2, epsilon=0.05, rng=np.random.default_rng(7))
    law, mean = logged.propensities, logged.mean
    assert (logged.members, logged.joint) == drawn_from(law, mean, 2, np.random.default_rng(7))
    draws = [drawn_from(law, mean, 2, rng)[0] for _ in range(100_000)]
    assert law[2] > 0.15  # worth less on the average, and nobody knows
    singles = np.bincount([first for first, _ in draws], minlength=3)
    assert chisquare(singles, law * 1e5).pvalue > 1e-3
    pairs = [(a, b) for a in range(3) for b in range(3) if a != b]
    counts = Counter(draws)
    expected = np.array([joint_probability(law, mean, pair) for pair in pairs])
    assert chisquare([counts[pair] for pair in pairs], expected / expected.sum() * 1e5).pvalue > 1e-3


def test_best_goes_by_what_is_expected_and_not_by_the_samples():
    sampled = np.array([[0.0, 3.0], [0.0, -1.0]])
    choice = choose("best", sampled, count=1, epsilon=0.0, rng=np.random.default_rng(0), mean=np.array([0.5, 0.4]))
    assert (choice.members, choice.mean.tolist()) == ((0,), [0.5, 0.4])
