"""What a router is compared with: strategies that choose two members a round and see which answer the user prefers.

    strategy.pair(prompt) ─> two members ─> the user picks an answer ─> strategy.learn ─> ... ; strategy.best(prompt) ─> one member

The baselines know the members as numbers and start anew with each user, as per-user bandits do; `Personal` is Attune: what
the population taught, one user's sum of evidence, and the answers themselves. `M` members, `S` samples.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from attune.models.seam import routing
from attune.models.seam.families import Families, Row
from attune.models.seam.portfolio import Portfolio

Array = NDArray[np.float64]


class Strategy(Protocol):
    """Chooses members for one user and learns from that user's choices."""

    def pair(self, prompt: Row) -> tuple[int, int]:
        """Returns the two members to show; equal where one member alone is shown."""
        ...

    def learn(self, winner: int, loser: int, chosen: Row, rejected: Row, prompt: Row) -> None:
        """Takes in that the answer `chosen` of member `winner` was preferred to `rejected` of `loser`."""
        ...

    def best(self, prompt: Row) -> int:
        """Returns the member that is served if nothing more is to be learned."""
        ...


@dataclass(slots=True)
class Personal:
    """Attune as it serves: a family's posterior, values of the members for the prompt, propensities as logged.

    Attributes:
        families, portfolio: of the bundle.
        family: whose posterior routes.
        policy: `sample` explores by posterior samples, `best` shows the two members of greatest expected value.
        rng: of the sampling.
        epsilon, samples: of the policy.
        evidence: the user's sum so far.
    """

    families: Families
    portfolio: Portfolio
    family: str
    policy: routing.Policy
    rng: np.random.Generator
    epsilon: float
    samples: int
    evidence: Array = field(init=False)

    def __post_init__(self) -> None:
        self.evidence = self.families.prior()

    def pair(self, prompt: Row) -> tuple[int, int]:
        first, second = self._choose(prompt, self.policy, 2)
        return first, second

    def learn(self, winner: int, loser: int, chosen: Row, rejected: Row, prompt: Row) -> None:  # noqa: ARG002 - answers say more than who wrote them
        self.evidence = self.evidence + self.families.learn(chosen, rejected, prompt, known=self.evidence)

    def best(self, prompt: Row) -> int:
        return self._choose(prompt, "best", 1)[0]

    def _choose(self, prompt: Row, policy: routing.Policy, count: int) -> tuple[int, ...]:
        weights = self.families.sample_weights(self.family, self.evidence, prompt, self.rng, self.samples)
        sampled = routing.sampled_values(weights, self.portfolio.values_for(self.family, prompt))
        return tuple(routing.choose(policy, sampled, count=count, epsilon=self.epsilon, rng=self.rng).members)


@dataclass(slots=True)
class Uniform:
    """Two members at random, for ever."""

    members: int
    rng: np.random.Generator

    def pair(self, prompt: Row) -> tuple[int, int]:  # noqa: ARG002 - the same for every prompt
        first, second = self.rng.choice(self.members, size=2, replace=False)
        return int(first), int(second)

    def learn(self, winner: int, loser: int, chosen: Row, rejected: Row, prompt: Row) -> None:
        pass

    def best(self, prompt: Row) -> int:  # noqa: ARG002
        return int(self.rng.integers(self.members))


@dataclass(slots=True)
class Single:
    """One member for everybody: the one that is best on average over users."""

    member: int

    def pair(self, prompt: Row) -> tuple[int, int]:  # noqa: ARG002
        return self.member, self.member

    def learn(self, winner: int, loser: int, chosen: Row, rejected: Row, prompt: Row) -> None:
        pass

    def best(self, prompt: Row) -> int:  # noqa: ARG002
        return self.member


