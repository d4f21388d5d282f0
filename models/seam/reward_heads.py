"""What several families are in the same way: named heads that reward candidates, for everybody or behind a gate.

    RewardHeads ─┬─> GlobalHeads     everybody's weights, nothing learned            BradleyTerry, SparseRm
                 ├─> GatedMixture    a gate on the prompt, and Hedge for each user   Micro, SparseMoe
                 └─> Additive, Vrf

Each class below does some of what `Family` asks; what is a family's own stands with the family, and so do the checks of its
arrays. Axis letters: `N` candidates, `K` heads, `E` evidence, `S` samples.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attune.models.seam import hedge
from attune.models.seam.family import Row, Scored, mixed_scores, reward_difference

Array = NDArray[np.float64]

LEAST_LOG_GATE = -700.0
"""A gate of exactly 0 is read as `exp(-700)`, so that a user's evidence can still bring such a head back (from 0 none could, and all
at 0 would be no distribution). A head that an audit closed is another matter: `Micro.mask` keeps it at 0 whatever is learned."""


@dataclass(frozen=True, slots=True)
class RewardHeads(ABC):
    """Heads that read the rewards of candidates, and nothing of the prompt unless a family says more.

    Attributes:
        name: names the graph's outputs.
        heads: names of the `K` heads.
        logit_scale: `a`, turns differences of rewards into logits.
    """

    name: str
    heads: tuple[str, ...]
    logit_scale: float

    @property
    def candidate_outputs(self) -> tuple[str, ...]:
        return (f"{self.name}_rewards",)

    @property
    def prompt_outputs(self) -> tuple[str, ...]:
        return ()

    @property
    def scores_with_prompt(self) -> bool:
        return False

    def posterior(self, evidence: Array) -> tuple[Array, Array] | None:  # noqa: ARG002 - no Gaussian
        return None

    def margins(self, chosen: Row, rejected: Row) -> Array:
        """Returns by how much each head prefers `chosen`, `[..., K]` logits."""
        return self.logit_scale * reward_difference(f"{self.name}_rewards", chosen, rejected)

    @abstractmethod
    def chances(self, evidence: Array, chosen: Row, rejected: Row, prompt: Row) -> Array:
        """Returns the probabilities that this user prefers `chosen` to `rejected`; see `Family`."""

    def predict(self, evidence: Array, chosen: Row, rejected: Row, prompt: Row) -> float:
        return float(self.chances(evidence, chosen, rejected, prompt))


@dataclass(frozen=True, slots=True)
class GlobalHeads(RewardHeads):
    """Heads under weights that are everybody's: there is nothing to learn of a user."""

    @property
    def evidence_size(self) -> int:
        return 0

    def learn(self, chosen: Row, rejected: Row, prompt: Row, *, tie: bool) -> Array:  # noqa: ARG002 - nothing to learn
        return np.zeros(0)


@dataclass(frozen=True, slots=True)
class GatedMixture(RewardHeads):
    """A mixture of Bradley-Terry heads with a gate on the prompt, and Hedge for each user (Shen et al. 2025; SCIENCE §2).

    Attributes:
        log_prior: `[K]` log gate of an average prompt, used where there is no prompt.
    """

    settings: hedge.HedgeSettings
    log_prior: Array

    @property
    def evidence_size(self) -> int:
        return len(self.heads)

    @property
    def prompt_outputs(self) -> tuple[str, ...]:
        return (f"{self.name}_gate",)

    @property
    def scores_with_prompt(self) -> bool:
        return True

    def log_gate(self, prompt: Row | None) -> Array:
        """Returns the log gate `[..., K]` for a prompt or a stack of them, `LEAST_LOG_GATE` at the least."""
        gate = self.log_prior if prompt is None else prompt[f"{self.name}_gate"]
        log_gate: Array = np.maximum(gate, LEAST_LOG_GATE, dtype=np.float64)
        return log_gate

    def posterior_weights(self, evidence: Array, prompt: Row | None) -> Array:
        """Returns the posterior over which head is this user, `[..., K]`."""
        return self.hedged(self.log_gate(prompt), evidence)

    def hedged(self, log_prior: Array, evidence: Array) -> Array:
        """Returns Hedge's weights `[..., K]` from a log prior by this family's constants."""
        return hedge.hedge_weights(log_prior, evidence, eta=self.settings.eta, sureness=self.settings.sureness)

    def weights(self, evidence: Array, prompt: Row | None) -> Array:
        return self.posterior_weights(evidence, prompt)

    def score(self, evidence: Array, rewards: Array, prompt: Row | None) -> Scored:
        weights = self.weights(evidence, prompt)
        scores = mixed_scores(rewards, weights)
        # The posterior is over which head is this user, so the spread of a score is that of the heads around it.
        stds = np.sqrt(mixed_scores((rewards - scores[:, None]) ** 2, weights))
        return Scored(scores, stds, weights, rewards)

    def chances(self, evidence: Array, chosen: Row, rejected: Row, prompt: Row) -> Array:
        return hedge.mixed_probability(self.weights(evidence, prompt), self.margins(chosen, rejected))

    def logit(self, evidence: Array, chosen: Row, rejected: Row, prompt: Row) -> tuple[Array, Array]:
        weights, margins = self.weights(evidence, prompt), self.margins(chosen, rejected)
        mean = mixed_scores(margins, weights)
        return mean, mixed_scores((margins - mean[..., None]) ** 2, weights)

    def learn(self, chosen: Row, rejected: Row, prompt: Row, *, tie: bool) -> Array:  # noqa: ARG002 - losses do not see the prompt
        return hedge.hedge_evidence(self.margins(chosen, rejected), cap=self.settings.cap, tie=tie)

    def sample_weights(self, evidence: Array, prompt: Row | None, rng: np.random.Generator, samples: int) -> Array:
        # From the posterior, whatever `weights` makes of it: a head that is cut off for speed would never be explored again.
        heads = rng.choice(len(self.heads), size=samples, p=self.posterior_weights(evidence, prompt))
        draws: Array = np.eye(len(self.heads))[heads]
        return draws
