"""Measures at warm-up how many padded tokens a batch should have on this device, and what starting a batch costs.

On a CPU the best batch is a few hundred tokens, where activations stay in the cache; on a GPU it is thousands, where every
unit has work. Both are properties of device, threads and graph, so they are measured, on a mix of text lengths, instead of
configured. Measuring runs every shape once before it is timed, so it is the warm-up too. It knows a scorer and a clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from attune.models.seam.text import Encoded
from attune.service.batching.session import Scorer

# Less than 256 was fastest on no device measured, and is what a machine that is busy at start would suggest.
BUDGETS = (256, 512, 1024, 2048, 4096, 8192)
# Short, middling and long texts of a chat; each is one third of the computed tokens of a pass.
LENGTHS = (32, 128, 224)
REPEATS = 3
# Below this share of the best speed so far, larger budgets are not tried: the caches are full.
CLEARLY_FALLING = 0.9
# The smallest budget this near to the best is taken: beyond it, a batch only takes longer.
NEAR_BEST = 0.97
# Tried on every device, whatever it takes: one that is only busy at start must not serve with tiny batches ever after.
LEAST_BUDGETS = 2
# Least overhead, as a share of the budget: with none at all, no two texts of different length would ever share a batch.
LEAST_OVERHEAD_SHARE = 1 / 32


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was measured, for the log and the metrics.

    Attributes:
        budget_tokens: padded tokens of a batch.
        overhead_tokens: what starting a batch costs, in tokens that could have been computed instead.
        tokens_per_s: speed at that budget.
        measured: budget -> speed, tokens a second.
        elapsed_s: time that measuring took, seconds.
    """

    budget_tokens: int
    overhead_tokens: float
    tokens_per_s: float
    measured: Mapping[int, float]
    elapsed_s: float


def filler(tokens: int) -> Encoded:
    """Returns a text of `tokens` tokens that every trunk accepts; what it says does not change what it costs."""
    return Encoded((1,) * tokens, 0, tokens)


def calibrate(
    scorer: Scorer,
    *,
    max_text_tokens: int,
    fixed_budget_tokens: int | None = None,
    budgets: Sequence[int] = BUDGETS,
    limit_s: float = 2.5,
    make_item: Callable[[int], Encoded] = filler,
    clock: Callable[[], float] = time.perf_counter,
) -> Calibration:
    """Returns the budget to serve with, every shape up to `max_text_tokens` being warm afterwards.

    A budget's speed is that of one batch of each length in `LENGTHS`, filled up to it. Each batch counts with its fastest
    repeat, because interference only ever adds time, and repeats are interleaved, in turn downwards and upwards, so that a
    machine that slows down meanwhile slows all budgets alike.

    Args:
        scorer: not in use by anybody else.
        max_text_tokens: the longest text that the scorer takes.
        fixed_budget_tokens: taken as it is; only its speed and overhead are measured.
        budgets: candidates, ascending; tried while they and a repeat of each fit into the time.
        limit_s: time for measuring, seconds; the smallest budgets are measured whatever it takes.
        make_item: a text of a given length.
        clock: seconds, monotonic.
    """
    started_s = clock()
    lengths = sorted({min(length, max_text_tokens) for length in LENGTHS})
    candidates = budgets if fixed_budget_tokens is None else sorted({max(1, fixed_budget_tokens // 4), fixed_budget_tokens})

    def one_pass(budget: int) -> dict[int, float]:
        """Returns length -> seconds of one batch filled up to `budget`."""
        taken = {}
        for length in lengths:
            items = [make_item(length)] * texts(budget, length)
            before_s = clock()
            scorer.run(items)
            taken[length] = clock() - before_s
        return taken

    scorer.run([make_item(max_text_tokens)])
    tried: list[int] = []
    best = 0.0
    for budget in candidates:
        planned = 2 * sum(_pass_tokens(each, lengths) for each in (*tried, budget))
        if len(tried) >= LEAST_BUDGETS and planned / best > limit_s:
            break
        # The first pass of a budget meets its shapes for the first time: it plans, and is not part of the result.
        found = _pass_tokens(budget, lengths) / sum(one_pass(budget).values())
        tried.append(budget)
        if len(tried) > LEAST_BUDGETS and found < CLEARLY_FALLING * best:
            break
        best = max(best, found)

    passes: dict[int, list[dict[int, float]]] = {budget: [] for budget in tried}
    for repeat in range(REPEATS):
        round_s = (clock() - started_s) / (1 + repeat)
        if repeat and clock() - started_s + round_s > limit_s:
            break
        for budget in tried if repeat % 2 else reversed(tried):
            passes[budget].append(one_pass(budget))

    batch_s = {(budget, length): min(each[length] for each in passes[budget]) for budget in tried for length in lengths}
    measured = {budget: _pass_tokens(budget, lengths) / sum(batch_s[budget, length] for length in lengths) for budget in tried}
    chosen = fixed_budget_tokens or next(budget for budget in tried if measured[budget] >= NEAR_BEST * max(measured.values()))
    # Beyond the chosen budget the line bends, and one budget alone gives no line.
    fitted = max(chosen, *tried[:2])
    points = [(texts(budget, length) * length, taken_s) for (budget, length), taken_s in batch_s.items() if budget <= fitted]
    overhead_tokens = _overhead_tokens(points, chosen)
    elapsed_s = clock() - started_s
    for length in _warm_lengths(max_text_tokens):
        scorer.run([make_item(length)] * texts(chosen, length))
    return Calibration(chosen, overhead_tokens, measured[chosen], measured, elapsed_s)


def texts(budget_tokens: int, length: int) -> int:
    """Returns how many texts of `length` tokens a batch takes; a text over the budget is a batch alone."""
    return max(1, budget_tokens // length)


def _pass_tokens(budget_tokens: int, lengths: Sequence[int]) -> int:
    return sum(texts(budget_tokens, length) * length for length in lengths)


def _overhead_tokens(points: Sequence[tuple[int, float]], budget_tokens: int) -> float:
    """Returns the intercept of `seconds = (overhead + tokens) * slope`, least squares over `(tokens, seconds)`, in tokens."""
    tokens, seconds = np.array(points, dtype=np.float64).T
    slope, intercept = np.polyfit(tokens, seconds, 1) if np.ptp(tokens) else (1.0, 0.0)
    # A slope of nothing or less is a device that larger batches cost nothing: then starting one is all that counts.
    return float(np.clip(intercept / slope if slope > 0 else np.inf, LEAST_OVERHEAD_SHARE * budget_tokens, budget_tokens))


def _warm_lengths(max_text_tokens: int) -> list[int]:
    """Returns the lengths to warm: powers of two up to the longest text, longest first, so that memory is taken once."""
    lengths = [2**power for power in range(4, max_text_tokens.bit_length()) if 2**power < max_text_tokens]
    return [max_text_tokens, *reversed(lengths)]
