"""What a family is to the server and the simulator: score, predict, learn, sample.

A *row* is what the scorer graph says of one text: output name -> 1-D float32 array. A family reads its own outputs from
the rows of two candidates and of their prompt, and its own slice of the user's evidence. A *stack* is rows in one, every array
with an axis more in front; of evidence it is several users' in one. Axis letters: `N` candidates, `K` heads, `E` evidence, `S` samples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Row = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Scored:
    """Candidates as one user sees them: `scores` `[N]`, `stds` `[N]`, `weights` `[K]`, `rewards` `[N, K]`.

    `rewards * weights` are the contributions, and sum to `scores`.
    """

    scores: Array
    stds: Array
    weights: Array
    rewards: Array


class Family(Protocol):
    """One way to turn heads and a user's evidence into personal rewards.

    Attributes:
        name: names the graph's outputs: `<name>_rewards`, `<name>_gate` and so on.
        heads: names of the `K` heads.
        logit_scale: turns differences of rewards into logits of a choice.
        evidence_size: `E`, length of this family's slice of the user's sum.
        candidate_outputs: outputs that learning needs of each candidate; kept with a decision.
        prompt_outputs: outputs that this family needs of the prompt row; empty if it does not read the prompt to score.
    """

    @property
    def name(self) -> str: ...
    @property
    def heads(self) -> tuple[str, ...]: ...
    @property
    def logit_scale(self) -> float: ...
    @property
    def evidence_size(self) -> int: ...
    @property
    def candidate_outputs(self) -> tuple[str, ...]: ...
    @property
    def prompt_outputs(self) -> tuple[str, ...]: ...
    @property
    def scores_with_prompt(self) -> bool:
        """Whether weights depend on the prompt, so that scoring needs the prompt's row."""
        ...

    def weights(self, evidence: Array, prompt: Row | None) -> Array:
        """Returns the user's weights `[K]`; `prompt=None` gives those of an average prompt.

        They are on the simplex, but for `attributes`, whose weights may be below 0: less of a named reward may be wanted.
        """
        ...

    def score(self, evidence: Array, rewards: Array, prompt: Row | None) -> Scored:
        """Returns the candidates with rewards `[N, K]` as this user sees them.

        Where `scores_with_prompt`, the prompt may be a stack of `N`, one for each candidate; the weights are then `[N, K]`.
        """
        ...

    def predict(self, evidence: Array, chosen: Row, rejected: Row, prompt: Row) -> float:
        """Returns the probability that this user prefers `chosen` to `rejected`."""
        ...

    def chances(self, evidence: Array, chosen: Row, rejected: Row, prompt: Row) -> Array:
        """Returns what `predict` does, of rows or of stacks of them, `[...]`; none depends on those that it is asked with.

        Of a family that learns, evidence may be `[..., E]`, with axes in front that are broadcast against those of the rows.
        """
        ...

    def learn(self, chosen: Row, rejected: Row, prompt: Row, *, tie: bool) -> Array:
        """Returns what the comparison adds to this family's slice of the user's sum, `[E]`, before the grid."""
        ...

    def sample_weights(self, evidence: Array, prompt: Row | None, rng: np.random.Generator, samples: int) -> Array:
        """Returns `samples` draws of the user's weights from the posterior, `[S, K]`."""
        ...

    def posterior(self, evidence: Array) -> tuple[Array, Array] | None:
        """Returns mean and std `[D]` of the user's Gaussian, or None for a family without one."""
        ...


@runtime_checkable
class KnowsLogit(Protocol):
    """A family that knows how sure its predictions are; of others the logit of the prediction is taken for certain."""

    def logit(self, evidence: Array, chosen: Row, rejected: Row, prompt: Row) -> tuple[Array, Array]:
        """Returns mean and variance, over what is not known of the user, of the logit that this user prefers `chosen`.

        Of rows and evidence or of stacks of them, as `Family.chances`, `[...]` and `[...]`.
        """
        ...


def logit_of(family: Family, evidence: Array, chosen: Row, rejected: Row, prompt: Row) -> tuple[float, float]:
    """Returns mean and variance of the logit that a family gives a choice, see `KnowsLogit`."""
    if isinstance(family, KnowsLogit):
        mean, variance = family.logit(evidence, chosen, rejected, prompt)
        return float(mean), float(variance)
    probability = min(max(family.predict(evidence, chosen, rejected, prompt), 1e-6), 1.0 - 1e-6)
    return math.log(probability / (1.0 - probability)), 0.0


def reward_difference(name: str, chosen: Row, rejected: Row) -> Array:
    """Returns an output of the chosen row minus that of the rejected one, in double precision; of stacks likewise."""
    difference: Array = np.subtract(chosen[name], rejected[name], dtype=np.float64)
    return difference


def mixed_scores(rewards: Array, weights: Array) -> Array:
    """Returns `[...]`, the rewards, or differences of rewards, `[..., K]` mixed by `weights`, `[K]` for all or `[..., K]`."""
    # A product per row, not `rewards @ weights`: a matrix product may round a row by who its neighbours are.
    scores: Array = np.vecdot(rewards, weights)
    return scores


def stacked(rows: Sequence[Row], names: Sequence[str]) -> Row:
    """Returns the stack of one row or more, with these outputs alone."""
    return {name: np.array([row[name] for row in rows]) for name in names}


def expect_heads(heads: tuple[str, ...], logit_scale: float) -> None:
    """Raises ValueError unless heads have names of their own and the logit scale can turn rewards into logits."""
    if not heads or len(set(heads)) != len(heads):
        raise ValueError(f"heads must be one or more with names of their own; they are {list(heads)}")
    if not 0 < logit_scale < math.inf:
        raise ValueError(f"logit_scale is {logit_scale}; it must be finite and above 0, or scores and probabilities would disagree")
