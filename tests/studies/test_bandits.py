"""The bandits that Attune is compared with are not straw men: each finds the best member, explores, and keeps its own law."""

from __future__ import annotations

import numpy as np
import pytest

from studies.bandits.bandits import FeelGoodDueling, RelativeUcb, Single, Uniform

WORTH = np.array([0.2, 0.5, 0.9, 0.4])
SHARPNESS = 8.0


def play(strategy, rounds, seed):
    rng = np.random.default_rng(seed)
    regret = []
    for _ in range(rounds):
        a, b = strategy.pair({})
        regret.append(WORTH.max() - WORTH[[a, b]].mean())
        if a != b:
            first = rng.random() < 1 / (1 + np.exp(-SHARPNESS * (WORTH[a] - WORTH[b])))
            strategy.learn(*((a, b) if first else (b, a)), {}, {}, {})
    return np.array(regret)


BANDITS = {
    "relative UCB": lambda rng: RelativeUcb(4, rng),
    "feel-good": lambda rng: FeelGoodDueling(4, rng, SHARPNESS),
}


@pytest.mark.parametrize("name", BANDITS)
def test_a_bandit_finds_the_best_member_and_loses_less_and_less(name):
    strategies = [BANDITS[name](np.random.default_rng(seed)) for seed in range(20)]
    regret = np.array([play(strategy, 150, seed) for seed, strategy in enumerate(strategies)])
    assert np.mean([strategy.best({}) == 2 for strategy in strategies]) >= 0.9
    # A pair holds two members, so the least regret of a round is that of the best with the second best: 0.2.
    assert regret[:, -40:].mean() < 0.85 * regret[:, :10].mean()
    uniform = np.array([play(Uniform(4, np.random.default_rng(seed)), 150, seed) for seed in range(20)])
    assert regret.sum(axis=1).mean() < 0.8 * uniform.sum(axis=1).mean()


def test_relative_ucb_shows_its_champion_with_the_rival_that_may_yet_beat_it():
    strategy = RelativeUcb(3, np.random.default_rng(0))
    strategy.wins = np.array([[0.0, 40.0, 3.0], [2.0, 0.0, 0.0], [1.0, 2.0, 0.0]])
    assert strategy.best({}) == 0
    shown = {strategy.pair({}) for _ in range(50)}
    assert (0, 2) in shown  # member 1 has lost to 0 for sure; 2 met it four times only
    assert (0, 1) not in shown


def test_the_posterior_of_feel_good_sampling_is_the_mode_of_its_model():
    strategy = FeelGoodDueling(3, np.random.default_rng(0), sharpness=2.0, spread=0.5)
    for duel in [(0, 1), (0, 1), (1, 0), (2, 1)]:
        strategy.learn(*duel, {}, {}, {})
    mean, root = strategy._posterior()

    def log_density(theta):
        gaps = np.array([theta[winner] - theta[loser] for winner, loser in strategy.duels])
        return -np.sum(np.logaddexp(0, -2.0 * gaps)) - np.sum(theta**2) / (2 * 0.5**2)

    for direction in np.vstack([np.eye(3), -np.eye(3)]):
        assert log_density(mean + 1e-3 * direction) < log_density(mean)
    # Laplace: the inverse covariance is the curvature at the mode, here along the first axis by differences.
    step = 1e-4 * np.eye(3)[0]
    curvature = -(log_density(mean + step) - 2 * log_density(mean) + log_density(mean - step)) / 1e-8
    assert np.linalg.inv(root.T @ root)[0, 0] == pytest.approx(curvature, rel=1e-3)


def test_a_single_member_is_shown_alone_and_served_for_ever():
    strategy = Single(3)
    assert strategy.pair({}) == (3, 3)
    strategy.learn(0, 3, {}, {}, {})
    assert strategy.best({}) == 3


def test_uniform_shows_two_different_members_equally_often():
    strategy = Uniform(4, np.random.default_rng(0))
    shown = np.bincount(np.array([strategy.pair({}) for _ in range(3000)]).ravel(), minlength=4)
    assert np.abs(shown / shown.sum() - 0.25).max() < 0.02
    assert all(a != b for a, b in (strategy.pair({}) for _ in range(100)))
