"""Oracles whose policies are language models: a trained adapter, a mixture of members' probabilities, an average of adapters.

    weights [d] ─> DpoOracle | MixingOracle | SoupOracle ─> answers to the oracle's prompts ─> Solution ± interval

They are oracles in the sense of `models.portfolio.oracles`: values are estimated on prompts of the oracle's own, with intervals
over prompts that hold for all `d` rewards at once. None of them bounds the optimum by itself; whoever vouches that training
comes within `slack` of the best says so. Letters: `P` prompts, `M` members, `d` rewards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls
from scipy.stats import t

from attune.models.alignment.answers import Answers, Rewards, sample_answers
from attune.models.alignment.causal import Answer, LanguageModel, load, token_statistics
from attune.models.alignment.dpo import DpoSettings
from attune.models.alignment.member import MemberRefused, MemberSettings, Prompts, TrainedMember, train_member
from attune.models.alignment.pairs import PairsMissing
from attune.models.portfolio.oracles import OracleFailed, Solution, expect_weights
from studies.approximations.mixing import mix_answers
from studies.approximations.soups import average_adapters

Array = NDArray[np.float64]

_SOUP = "soup"

SLOWER = (1, 2, 4)
"""By what the learning rate is divided, one after the other, until the guard accepts a checkpoint."""


@dataclass(frozen=True, slots=True)
class Asked:
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


@dataclass(frozen=True, slots=True)
class DpoOracle:
    """Trains an adapter for each weights it is asked for, once: the folder of a finished member is read the next time.

    A member that the guard refuses altogether is tried again at half and at a quarter of the learning rate: rewards that hardly go
    together, and a base that is easily spoilt, would otherwise end a search of many members at one of them.

    A search that was killed resumes in the middle of the member it was training. With `beta` of the settings above 0 the objective
    is KL-regularised, but what a member is worth to a user is its value alone, so `beta` is 0 to the search and the KL is told as
    `divergence`.

    Attributes:
        base: folder or hub id.
        rewards: in [0, 1].
        prompts: for training and for choosing the checkpoint; `held_out` is what policies are valued on.
        out: gets a folder for each weights, `shared` with the base's answers among them.
        seed: of everything random.
        settings: see there.
        slack: how far, at most, a trained member is from the best policy in `w · v`, as far as the caller vouches; None vouches nothing.
        confidence: of the intervals, for the `d` rewards together.
        base_name: what adapters call their base.
        progress: told a line now and then.
    """

    base: Path | str
    rewards: Rewards
    prompts: Prompts
    out: Path
    seed: int = 0
    settings: MemberSettings = field(default_factory=lambda: MemberSettings(dpo=DpoSettings()))
    slack: float | None = None
    confidence: float = 0.95
    base_name: str = ""
    progress: Callable[[str], None] | None = None

    @property
    def dimensions(self) -> int:
        return len(self.rewards.names)

    @property
    def beta(self) -> float:
        return 0.0

    def folder(self, weights: Array, slower: int = 1) -> Path:
        """Returns where the member for `weights` is: named by them, in thousandths, and by the divisor of the learning rate."""
        return self.out / (named(self.rewards.names, weights) + (f"-slower{slower}" if slower > 1 else ""))

    def solve(self, weights: Array) -> Solution:
        weights = expect_weights(weights, self.dimensions)
        refusals: list[str] = []
        for slower in SLOWER:
            try:
                return self._solution(weights, self._train(weights, slower))
            except MemberRefused as error:
                refusals.append(f"at 1/{slower} of the rate, {error}" if slower > 1 else str(error))
                if self.progress is not None:
                    self.progress(f"{self.folder(weights, slower).name} is refused; {error}")
            except PairsMissing as error:
                raise OracleFailed(f"no member for {self.folder(weights).name}: {error}") from error
        raise OracleFailed(f"no member for {self.folder(weights).name}: {'; '.join(refusals)}")

    def _train(self, weights: Array, slower: int) -> TrainedMember:
        dpo = replace(self.settings.dpo, learning_rate=self.settings.dpo.learning_rate / slower)
        return train_member(
            self.base,
            self.rewards,
            weights,
            self.folder(weights, slower),
            self.prompts,
            seed=self.seed,
            settings=replace(self.settings, dpo=dpo),
            shared=self.out / "shared",
            base_name=self.base_name,
            progress=self.progress,
        )

    def _solution(self, weights: Array, member: TrainedMember) -> Solution:
        found, heads = member.document["held_out"], member.document["held_out"]["rewards"]
        value = np.array([heads[name]["after"] for name in self.rewards.names])
        quantile = float(t.ppf(1 - (1 - self.confidence) / (2 * self.dimensions), found["prompts"] - 1))
        half_width = quantile * np.array([heads[name]["after_se"] for name in self.rewards.names])
        optimum = None if self.slack is None else float(weights @ value) + self.slack
        return Solution(weights, value, half_width, optimum, member.folder.name, float(found["kl"]))


@dataclass(frozen=True, slots=True)
class MixingOracle:
    """MOD: no training; the members of `model` write together (`mix_answers`), in the proportions that come nearest to the weights.

    Attributes:
        model: with the members' adapters.
        made_for: member to the weights `[d]` it was aligned to.
        asked: what policies are valued on.
    """

    model: LanguageModel
    made_for: Mapping[str, Array]
    asked: Asked

    @property
    def dimensions(self) -> int:
        return len(self.asked.rewards.names)

    @property
    def beta(self) -> float:
        return 0.0

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
class SoupOracle:
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
    asked: Asked
    out: Path
    rank: int | None = None

    @property
    def dimensions(self) -> int:
        return len(self.asked.rewards.names)

    @property
    def beta(self) -> float:
        return 0.0

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


def named(names: tuple[str, ...], weights: Array) -> str:
    """Returns a name for weights: the only reward's own, or the rewards with their thousandths, as in `concise250-formal750`."""
    parts = [(name, round(1000 * weight)) for name, weight in zip(names, weights, strict=True) if round(1000 * weight) > 0]
    return parts[0][0] if len(parts) == 1 else "-".join(f"{name}{share}" for name, share in parts)


def _shares(shares: Mapping[str, float]) -> str:
    return " ".join(f"{name}={share:.3g}" for name, share in shares.items() if share > 0)


def _grouped(asked: Asked, answers: list[Answer]) -> Answers:
    size = asked.answers
    return Answers(asked.prompts, tuple(tuple(answers[row : row + size]) for row in range(0, len(answers), size)))
