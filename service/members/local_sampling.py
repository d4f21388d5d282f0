"""Chooses the next token of every row of a batch, each by its own temperature, nucleus and random number.

    logits [N, V] ── temperature ── nucleus ── inverse of the cumulative distribution at u ──> N token ids

A row's choice is a function of its own logits and its own `u` alone. One number a token instead of a generator on the
device: the numbers come from the row's own `random.Random`, equal on every device and with every neighbour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# The nucleus is nearly always within the likeliest few hundred; sorting a whole vocabulary of 128 k costs more than
# the rest of the step on a small model. Rows whose nucleus is larger are sorted in full.
NUCLEUS_GUESS = 512
MIN_TEMPERATURE = 1e-5
NO_TOKEN = -1


@dataclass(frozen=True, slots=True)
class Draw:
    """How one row chooses: `temperature` 0 takes the likeliest, `top_p` in (0, 1], `u` uniform in [0, 1)."""

    temperature: float
    top_p: float
    u: float


def choose(logits: torch.Tensor, draws: Sequence[Draw]) -> list[int]:
    """Returns the next token of each row; -1 where the row's logits hold no number to choose by.

    Args:
        logits: `[N, V]`.
        draws: `[N]`.
    """
    import torch

    logits = logits.float()
    tokens = logits.argmax(dim=1)
    sampled = [index for index, draw in enumerate(draws) if draw.temperature > 0.0]
    if sampled:
        rows = torch.tensor(sampled, device=logits.device)
        tokens[rows] = _sample(logits[rows], [draws[index] for index in sampled])
    # argmax puts NaN first and a row of -inf at 0: such a row has no likeliest token.
    bad = ~torch.isfinite(logits.amax(dim=1))
    tokens[bad] = NO_TOKEN
    chosen: list[int] = tokens.tolist()
    return chosen


def _sample(logits: torch.Tensor, draws: Sequence[Draw]) -> torch.Tensor:
    """Returns `[N]` tokens drawn at each row's temperature from each row's nucleus."""
    import torch

    def column(numbers: list[float], dtype: torch.dtype) -> torch.Tensor:
        return torch.tensor(numbers, dtype=dtype, device=logits.device)[:, None]

    temperatures = column([max(draw.temperature, MIN_TEMPERATURE) for draw in draws], torch.float32)
    # Shifted before scaling, so that a temperature near 0 meets no infinity.
    probabilities = ((logits - logits.amax(dim=1, keepdim=True)) / temperatures).softmax(dim=1)
    u = column([draw.u for draw in draws], torch.float64)
    top_p = column([draw.top_p for draw in draws], torch.float64)
    tokens = torch.empty(len(draws), dtype=torch.long, device=logits.device)

    whole = [index for index, draw in enumerate(draws) if draw.top_p >= 1.0]
    nucleus = [index for index, draw in enumerate(draws) if draw.top_p < 1.0]
    if whole:
        rows = torch.tensor(whole, device=logits.device)
        mass = probabilities[rows].cumsum(dim=1, dtype=torch.float64)
        tokens[rows] = torch.searchsorted(mass, u[rows] * mass[:, -1:], right=True)[:, 0].clamp_(max=logits.shape[1] - 1)
    if nucleus:
        rows = torch.tensor(nucleus, device=logits.device)
        guess = min(NUCLEUS_GUESS, logits.shape[1])
        likeliest, order = probabilities[rows].topk(guess, dim=1)
        reached = likeliest.sum(dim=1, dtype=torch.float64) >= top_p[rows, 0]
        tokens[rows] = _from_nucleus(likeliest, order, top_p[rows], u[rows])
        if guess < logits.shape[1] and not bool(reached.all()):
            rows = rows[~reached]
            likeliest, order = probabilities[rows].sort(dim=1, descending=True)
            tokens[rows] = _from_nucleus(likeliest, order, top_p[rows], u[rows])
    return tokens


def _from_nucleus(likeliest: torch.Tensor, order: torch.Tensor, top_p: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """Returns `[N]` tokens drawn from the fewest of the likeliest whose mass reaches `top_p`.

    Args:
        likeliest: `[N, G]` probabilities, falling.
        order: `[N, G]` their tokens.
        top_p: `[N, 1]`.
        u: `[N, 1]`.
    """
    import torch

    mass = likeliest.cumsum(dim=1, dtype=torch.float64)
    last = (mass < top_p).sum(dim=1, keepdim=True).clamp_(max=likeliest.shape[1] - 1)
    at = torch.minimum(torch.searchsorted(mass, u * mass.gather(1, last), right=True), last)
    return order.gather(1, at)[:, 0]
