"""The certificate online: the map of weights, the two bounds, and what users are told who are outside."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import linprog

from attune.models.seam.certificate import Certificate, read_certificate

# Two policies of value (1, 0) and (0, 1), asked at both ends and in the middle where OPT is 0.6: v1 + v2 <= 1.2.
VERTICES = np.array([[1.0, 0.2], [0.2, 1.0]])


@pytest.fixture
def certificate() -> Certificate:
    return Certificate(
        family="micro",
        rewards=("short", "warm"),
        offset=np.array([-2.0, -1.0]),
        scale=np.array([4.0, 2.0]),
        weight_map=np.diag([4.0, 2.0]),
        epsilon=0.2,
        delta=0.0,
        confidence=1.0,
        worst_weights=np.array([0.5, 0.5]),
        worst_ratio=0.5 / 0.6,
        gap=0.1,
        oracle_calls=3,
        lower=np.eye(2),
        upper=np.eye(2),
        vertices=VERTICES,
    )


def test_weights_over_heads_become_weights_over_normalised_rewards(certificate):
    np.testing.assert_allclose(certificate.palm_weights(np.array([1.0, 2.0])), [0.5, 0.5])
    np.testing.assert_allclose(certificate.palm_weights(np.array([1.0, 0.0])), [1.0, 0.0])


def test_the_map_keeps_what_a_user_gains_from_one_answer_over_another(certificate):
    weights, rewards = np.array([0.3, 0.7]), np.array([[0.5, -0.5], [1.5, 0.1]])
    normalised = (rewards - certificate.offset) / certificate.scale
    gain = (rewards[0] - rewards[1]) @ weights
    mapped = certificate.palm_weights(weights)
    assert gain / ((normalised[0] - normalised[1]) @ mapped) == pytest.approx(np.sum(weights * certificate.scale))


def test_users_of_other_heads_are_spoken_of_as_far_as_the_rewards_stand_for_them(certificate):
    mapped = np.array([[4.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
    some = replace(certificate, weight_map=mapped, rest=np.array([0.0, 0.0, 3.0]))
    assert some.stands_for(np.array([1.0, 1.0, 0.0])) == 1.0
    assert some.stands_for(np.array([0.25, 0.25, 0.5])) == pytest.approx(0.5)
    np.testing.assert_allclose(some.palm_weights(np.array([0.25, 0.5, 0.5])), [0.5, 0.5])
    assert some.proved(np.array([0.25, 0.5, 0.5])).ratio == pytest.approx(0.5 / 0.6)
    assert some.palm_weights(np.array([0.2, 0.2, 0.6])) is None
    assert some.proved(np.array([0.0, 0.0, 1.0])) is None
    read = read_certificate(json.loads(json.dumps(some.document())))
    assert read.rest.tolist() == [0.0, 0.0, 3.0]
    assert "rest" not in some.summary()
    assert "rest" not in certificate.document()
    with pytest.raises(ValueError, match="rest"):
        replace(some, rest=np.zeros(2))


def test_the_bounds_worked_out_by_hand(certificate):
    assert certificate.bounds(np.array([0.5, 0.5])) == pytest.approx((0.5, 0.6))
    assert certificate.bounds(np.array([1.0, 0.0])) == pytest.approx((1.0, 1.0))
    assert certificate.proved(np.array([1.0, 2.0])).ratio == pytest.approx(0.5 / 0.6)
    assert certificate.proved(np.array([1.0, 0.0])).ratio == 1.0


def test_the_greatest_over_the_vertices_is_the_linear_programme(certificate):
    for share in np.linspace(0.0, 1.0, 11):
        weights = np.array([share, 1.0 - share])
        found = linprog(-weights, A_ub=[[0.5, 0.5]], b_ub=[0.6], bounds=[(0.0, 1.0)] * 2)
        assert certificate.bounds(weights)[1] == pytest.approx(-found.fun)


def test_nobody_is_promised_less_than_the_worst_ratio(certificate):
    tight = replace(certificate, worst_ratio=0.95)
    assert tight.proved(np.array([1.0, 2.0])).ratio == 0.95


@pytest.mark.parametrize("weights", [[1.0, -0.3], [0.0, 0.0], [np.nan, 1.0]])
def test_users_of_whom_the_certificate_does_not_speak_have_no_ratio(certificate, weights):
    assert certificate.proved(np.array(weights)) is None


def test_negative_weight_that_is_rounding_counts_as_none(certificate):
    assert certificate.proved(np.array([1.0, -0.02])).ratio == pytest.approx(1.0)


def test_weights_over_another_number_of_heads_are_refused(certificate):
    with pytest.raises(ValueError, match=r"weights is \(3,\); \(2,\)"):
        certificate.proved(np.ones(3))


def test_a_round_trip_keeps_everything_and_people_are_spared_the_vertices(certificate):
    assert read_certificate(certificate.document()).document() == certificate.document()
    assert (certificate.summary()["vertices"], "weight_map" in certificate.summary()) == (2, False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lower": np.ones((3, 2))}, r"upper is \(2, 2\); \(3, 2\)"),
        ({"lower": np.eye(2) + 0.1}, "lower <= upper"),
        ({"vertices": np.zeros((0, 2))}, "0 vertices"),
        ({"worst_weights": np.ones(3)}, "worst_weights is"),
        ({"vertices": np.full((1, 2), np.inf)}, "vertices has 2 of 2"),
    ],
)
def test_a_certificate_that_does_not_fit_itself_is_refused(certificate, change, message):
    with pytest.raises(ValueError, match=message):
        replace(certificate, **change)
