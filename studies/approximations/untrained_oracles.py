"""Oracles that train nothing: members write together, or their adapters are averaged.

    weights [d] ─> MixingOracle | SoupOracle ─> answers to the oracle's prompts ─> Solution ± interval

Values are estimated on prompts of the oracle's own, with intervals over prompts that hold for all `d` rewards at once; neither
bounds the optimum. Letters: `P` prompts, `M` members, `d` rewards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls
from scipy.stats import t

from attune.models.alignment.base_answers import Answers, Rewards, sample_answers
from attune.models.alignment.causal import Answer, LanguageModel, load, token_statistics
from attune.models.portfolio.model_oracles import named
from attune.models.portfolio.oracles import Solution, expect_weights
from studies.approximations.mixing import mix_answers
from studies.approximations.soups import average_adapters

Array = NDArray[np.float64]

_SOUP = "soup"


@dataclass(frozen=True, slots=True)
class OracleTask:
    """What an oracle's policies are valued on.

    Attributes:
        rewards: in [0, 1].
        prompts: at least two; neither trained on nor chosen on.
        answers: to each.
        seed: of the sampling.
        confidence: of the intervals, for the `d` rewards together.
    """

    rewards: Rewards
    prompts: tuple[str, ...]
    answers: int = 2
    seed: int = 0
    confidence: float = 0.95

    def per_prompt(self, answers: Answers) -> Array:
        """Returns the mean reward of the answers to each prompt, `[P, d]`."""
        return np.asarray(answers.rewards(self.rewards).mean(axis=1))

    def value(self, per_prompt: Array) -> tuple[Array, Array]:
        """Returns the mean over prompts and the half width of its interval, `[d]` each (Student, Bonferroni over `d`)."""
        count, rewards = per_prompt.shape
        quantile = float(t.ppf(1 - (1 - self.confidence) / (2 * rewards), count - 1))
        return per_prompt.mean(axis=0), quantile * per_prompt.std(axis=0, ddof=1) / np.sqrt(count)


class _Untrained:
    """What oracles that train nothing have alike: their rewards, and no price of moving away from the base."""

    __slots__ = ()
    asked: OracleTask

    @property
    def dimensions(self) -> int:
        return len(self.asked.rewards.names)

    @property
    def beta(self) -> float:
        return 0.0


@dataclass(frozen=True, slots=True)
class MixingOracle(_Untrained):
    """MOD: no training; the members of `model` write together (`mix_answers`), in the proportions that come nearest to the weights.

    Attributes:
        model: with the members' adapters.
        made_for: member to the weights `[d]` it was aligned to.
        asked: what policies are valued on.
    """

    model: LanguageModel
    made_for: Mapping[str, Array]
    asked: OracleTask

    def solve(self, weights: Array) -> Solution:
        weights = expect_weights(weights, self.dimensions)
        value, half_width = self.asked.value(self.per_prompt(weights))
        return Solution(weights, value, half_width, None, "mod " + _shares(proportions(self.made_for, weights)))

    def per_prompt(self, weights: Array) -> Array:
        """Returns what the mixture for `weights` `[d]` is worth on each prompt, `[P, d]`."""
        shares: dict[str | None, float] = {name: share for name, share in proportions(self.made_for, weights).items() if share > 0}
        told = [prompt for prompt in self.asked.prompts for _ in range(self.asked.answers)]
        found = mix_answers(self.model, shares, told, self.asked.seed)
        return self.asked.per_prompt(_grouped(self.asked, found))


@dataclass(frozen=True, slots=True)
class SoupOracle(_Untrained):
    """Soups: no training; members' adapters are averaged (`average_adapters`) in the proportions that come nearest to the weights.

    Attributes:
        base: folder or hub id.
        adapters: member to adapter folder.
        made_for: member to the weights `[d]` it was aligned to.
        asked: what policies are valued on.
        out: gets a folder for each average, in peft's format.
        rank: of the averages; None is exact, with the members' ranks added up.
    """

    base: Path | str
    adapters: Mapping[str, Path]
    made_for: Mapping[str, Array]
    asked: OracleTask
    out: Path
    rank: int | None = None

    def solve(self, weights: Array) -> Solution:
        weights = expect_weights(weights, self.dimensions)
        folder, model, answers = self._answers(weights)
        value, half_width = self.asked.value(self.asked.per_prompt(answers))
        divergence = float(token_statistics(model, _SOUP, *answers.flat()).kl.mean())
        return Solution(weights, value, half_width, None, folder.name, divergence)

    def per_prompt(self, weights: Array) -> Array:
        """Returns what the average for `weights` `[d]` is worth on each prompt, `[P, d]`."""
        return self.asked.per_prompt(self._answers(weights)[2])

    def _answers(self, weights: Array) -> tuple[Path, LanguageModel, Answers]:
        folder = self.out / f"soup-{named(self.asked.rewards.names, weights)}"
        used = {name: share for name, share in proportions(self.made_for, weights).items() if share > 0}
        average_adapters({name: self.adapters[name] for name in used}, list(used.values()), folder, self.rank)
        model = load(self.base, {_SOUP: folder})
        return folder, model, sample_answers(model, _SOUP, self.asked.prompts, self.asked.answers, self.asked.seed)


def proportions(made_for: Mapping[str, Array], weights: Array) -> dict[str, float]:
    """Returns the shares of the members, on the simplex, whose mean weights come nearest to `weights` `[d]` (least squares).

    Members that were each aligned to one reward get the user's weights themselves.
    """
    matrix = np.stack([np.asarray(one, dtype=np.float64) for one in made_for.values()], axis=1)
    # Non-negative least squares with a heavy row that asks the shares to sum to 1.
    heavy = 1e3
    shares, _ = nnls(np.vstack([matrix, np.full((1, matrix.shape[1]), heavy)]), np.append(weights, heavy))
    shares[shares < 1e-4] = 0.0
    shares /= shares.sum()
    return dict(zip(made_for, shares.tolist(), strict=True))


def _shares(shares: Mapping[str, float]) -> str:
    return " ".join(f"{name}={share:.3g}" for name, share in shares.items() if share > 0)


def _grouped(asked: OracleTask, answers: list[Answer]) -> Answers:
    size = asked.answers
    return Answers(asked.prompts, tuple(tuple(answers[row : row + size]) for row in range(0, len(answers), size)))
