"""What aligning did to a member, on prompts that it was not trained on: rewards before and after, KL to the base, health.

    Answers of the base, Answers of the member [P, G] ─> measure ─> Measured ─> document() ─> member.json

Prompts are the unit of every standard error, since answers to one prompt are alike. Letters as in `answers`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attune.models.alignment.base_answers import Answers, Rewards
from attune.models.alignment.causal import BASE, LanguageModel, token_statistics
from attune.models.alignment.guard import AnswerHealth, GuardLimits, health, ratios, violations

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Measured:
    """A member beside its base on the same prompts.

    Attributes:
        names: `[d]` of the rewards.
        weights: `[d]` the member was aligned to.
        before: `[P, d]` mean reward of the base's answers to each prompt.
        after: `[P, d]` of the member's.
        kl: `[P]` KL(member || base) along the member's answers, nats an answer (`token_statistics`).
        base, member: health of the two.
    """

    names: tuple[str, ...]
    weights: Array
    before: Array
    after: Array
    kl: Array
    base: AnswerHealth
    member: AnswerHealth

    @property
    def gain(self) -> float:
        """Mean gain in `w·r`, w scaled to sum to 1: in the units of the rewards."""
        return float(self._gains().mean())

    @property
    def standard_error(self) -> float:
        """Of `gain`."""
        return _standard_error(self._gains())

    @property
    def standard_errors_gained(self) -> float:
        """`gain` in standard errors; 0 where both are 0."""
        return self.gain / self.standard_error if self.standard_error > 0 else float(np.sign(self.gain)) * np.inf if self.gain else 0.0

    def violations(self, limits: GuardLimits) -> list[str]:
        """Returns what the guard objects to."""
        return violations(self.base, self.member, limits)

    def document(self) -> dict[str, Any]:
        """Returns everything as plain numbers, for JSON; `± se` are standard errors over prompts."""
        share = self.weights / self.weights.sum()
        return {
            "prompts": len(self.before),
            "own": {
                "before": float((self.before @ share).mean()),
                "after": float((self.after @ share).mean()),
                "gain": self.gain,
                "se": self.standard_error,
                "standard_errors": self.standard_errors_gained if np.isfinite(self.standard_errors_gained) else None,
            },
            "rewards": {
                name: {
                    "before": float(self.before[:, k].mean()),
                    "before_se": _standard_error(self.before[:, k]),
                    "after": float(self.after[:, k].mean()),
                    "after_se": _standard_error(self.after[:, k]),
                    "gain": float((self.after - self.before)[:, k].mean()),
                    "gain_se": _standard_error((self.after - self.before)[:, k]),
                }
                for k, name in enumerate(self.names)
            },
            "kl": float(self.kl.mean()),
            "kl_se": _standard_error(self.kl),
            "ratios": ratios(self.base, self.member),
            "health": {"base": self.base.figures(), "member": self.member.figures()},
        }

    def _gains(self) -> Array:
        gains: Array = (self.after - self.before) @ (self.weights / self.weights.sum())
        return gains


def measure(
    model: LanguageModel, member: str, rewards: Rewards, weights: Sequence[float] | Array, before: Answers, after: Answers
) -> Measured:
    """Returns how `member` differs from its base.

    Args:
        model: that both were sampled from.
        member: whose answers `after` are.
        rewards: to judge them by.
        weights: `[d]` that the member was aligned to.
        before: the base's answers.
        after: the member's, to the same prompts.

    Raises:
        ValueError: the prompts differ, or are fewer than two, which have no standard error.
        RewardsInvalid: see `Rewards`.
    """
    if before.prompts != after.prompts or len(after.prompts) < 2:
        raise ValueError(
            f"base and member answered {len(before.prompts)} and {len(after.prompts)} prompts; the same, two or more, are needed"
        )
    asked, own = before.flat(), after.flat()
    statistics = token_statistics(model, member, *own)
    return Measured(
        names=rewards.names,
        weights=rewards.weights(weights),
        before=before.rewards(rewards).mean(axis=1),
        after=after.rewards(rewards).mean(axis=1),
        kl=statistics.kl.reshape(after.shape).mean(axis=1),
        base=health(asked[1], token_statistics(model, BASE, *asked)),
        member=health(own[1], statistics),
    )


def _standard_error(values: Array) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values)))
