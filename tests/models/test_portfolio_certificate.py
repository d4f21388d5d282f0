"""The finite-sample certificate: coverage over many samples, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from attune.models.portfolio.certificate import Evidence, certify, mean_bound
from attune.models.portfolio.oracles import BestOfN, RewardsInvalid
from attune.models.portfolio.prune import prune
from attune.models.portfolio.rewards import Normalisation
from attune.models.portfolio.search import SearchSettings, lazy_search
from tests.models.portfolio_worlds import users

NAMES = ("short", "warm")
FROZEN = Normalisation(np.array([-1.0, 0.0]), np.array([2.0, 0.5]))
POPULATION = np.random.default_rng(0).beta(1.0, 2.0, size=(3000, 6, 2))


def evidence_from(prompts, planned) -> Evidence:
    """Returns what a sample of prompts says about members and bounds that were planned on others."""
    oracle = BestOfN(prompts)
    asked = np.array([solution.weights for solution in planned.solutions])
    members = np.stack([oracle.per_prompt(planned.solutions[index].weights) for index in planned.chosen], axis=1)
    optima = np.stack([(prompts @ weights).max(axis=1) for weights in asked], axis=1)
    values = np.array([planned.solutions[index].value for index in planned.chosen])
    return Evidence(members, asked, optima, values, np.array([solution.optimum for solution in planned.solutions]))


class Planned:
    def __init__(self) -> None:
        found = lazy_search(BestOfN(POPULATION[:60]), SearchSettings(0.02))
        self.solutions = found.solutions
        self.chosen = prune(found.solutions, 0.04).chosen


@pytest.fixture(scope="module")
def planned() -> Planned:
    return Planned()


@pytest.mark.parametrize(("method", "prompts"), [("student", 100), ("student", 400), ("bernstein", 100)])
def test_everything_that_is_promised_holds_in_more_samples_than_the_confidence_says(planned, method, prompts):
    truth, tested = BestOfN(POPULATION), users(2, 40)
    members = [truth.per_prompt(planned.solutions[index].weights).mean(axis=0) for index in planned.chosen]
    reached = np.max(tested @ np.array(members).T, axis=1)
    optima = np.array([truth.optimum(weights) for weights in tested])
    rng, held = np.random.default_rng(3), 0
    for _ in range(60):
        sample = POPULATION[rng.choice(3000, size=prompts)]
        certificate = certify(evidence_from(sample, planned), FROZEN, family="micro", rewards=NAMES, epsilon=0.04, method=method)
        bounds = np.array([certificate.bounds(weights) for weights in tested])
        ratios = np.maximum(bounds[:, 0] / bounds[:, 1], certificate.worst_ratio)
        held += bool(np.all(ratios <= reached / optima + 1e-9) and np.all(bounds[:, 1] >= optima - 1e-9))
    assert held >= 57


def test_more_prompts_promise_more_and_pairing_promises_most(planned):
    few, many = (
        certify(evidence_from(POPULATION[60 : 60 + n], planned), FROZEN, family="micro", rewards=NAMES, epsilon=0.04) for n in (80, 2400)
    )
    assert few.worst_ratio < many.worst_ratio < 1.0
    low, high = many.bounds(many.worst_weights)
    assert many.worst_ratio > low / high
    assert many.gap < high - low
    assert many.worst_ratio > 0.92


def test_bernstein_holds_where_a_normal_law_does_not_and_is_wider():
    rare = (np.random.default_rng(0).uniform(size=(50, 4000)) < 0.01).astype(float)
    error = 0.025
    missed = {method: np.mean(rare.mean(axis=0) + mean_bound(rare, 1.0, error, method) < 0.01) for method in ("bernstein", "student")}
    assert missed["bernstein"] == 0.0
    assert missed["student"] > 0.5


def test_a_bound_worked_out_by_hand():
    samples = np.array([0.0, 1.0, 0.0, 1.0, 0.5])  # variance 0.25
    log = np.log(2 / 0.05)
    assert mean_bound(samples, 2.0, 0.05, "bernstein") == pytest.approx(np.sqrt(2 * 0.25 * log / 5) + 14 * log / 12)
    assert mean_bound(samples, 2.0, 0.05, "student") == pytest.approx(2.1318468 * np.sqrt(0.05))


def test_the_certificate_carries_the_map_and_the_number_of_calls(planned):
    certificate = certify(evidence_from(POPULATION[:200], planned), FROZEN, family="micro", rewards=NAMES, epsilon=0.04, oracle_calls=17)
    assert (certificate.oracle_calls, certificate.method, certificate.confidence) == (17, "student", 0.95)
    assert certificate.palm_weights(np.array([0.2, 0.8])).tolist() == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: replace(e, members=e.members + 1.0), "outside"),
        (lambda e: replace(e, optima=e.optima[:, :1]), "do not agree"),
        (lambda e: replace(e, planned=e.planned[:1]), "planned values"),
        (lambda e: replace(e, members=e.members[:, [0, 1, 0]][:, : e.members.shape[1]]), "members 0 and 2 are duplicates"),
        (lambda e: replace(e, members=e.members[:1], optima=e.optima[:1]), "too few prompts"),
    ],
)
def test_evidence_that_does_not_fit_itself_is_refused(planned, change, message):
    with pytest.raises(RewardsInvalid, match=message):
        certify(change(evidence_from(POPULATION[:50], planned)), FROZEN, family="micro", rewards=NAMES, epsilon=0.04)


def test_certainty_cannot_be_had_from_a_sample(planned):
    with pytest.raises(ValueError, match="confidence is 1"):
        certify(evidence_from(POPULATION[:50], planned), FROZEN, family="micro", rewards=NAMES, epsilon=0.04, confidence=1.0)
