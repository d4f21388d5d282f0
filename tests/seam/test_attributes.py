"""`attributes`: a Gaussian over what each named reward counts for a user, worked out beside the seam."""

from __future__ import annotations

import math

import numpy as np
import pytest

from attune.models.seam.additive import additive_posterior, bound_evidence
from attune.models.seam.attributes import Attributes
from attune.models.seam.families_file import read_families, write_families
from tests.seam import examples

NAMES = ("brief", "warm")
MEAN, ROOT = np.array([3.0, 1.0]), np.array([[2.0, 0.0], [0.5, 1.0]])


def family() -> Attributes:
    return Attributes("attributes", NAMES, 4.0, MEAN, ROOT)


def rows(*differences: float) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    return {"attributes_rewards": np.array(differences)}, {"attributes_rewards": np.zeros(len(differences))}


def test_somebody_unknown_weighs_rewards_as_the_average_user_does():
    assert family().weights(np.zeros(5), None).tolist() == [0.75, 0.25]
    scored = family().score(np.zeros(5), np.array([[1.0, 0.0], [0.0, 2.0]]), None)
    assert scored.scores.tolist() == [0.75, 0.5]
    np.testing.assert_allclose(scored.stds, [2.0 / 4, 2 * math.hypot(0.5, 1.0) / 4])


def test_a_comparison_says_something_where_its_texts_differ_and_nothing_elsewhere():
    found = family().learn(*rows(0.5, 0.0), {}, tie=False)
    np.testing.assert_allclose(found, bound_evidence(1.5, np.array([1.0, 0.0])))
    assert found[1] == 0.0
    assert found[3:].tolist() == [0.0, 0.0]


def test_who_keeps_choosing_against_a_reward_comes_to_weigh_it_below_nothing():
    one = family().learn(*rows(-0.4, 0.0), {}, tie=False)
    weights = family().weights(200 * one, None)
    assert weights[0] < 0
    assert family().predict(200 * one, *rows(0.4, 0.0), {}) < 0.2
    assert abs(weights[1] - 0.25) < abs(weights[0] - 0.75)  # warmth goes along only as far as people's tastes go together


def test_the_prediction_is_the_attenuated_margin_written_out(rng):
    evidence = sum(family().learn(*rows(*rng.normal(size=2)), {}, tie=False) for _ in range(5))
    mean, covariance = additive_posterior(evidence, 2)
    difference = np.array([0.3, -0.2])
    axes = ROOT.T @ difference
    logit = (difference @ (MEAN + ROOT @ mean)) / math.sqrt(1 + math.pi * (axes @ covariance @ axes) / 8)
    assert family().predict(evidence, *rows(*difference), {}) == pytest.approx(1 / (1 + math.exp(-logit)))


def test_samples_are_draws_from_the_posterior(rng):
    evidence = sum(family().learn(*rows(*rng.normal(size=2)), {}, tie=False) for _ in range(8))
    mean, covariance = additive_posterior(evidence, 2)
    draws = 4.0 * family().sample_weights(evidence, None, rng, 20_000)
    np.testing.assert_allclose(draws.mean(axis=0), MEAN + ROOT @ mean, atol=0.05)
    np.testing.assert_allclose(np.cov(draws.T), ROOT @ covariance @ ROOT.T, atol=0.06)


def test_a_round_trip_through_files_gives_an_equal_family(rng):
    files = write_families([examples.attributes(rng)], "attributes", {"attributes": 1.5})
    families, _ = read_families(files["families.json"], files["families.npz"])
    again = write_families([families["attributes"]], "attributes", families.trust)
    assert again == files


def test_a_population_of_another_size_is_refused_by_name():
    with pytest.raises(ValueError, match="mean"):
        Attributes("attributes", NAMES, 4.0, np.ones(3), ROOT)
    with pytest.raises(ValueError, match="root"):
        Attributes("attributes", NAMES, 4.0, MEAN, np.eye(3))
