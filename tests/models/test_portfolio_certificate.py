"""The finite-sample certificate: coverage over many samples, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from attune.models.portfolio.certify import Evidence, certify
from attune.models.portfolio.mean_bounds import mean_bounds
from attune.models.portfolio.oracles import BestOfN, EvidenceInvalid
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


@pytest.mark.parametrize(
    ("method", "prompts", "trials"), [("student", 100, 60), ("student", 400, 60), ("bernstein", 100, 60), ("betting", 100, 20)]
)
def test_everything_that_is_promised_holds_in_more_samples_than_the_confidence_says(planned, method, prompts, trials):
    truth, tested = BestOfN(POPULATION), users(2, 40)
    members = [truth.per_prompt(planned.solutions[index].weights).mean(axis=0) for index in planned.chosen]
    reached = np.max(tested @ np.array(members).T, axis=1)
    optima = np.array([truth.optimum(weights) for weights in tested])
    rng, held = np.random.default_rng(3), 0
    for _ in range(trials):
        sample = POPULATION[rng.choice(3000, size=prompts)]
        certificate = certify(evidence_from(sample, planned), FROZEN, family="micro", rewards=NAMES, epsilon=0.04, method=method)
        bounds = np.array([certificate.bounds(weights) for weights in tested])
        ratios = np.maximum(bounds[:, 0] / bounds[:, 1], certificate.worst_ratio)
        held += bool(np.all(ratios <= reached / optima + 1e-9) and np.all(bounds[:, 1] >= optima - 1e-9))
    assert held >= 0.95 * trials


def test_more_prompts_promise_more_and_pairing_promises_most(planned):
    few, many = (
        certify(evidence_from(POPULATION[60 : 60 + n], planned), FROZEN, family="micro", rewards=NAMES, epsilon=0.04) for n in (80, 2400)
    )
    assert few.worst_ratio < many.worst_ratio < 1.0
    low, high = many.bounds(many.worst_weights)
    assert many.worst_ratio > low / high
    assert many.gap < high - low
    assert many.worst_ratio > 0.9


@pytest.mark.parametrize("share", [0.003, 0.01, 0.02])
def test_bounds_for_every_size_hold_where_failures_are_rare_and_students_do_not(share):
    rng, error = np.random.default_rng(0), 0.025
    rewards = np.where(rng.uniform(size=(280, 1000)) < share, 0.0, rng.uniform(0.59, 0.61, size=(280, 1000)))
    truth = 0.6 * (1 - share)
    wrong = {method: np.mean(mean_bounds(rewards, 0.0, 1.0, error, method)[0] > truth) for method in ("betting", "bernstein", "student")}
    assert wrong["betting"] <= error
    assert wrong["bernstein"] <= error
    assert wrong["student"] > 2 * error


@pytest.mark.parametrize("prompts", [30, 280, 2000])
def test_betting_is_nearly_as_narrow_as_students_where_nothing_is_rare(prompts):
    rewards = np.random.default_rng(1).beta(1.0, 2.0, size=(prompts, 100))
    widths = {}
    for method in ("betting", "bernstein", "student"):
        low, high = mean_bounds(rewards, 0.0, 1.0, 0.0005, method)
        widths[method] = float(np.mean(high - low))
    assert widths["betting"] < 1.4 * widths["student"]
    assert widths["betting"] < 0.8 * widths["bernstein"] or prompts > 1000


def test_a_bound_is_never_without_width_and_does_not_depend_on_the_order():
    low, high = mean_bounds(np.full((12, 1), 0.4), 0.0, 1.0, 0.025, "betting")
    assert low[0] < 0.38
    assert high[0] > 0.42
    rewards = np.random.default_rng(2).uniform(size=(60, 3))
    one, other = (mean_bounds(rows, 0.0, 1.0, 0.01, "betting") for rows in (rewards, rewards[::-1]))
    assert np.allclose(one, other, atol=1e-7)
    scaled = mean_bounds(4.0 * rewards - 1.0, -1.0, 3.0, 0.01, "betting")
    assert np.allclose(scaled, 4.0 * np.array(one) - 1.0, atol=1e-6)


def test_bounds_worked_out_by_hand():
    samples = np.array([0.0, 1.0, 0.0, 1.0, 0.5])  # mean 0.5, variance 0.25
    log = np.log(2 / 0.05)
    low, high = mean_bounds(samples, -10.0, 10.0, 0.05, "bernstein")
    width = np.sqrt(2 * 0.25 * log / 5) + 7 * 20 * log / 12
    assert (float(low), float(high)) == (max(-10.0, 0.5 - width), min(10.0, 0.5 + width))
    low, high = mean_bounds(samples, 0.0, 1.0, 0.05, "student")
    assert float(high - low) == pytest.approx(2 * 2.1318468 * np.sqrt(0.05))
    # One draw of 1 twice: the claim m is refuted where the mean over bets of (1 + b (1/m - 1))^2 reaches 1/e.
    low, _ = mean_bounds(np.ones(2), 0.0, 1.0, 0.05, "betting")
    bets = np.geomspace(0.01, 0.98, 20)
    assert np.mean((1 + bets * (1 / float(low) - 1)) ** 2) == pytest.approx(20.0, rel=1e-4)


def test_the_certificate_carries_the_map_and_the_number_of_calls(planned):
    certificate = certify(evidence_from(POPULATION[:200], planned), FROZEN, family="micro", rewards=NAMES, epsilon=0.04, oracle_calls=17)
    assert (certificate.oracle_calls, certificate.method, certificate.confidence) == (17, "betting", 0.95)
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
    with pytest.raises(EvidenceInvalid, match=message):
        certify(change(evidence_from(POPULATION[:50], planned)), FROZEN, family="micro", rewards=NAMES, epsilon=0.04)


def test_certainty_cannot_be_had_from_a_sample(planned):
    with pytest.raises(ValueError, match="confidence is 1"):
        certify(evidence_from(POPULATION[:50], planned), FROZEN, family="micro", rewards=NAMES, epsilon=0.04, confidence=1.0)
