from __future__ import annotations

import numpy as np
import pytest

from attune.models.seam.bradley_terry import BradleyTerry
from attune.models.seam.families import Families
from attune.models.seam.hedge import HedgeSettings
from attune.models.seam.micro import Micro
from attune.models.seam.portfolio import Portfolio, PortfolioMember
from demo.corpus.tastes import draw_users
from demo.simulate import COUNTS, Arena, ideal_observer, simulate

MEMBERS = 6
FAMILIES = Families(
    [
        BradleyTerry("bradley_terry", ("quality",), 1.0),
        Micro("micro", tuple(map(str, range(6))), 6.0, HedgeSettings(), np.full(6, -np.log(6)), np.ones(6, dtype=bool)),
    ]
)
VALUES = {"bradley_terry": np.zeros((6, 1)), "micro": np.eye(6)}
PORTFOLIO = Portfolio(tuple(PortfolioMember(f"m{n}", "", {}) for n in range(6)), VALUES, VALUES, None)


def arena(prompts, seed):
    """Returns members who each show one manner, with rows that know it."""
    scores = np.clip(np.eye(6)[None, :, None, :] + np.random.default_rng(seed).normal(0, 0.05, (prompts, 6, 2, 6)), 0, 1)
    rows = [{"micro_gate": np.full(6, -np.log(6), dtype=np.float32)} for _ in range(prompts)]
    answers = [
        [
            [{"micro_rewards": answer.astype(np.float32), "bradley_terry_rewards": answer[:1].astype(np.float32)} for answer in member]
            for member in prompt
        ]
        for prompt in scores
    ]
    return Arena(rows, answers, scores)


@pytest.fixture(scope="module")
def found():
    return simulate(FAMILIES, PORTFOLIO, arena(12, 0), arena(6, 1), draw_users(60, 3), router="micro", seed=4)


def test_users_are_routed_to_their_best_member_more_often_the_more_they_compare(found):
    share = found.correct.mean(axis=0)
    assert share[0] < 0.4
    assert share[COUNTS.index(20)] > 0.75
    assert found.regret[:, -1].mean() < 0.3 * found.regret[:, 0].mean()
    assert np.all(found.regret >= -1e-12)


def test_pairs_of_unseen_prompts_are_predicted_better_with_comparisons_and_never_beyond_the_truth(found):
    assert found.pair_accuracy["micro"][:, -1].mean() > found.pair_accuracy["micro"][:, 0].mean() + 0.1
    assert np.all(found.pair_accuracy["bradley_terry"] == found.pair_accuracy["bradley_terry"][:, :1])
    assert found.pair_accuracy["micro"][:, -1].mean() <= found.ideal_accuracy.mean() + 0.03


def test_exploring_costs_utility_and_every_round_is_predicted_before_it_is_learned(found):
    assert found.served.shape == (60, 20)
    assert np.all(found.served <= 1e-12)
    assert found.agreement["micro"].mean() > 0.6


def test_equal_seeds_are_equal_users_and_another_seed_is_not():
    def run(seed):
        return simulate(FAMILIES, PORTFOLIO, arena(6, 0), arena(4, 1), draw_users(5, 3), router="micro", seed=seed, counts=(0, 3), pairs=5)

    assert np.array_equal(run(1).pair_accuracy["micro"], run(1).pair_accuracy["micro"])
    assert not np.array_equal(run(1).pair_accuracy["micro"], run(2).pair_accuracy["micro"])


def test_a_users_results_do_not_depend_on_who_else_is_simulated():
    tastes = draw_users(4, 3)
    together, alone = (
        simulate(FAMILIES, PORTFOLIO, arena(6, 0), arena(4, 1), part, router="micro", seed=1, counts=(0, 3), pairs=5)
        for part in (tastes, tastes[:1])
    )
    assert np.array_equal(together.regret[:1], alone.regret)


def test_the_ideal_observer_is_no_worse_than_a_family_that_has_to_learn(found):
    ideal = ideal_observer(arena(12, 0), arena(6, 1), draw_users(60, 3), seed=4, particles=1000)
    assert ideal.shape == (60, len(COUNTS))
    assert ideal[:, -1].mean() >= found.correct[:, -1].mean() - 0.08
    assert ideal[:, 0].mean() < 0.4


@pytest.mark.parametrize("offered", [1, 6])
def test_policy_learn_finds_the_best_member_sooner(found, offered):
    learning = simulate(
        FAMILIES, PORTFOLIO, arena(12, 0), arena(6, 1), draw_users(60, 3), router="micro", seed=4, counts=(0, 3), learn_from=offered
    )
    assert learning.correct[:, 1].mean() > found.correct[:, COUNTS.index(3)].mean() + 0.05
