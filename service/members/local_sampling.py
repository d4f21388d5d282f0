"""Chooses the next token of every row of a batch, each by its own temperature, nucleus and random number.

    logits [N, V] ── temperature ── inverse of the cumulative distribution at u ── inside the nucleus? ──> N token ids

A row's choice is a function of its own logits and its own `u` alone. One number a token instead of a generator on the
device: the numbers come from the row's own `random.Random`, equal on every device and with every neighbour.

The nucleus (Holtzman et al. 2020, arXiv 1904.09751) is never sorted, which would cost a small model as much as the rest of
a step. A token is drawn from the whole distribution and taken if the tokens before it in likelihood hold less than `top_p`,
which is what the nucleus is. One that is outside bounds the nucleus, since what is less likely is outside too: the next draw
is from those before it alone. Each draw that is taken has the law of the nucleus, and about 1 in 1 / `top_p` is drawn again.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

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
    likeliest, tokens = logits.max(dim=1)
    sampled = [index for index, draw in enumerate(draws) if draw.temperature > 0.0]
    if len(sampled) == len(draws):
        tokens = _sample(logits, likeliest, draws)
    elif sampled:
        rows = torch.tensor(sampled, device=logits.device)
        tokens[rows] = _sample(logits[rows], likeliest[rows], [draws[index] for index in sampled])
    # The maximum is NaN where a number is, and a row of -inf has its first token there: such rows have no likeliest token.
    return [token if math.isfinite(value) else NO_TOKEN for token, value in zip(tokens.tolist(), likeliest.tolist(), strict=True)]


def _sample(logits: torch.Tensor, likeliest: torch.Tensor, draws: Sequence[Draw]) -> torch.Tensor:
    """Returns `[N]` tokens drawn at each row's temperature from each row's nucleus; `likeliest` is `[N]`, the highest logits."""
    import torch

    device = logits.device
    numbers = [(max(draw.temperature, MIN_TEMPERATURE), draw.top_p if draw.top_p < 1.0 else math.inf, draw.u) for draw in draws]
    temperatures, top_p, u = torch.tensor(numbers, dtype=torch.float64, device=device).split(1, dim=1)
    # Shifted before scaling, so that a temperature near 0 meets no infinity.
    left = (logits - likeliest[:, None]).div_(temperatures.float()).softmax(dim=1)
    tokens = _inverse(left, u)
    if all(draw.top_p >= 1.0 for draw in draws):
        return tokens[:, 0]
    drawn, rows = tokens, list(range(len(draws)))
    chances: dict[int, random.Random] = {}
    while True:
        before = _before(left, drawn)
        outside = (_mass(left, before) >= top_p)[:, 0].nonzero()[:, 0]
        if not len(outside):
            return tokens[:, 0]
        rows = [rows[place] for place in outside.tolist()]
        left, top_p = left[outside] * before[outside], top_p[outside]
        chances |= {row: random.Random(draws[row].u) for row in rows if row not in chances}
        again = torch.tensor([[chances[row].random()] for row in rows], dtype=torch.float64, device=device)
        drawn = _inverse(left, again)
        tokens[torch.tensor(rows, device=device)] = drawn


def _inverse(probabilities: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """Returns `[N, 1]` the token of each row at which the cumulative distribution passes the share `u`, `[N, 1]`, of its mass."""
    import torch

    mass = probabilities.cumsum(dim=1, dtype=torch.float64)
    return torch.searchsorted(mass, u * mass[:, -1:], right=True).clamp_(max=probabilities.shape[1] - 1)


def _before(probabilities: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Returns `[N, V]` which tokens come before these, `[N, 1]`, by falling probability; of equal ones the lower id."""
    import torch

    own = probabilities.gather(1, tokens)
    ids = torch.arange(probabilities.shape[1], device=probabilities.device)
    return torch.where(ids < tokens, probabilities >= own, probabilities > own)


def _mass(probabilities: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
    """Returns `[N, 1]` the mass of these tokens, in double precision."""
    import torch

    return torch.where(which, probabilities, 0.0).sum(dim=1, keepdim=True, dtype=torch.float64)
