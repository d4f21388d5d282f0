"""An oracle whose policies are language models: it trains an adapter for the weights that it is asked for.

    weights [d] ─> DpoOracle ─> answers to the oracle's prompts ─> Solution ± interval

It is an oracle in the sense of `models.portfolio.oracles`: values are estimated on prompts of the oracle's own, with intervals
over prompts that hold for all `d` rewards at once. It does not bound the optimum by itself; whoever vouches that training
comes within `slack` of the best says so. Letters: `P` prompts, `d` rewards.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

from attune.models.alignment.base_answers import Rewards
from attune.models.alignment.dpo import DpoSettings
from attune.models.alignment.pairs import PairsMissing
from attune.models.alignment.trained_member import MemberRefused, MemberSettings, Prompts, TrainedMember, begun_for, train_member
from attune.models.portfolio.oracles import OracleFailed, Solution, expect_weights

Array = NDArray[np.float64]

SLOWER = (1, 2, 4)
"""By what the learning rate is divided, one after the other, until the guard accepts a checkpoint."""


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
        """Returns where the member for `weights` is: named by them, in thousandths, and by the divisor of the learning rate.

        Where other weights of the same thousandths came first, a hash of the exact ones follows the name.
        """
        rate = f"-slower{slower}" if slower > 1 else ""
        name = named(self.rewards.names, weights)
        there = begun_for(self.out / f"{name}{rate}")
        if there is not None and there != dict(zip(self.rewards.names, weights.tolist(), strict=True)):
            name += "-" + hashlib.sha256(np.asarray(weights, dtype="<f8").tobytes()).hexdigest()[:8]
        return self.out / f"{name}{rate}"

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


def named(names: tuple[str, ...], weights: Array) -> str:
    """Returns a name for weights: the only reward's own, or the rewards with their thousandths, as in `concise250-formal750`."""
    parts = [(name, round(1000 * weight)) for name, weight in zip(names, weights, strict=True) if round(1000 * weight) > 0]
    return parts[0][0] if len(parts) == 1 else "-".join(f"{name}{share}" for name, share in parts)
