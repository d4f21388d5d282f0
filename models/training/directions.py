"""Which latents tell chosen from rejected answers, and the features that come of them (Liu et al. 2025, arXiv 2511.07896).

    frequency on chosen - frequency on rejected ─> the K strongest on either side ─> their decoder rows
    features = projections of the *dense* state on these rows

Selection looks at comparisons that the head is never trained on: latents picked on the head's own comparisons would fit
their noise twice. Axis letters: `N` candidates, `L` latents, `C` comparisons, `F` features, `D` width of one layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from attune.models.data.preferences import Comparisons
from attune.models.data.splits import SplitInvalid, prompt_keys

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
Rank = Literal["frequency", "t"]


LEAST_SPREAD = 1e-12
"""Of a latent's differences: one that tells all sides apart alike is the surest there is, and one that is never there has no mean."""


class SelectionInvalid(ValueError):
    """Comparisons from which no directions can be chosen; the message carries the numbers."""


@dataclass(frozen=True, slots=True)
class SelectionSettings:
    """How latents are chosen.

    Attributes:
        each: `K`, latents chosen on either side. The paper's 128 of a width of 3,584 are 2 K / D = 7 %; 16 are 8 % of 384.
        least_texts: a latent that fires in fewer texts of the selection is left out: its difference is chance.
        rank: by the difference in frequency (paper), or by its t statistic (reconstruction), which trusts rare latents less.
        length_control: take from each difference what the difference in log length explains over the selection. Off: within
            the pools of four sets it costs 3.6 points of accuracy on average (LOG), and the head can read length itself.
    """

    each: int = 16
    least_texts: int = 20
    rank: Rank = "t"
    length_control: bool = False


@dataclass(frozen=True, slots=True)
class Selection:
    """The chosen latents, strongest first.

    Attributes:
        chosen, rejected: latents that fire more in chosen, and in rejected answers.
        score: `[L]` what they were ranked by; 0 for latents without support.
        support: `[L]` texts of the selection in which a latent fires.
    """

    chosen: Ints
    rejected: Ints
    score: Array
    support: Ints

    @property
    def latents(self) -> Ints:
        """`[2 K]`, both sides."""
        return np.concatenate([self.chosen, self.rejected])


def select(frequency: NDArray[np.float32], log_length: Array, comparisons: Comparisons, settings: SelectionSettings) -> Selection:
    """Returns the latents that tell the two sides of `comparisons` apart; ties are not looked at.

    Args:
        frequency: `[N, L]` of all candidates, see `Latents`.
        log_length: `[N]`.
        comparisons: the selection's own.
        settings: see `SelectionSettings`.

    Raises:
        SelectionInvalid: shapes do not agree, or a side has fewer than `each` latents with support.
    """
    if len(frequency) != len(comparisons.texts.candidates) or log_length.shape != (len(frequency),):
        raise SelectionInvalid(
            f"frequency is {frequency.shape} and log_length {log_length.shape}; "
            f"one row for each of {len(comparisons.texts.candidates)} candidates was expected"
        )
    chosen, rejected = comparisons.chosen[~comparisons.tie], comparisons.rejected[~comparisons.tie]
    if len(chosen) < 2:
        raise SelectionInvalid(f"{len(chosen)} decided comparisons are too few to choose from")
    difference = frequency[chosen].astype(np.float64) - frequency[rejected]
    if settings.length_control:
        longer = log_length[chosen] - log_length[rejected]
        squares = float(longer @ longer)
        difference = difference - np.outer(longer, longer @ difference / squares) if squares else difference
    mean = difference.mean(axis=0)
    spread = difference.std(axis=0)
    score = mean if settings.rank == "frequency" else np.sqrt(len(chosen)) * mean / np.maximum(spread, LEAST_SPREAD)
    support = (frequency[np.unique(np.concatenate([chosen, rejected]))] > 0).sum(axis=0)
    score = np.where(support >= settings.least_texts, score, 0.0)
    ours, theirs = (np.argsort(-sign * score, kind="stable")[: settings.each] for sign in (1, -1))
    for name, sign, side in (("chosen", 1, ours), ("rejected", -1, theirs)):
        found = int(np.sum(sign * score[side] > 0))
        if found < settings.each:
            raise SelectionInvalid(
                f"{found} latents fire more in {name} answers and in {settings.least_texts} texts or more; {settings.each} are to be chosen"
            )
    return Selection(ours, theirs, score, support)


def halves(comparisons: Comparisons, *, share: float, seed: int) -> tuple[Comparisons, Comparisons]:
    """Returns comparisons for the selection and for the head, of different prompts; `share` of the prompts select.

    A table of one prompt (jokes, say) is cut by comparisons instead: no split by prompt exists.

    Raises:
        SplitInvalid: either part would be empty.
    """
    keys = prompt_keys(comparisons)
    if len(np.unique(keys)) == 1:
        keys = np.arange(len(comparisons))
    order = np.random.default_rng(seed).permutation(np.unique(keys))
    first = np.isin(keys, order[: round(share * len(order))])
    if first.all() or not first.any():
        raise SplitInvalid(f"{len(order)} prompts are too few to choose directions and to train on others")
    return comparisons.take(first), comparisons.take(~first)