@dataclass(slots=True)
class RelativeUcb:
    """Relative upper confidence bounds on the chance that one member beats another (Zoghi et al. 2014, arXiv 1312.3393).

    Attributes:
        members: `M`.
        rng: breaks ties.
        alpha: width of the bounds; above 1/2, as the paper asks.
        wins: `[M, M]` how often the row's member beat the column's.
    """

    members: int
    rng: np.random.Generator
    alpha: float = 0.51
    wins: Array = field(init=False)

    def __post_init__(self) -> None:
        self.wins = np.zeros((self.members, self.members))

    def pair(self, prompt: Row) -> tuple[int, int]:  # noqa: ARG002
        upper = self._upper()
        champions = np.flatnonzero(np.all(upper >= 0.5, axis=1))
        first = int(self.rng.choice(champions)) if len(champions) else int(self.rng.integers(self.members))
        rivals = upper[:, first].copy()
        rivals[first] = -np.inf  # a round in which nothing can be learned is of no use to a user either
        return first, _greatest(rivals, self.rng)

    def learn(self, winner: int, loser: int, chosen: Row, rejected: Row, prompt: Row) -> None:  # noqa: ARG002
        self.wins[winner, loser] += 1.0

    def best(self, prompt: Row) -> int:  # noqa: ARG002
        # Copeland's winner of the means; a pair that never met counts a half.
        met = self.wins + self.wins.T
        means = np.where(met > 0, self.wins / np.maximum(met, 1.0), 0.5)
        return _greatest(np.sum(means > 0.5, axis=1) + means.mean(axis=1) / self.members, self.rng)

    def _upper(self) -> Array:
        met = self.wins + self.wins.T
        rounds = max(2.0, float(np.sum(self.wins)) + 1.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            upper = np.where(met > 0, self.wins / met + np.sqrt(self.alpha * np.log(rounds) / met), 1.0)
        np.fill_diagonal(upper, 0.5)
        return np.asarray(upper)


@dataclass(slots=True)
class FeelGoodDueling:
    """Feel-good Thompson sampling for dueling bandits (Li et al. 2024, arXiv 2404.06013), one user at a time.

    Utilities `theta` `[M]` of the members with a Gaussian prior; choices are Bradley-Terry. Each of the two members is the best
    under a sample of its own from the posterior times `exp(feel_good * sum over rounds of max_a (theta_a - theta_rival))`.
    Reconstruction: the posterior is Laplace's, and the feel-good factor resamples its draws by importance.

    Attributes:
        members: `M`.
        rng: of the samples.
        sharpness: how steeply choices follow utilities, known to it.
        spread: prior standard deviation of a utility.
        feel_good: weight of optimism.
        draws: of the Laplace posterior that are resampled.
    """

    members: int
    rng: np.random.Generator
    sharpness: float
    spread: float = 0.3
    feel_good: float = 0.1
    draws: int = 64
    duels: list[tuple[int, int]] = field(default_factory=list)

    def pair(self, prompt: Row) -> tuple[int, int]:  # noqa: ARG002
        mean, root = self._posterior()
        first = int(np.argmax(self._sample(mean, root, side=1)))
        rivals = self._sample(mean, root, side=0)
        rivals[first] = -np.inf
        return first, int(np.argmax(rivals))

    def learn(self, winner: int, loser: int, chosen: Row, rejected: Row, prompt: Row) -> None:  # noqa: ARG002
        self.duels.append((winner, loser))

    def best(self, prompt: Row) -> int:  # noqa: ARG002
        return _greatest(self._posterior()[0], self.rng)

    def _posterior(self) -> tuple[Array, Array]:
        """Returns mean `[M]` and `root` `[M, M]` of Laplace's approximation, whose covariance is `root^T root`."""
        theta = np.zeros(self.members)
        design = np.zeros((len(self.duels), self.members))
        for row, (winner, loser) in enumerate(self.duels):
            design[row, winner], design[row, loser] = self.sharpness, -self.sharpness
        precision = np.eye(self.members) / self.spread**2
        hessian = precision
        for _ in range(25):
            chance = 1.0 / (1.0 + np.exp(-np.clip(design @ theta, -30.0, 30.0)))
            hessian = precision + (design * (chance * (1.0 - chance))[:, None]).T @ design
            step = np.linalg.solve(hessian, design.T @ (1.0 - chance) - precision @ theta)
            # Newton's full step can overshoot where choices are sharp; a trust region of a prior deviation keeps it in place.
            theta = theta + step * min(1.0, self.spread / max(float(np.max(np.abs(step))), 1e-12))
            if np.max(np.abs(step)) < 1e-8:
                break
        return theta, np.linalg.inv(np.linalg.cholesky(hessian))

    def _sample(self, mean: Array, root: Array, *, side: int) -> Array:
        drawn = mean + self.rng.normal(size=(self.draws, self.members)) @ root.T
        rivals = [duel[side] for duel in self.duels]
        optimism = self.feel_good * np.sum(drawn.max(axis=1)[:, None] - drawn[:, rivals], axis=1)
        weights = np.exp(optimism - optimism.max())
        return np.asarray(drawn[self.rng.choice(self.draws, p=weights / weights.sum())])


def _greatest(values: Array, rng: np.random.Generator) -> int:
    """Returns the index of the greatest value, one of them at random where they tie."""
    return int(rng.choice(np.flatnonzero(values == values.max())))
