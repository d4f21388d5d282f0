"""Measures at warm-up how many padded tokens a batch should have on this device, and what starting a batch costs.

On a CPU the best batch is a few hundred tokens, where activations stay in the cache; on a GPU it is thousands, where every
unit has work. Both are properties of device, threads and graph, so they are measured, on a mix of text lengths, instead of
configured. Measuring runs every shape once before it is timed, so it is the warm-up too. It knows a scorer and a clock.
"""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from attune.models.seam.text import Encoded
from attune.service.batching.session import Scorer

LOG = logging.getLogger(__name__)

# Less than 256 was fastest on no device measured, and is what a machine that is busy at start would suggest. From there budgets double,
# until the speed falls, the time is used up or the device has no room; the last is what activations of a long batch may take at most.
LEAST_BUDGET = 256
MOST_BUDGET = 1_048_576
# Short, middling and long texts of a chat; each is one third of the computed tokens of a pass.
LENGTHS = (32, 128, 224)
# Texts run alone, and how often in each round: what starting a batch costs shows where there is little else, and they take next to nothing.
LONE = (16, 48)
LONE_RUNS = 3
# A round measures every budget once. Two budgets that are still too near to tell apart are measured again, up to the second number.
ROUNDS = 3
MOST_ROUNDS = 15
# Below this share of the best speed so far, larger budgets are not tried: the caches are full.
CLEARLY_FALLING = 0.9
# The smallest budget this near to the best is taken: beyond it, a batch only takes longer.
NEAR_BEST = 0.97
# Two repeats that happen to be alike do not prove that there is no noise.
LEAST_NOISE = 0.005
# A device this fast, tokens a second, may measure this many times longer: its best budgets are a hundred times as large.
FAST_TOKENS_PER_S = 100_000.0
FAST_LIMIT = 3.0
# Tried on every device, whatever it takes: one that is only busy at start must not serve with tiny batches ever after.
LEAST_BUDGETS = 2
# Least overhead, as a share of the budget: with none at all, no two texts of different length would ever share a batch.
LEAST_OVERHEAD_SHARE = 1 / 32


@dataclass(frozen=True, slots=True)
class MeasuredBudget:
    """What was measured, for the log and the metrics.

    Attributes:
        budget_tokens: padded tokens of a batch.
        overhead_tokens: what starting a batch costs, in tokens that could have been computed instead.
        tokens_per_s: speed at that budget.
        measured: budget -> speed, tokens a second.
        noise: by which share of a pass the two fastest repeats of a budget differed, median over budgets; 0 where there was one repeat.
        rounds: how often the budgets in question were measured.
        elapsed_s: time that measuring took, seconds.
    """

    budget_tokens: int
    overhead_tokens: float
    tokens_per_s: float
    measured: Mapping[int, float]
    noise: float
    rounds: int
    elapsed_s: float

    def told(self) -> dict[str, object]:
        """Returns what was measured, for the log: the choice, the speeds behind it, and how sure they are."""
        return {
            "budget_tokens": self.budget_tokens,
            "tokens_per_s": round(self.tokens_per_s),
            "measured": {str(budget): round(speed) for budget, speed in self.measured.items()},
            "noise": round(self.noise, 4),
            "rounds": self.rounds,
            "elapsed_s": round(self.elapsed_s, 2),
        }


def filler(tokens: int) -> Encoded:
    """Returns a text of `tokens` tokens that every trunk accepts; what it says does not change what it costs."""
    return Encoded((1,) * tokens, 0, tokens)


def calibrate(
    scorer: Scorer[object],
    *,
    max_text_tokens: int,
    fixed_budget_tokens: int | None = None,
    budgets: Iterable[int] | None = None,
    limit_s: float = 2.5,
    clock: Callable[[], float] = time.perf_counter,
) -> MeasuredBudget:
    """Returns the budget to serve with, every shape up to `max_text_tokens` being warm afterwards.

    A budget's speed is that of one batch of each length in `LENGTHS`, filled up to it. Each batch counts with its fastest
    repeat, because interference only ever adds time, and repeats are interleaved, in turn downwards and upwards, so that a
    machine that slows down meanwhile slows all budgets alike. The smallest budget is taken that is not slower than the best by
    more than `1 - NEAR_BEST` and half of the noise seen; budgets that lie within the noise of that bound are measured again first, so
    that two starts on one machine choose alike.

    Args:
        scorer: not in use by anybody else.
        max_text_tokens: the longest text that the scorer takes.
        fixed_budget_tokens: taken as it is; only its speed and overhead are measured.
        budgets: candidates, ascending, tried while they and a repeat of each fit into the time; by default they double without end.
        limit_s: time for measuring, seconds, on a device that is not fast; the smallest budgets are measured whatever it takes.
        clock: seconds, monotonic.
    """
    started_s = clock()
    lengths = sorted({min(length, max_text_tokens) for length in LENGTHS})
    if fixed_budget_tokens is not None:
        budgets = sorted({max(1, fixed_budget_tokens // 4), fixed_budget_tokens})

    def one_pass(budget: int) -> dict[int, float]:
        """Returns length -> seconds of one batch filled up to `budget`."""
        taken = {}
        for length in lengths:
            items = [filler(length)] * texts(budget, length)
            before_s = clock()
            scorer.run(items)
            taken[length] = clock() - before_s
        return taken

    scorer.run([filler(max_text_tokens)])
    tried, best = _search(_doubling() if budgets is None else budgets, lengths, one_pass, limit_s)
    end_s = started_s + _allowed_s(limit_s, best)
    passes, rounds, in_question = _Passes(lengths, tried), 0, list(tried)
    alone = _Alone(scorer, [filler(length) for length in sorted({min(length, max_text_tokens) for length in LONE})], clock)
    while in_question and rounds < MOST_ROUNDS:
        round_s = (clock() - started_s) / (1 + rounds)
        if rounds and clock() + round_s > end_s:
            break
        for budget in in_question if rounds % 2 else reversed(in_question):
            passes.taken_s[budget].append(one_pass(budget))
        alone.run()
        rounds += 1
        if rounds >= ROUNDS:
            in_question = passes.too_near() if fixed_budget_tokens is None else []
    chosen = fixed_budget_tokens or passes.chosen()
    # Beyond the chosen budget the line bends.
    points = [
        (texts(budget, length) * length, passes.batch_s(budget, length)) for budget in tried if budget <= chosen for length in lengths
    ]
    overhead_tokens = _overhead_tokens([*alone.points(), *points], chosen)
    elapsed_s = clock() - started_s
    for length in _warm_lengths(max_text_tokens):
        scorer.run([filler(length)] * texts(chosen, length))
    measured = passes.measured()
    return MeasuredBudget(chosen, overhead_tokens, measured[chosen], measured, passes.noise(), rounds, elapsed_s)


def _allowed_s(limit_s: float, best_tokens_per_s: float) -> float:
    return limit_s * (FAST_LIMIT if best_tokens_per_s > FAST_TOKENS_PER_S else 1.0)


def _search(
    budgets: Iterable[int], lengths: Sequence[int], one_pass: Callable[[int], Mapping[int, float]], limit_s: float
) -> tuple[list[int], float]:
    """Returns the budgets that are worth measuring, each of them run once, and the best speed seen, tokens a second."""
    tried: list[int] = []
    best = 0.0
    for budget in budgets:
        planned = (1 + ROUNDS) * sum(_pass_tokens(each, lengths) for each in (*tried, budget))
        if len(tried) >= LEAST_BUDGETS and planned / best > _allowed_s(limit_s, best):
            break
        try:
            # The first pass of a budget meets its shapes for the first time: it plans, and is not part of the result.
            found = _pass_tokens(budget, lengths) / sum(one_pass(budget).values())
        except Exception as error:
            if len(tried) < LEAST_BUDGETS:
                raise
            LOG.warning("a batch of %d padded tokens cannot be run, smaller ones serve: %s", budget, error)
            break
        tried.append(budget)
        if len(tried) > LEAST_BUDGETS and found < CLEARLY_FALLING * best:
            break
        best = max(best, found)
    return tried, best


class _Passes:
    """The repeats of every budget, and what they say."""

    def __init__(self, lengths: Sequence[int], budgets: Sequence[int]) -> None:
        self.lengths = lengths
        self.taken_s: dict[int, list[dict[int, float]]] = {budget: [] for budget in budgets}

    def batch_s(self, budget: int, length: int) -> float:
        """Returns the fastest repeat of a batch, seconds."""
        return min(each[length] for each in self.taken_s[budget])

    def measured(self) -> dict[int, float]:
        """Returns budget -> tokens a second."""
        return {
            budget: _pass_tokens(budget, self.lengths) / sum(self.batch_s(budget, length) for length in self.lengths)
            for budget in self.taken_s
        }

    def noise(self) -> float:
        """Returns by which share the two fastest repeats of a pass differed, median over budgets: what one speed is uncertain by."""
        gaps = []
        for repeats in self.taken_s.values():
            if len(repeats) > 1:
                fastest, second = np.sort([[each[length] for each in repeats] for length in self.lengths], axis=1)[:, :2].sum(axis=0)
                gaps.append(1.0 - fastest / second if second > 0 else 0.0)
        return float(np.median(gaps)) if gaps else 0.0

    def too_near(self) -> list[int]:
        """Returns the budgets to measure again, best included: those for which noise alone could decide whether they are near enough."""
        measured, noise = self.measured(), self.noise()
        best = max(measured, key=lambda budget: measured[budget])
        bound = max(noise, LEAST_NOISE)
        unsure = [budget for budget in measured if budget < best and abs(measured[budget] / measured[best] - NEAR_BEST) < bound]
        return [budget for budget in self.taken_s if budget in unsure or budget == best] if unsure else []

    def chosen(self) -> int:
        """Returns the smallest budget that is near enough to the best."""
        measured = self.measured()
        least = (NEAR_BEST - self.noise() / 2) * max(measured.values())
        return next(budget for budget in measured if measured[budget] >= least)


class _Alone:
    """Texts that are batches alone, and the fastest repeat of each: hundreds of tokens say nothing about what starting a batch costs."""

    def __init__(self, scorer: Scorer[object], items: Sequence[Encoded], clock: Callable[[], float]) -> None:
        self._scorer = scorer
        self._items = items
        self._clock = clock
        self._taken_s = [math.inf] * len(items)

    def run(self) -> None:
        for _ in range(LONE_RUNS):
            for number, item in enumerate(self._items):
                before_s = self._clock()
                self._scorer.run([item])
                self._taken_s[number] = min(self._taken_s[number], self._clock() - before_s)

    def points(self) -> list[tuple[int, float]]:
        """Returns `(tokens, seconds)` of each text."""
        return [(len(item), taken_s) for item, taken_s in zip(self._items, self._taken_s, strict=True)]


def texts(budget_tokens: int, length: int) -> int:
    """Returns how many texts of `length` tokens a batch takes; a text over the budget is a batch alone."""
    return max(1, budget_tokens // length)


def _pass_tokens(budget_tokens: int, lengths: Sequence[int]) -> int:
    return sum(texts(budget_tokens, length) * length for length in lengths)


def _overhead_tokens(points: Sequence[tuple[int, float]], budget_tokens: int) -> float:
    """Returns the intercept of `seconds = (overhead + tokens) * slope` over `(tokens, seconds)`, in tokens.

    The squares of relative errors are least: by absolute ones the noise of the longest batches would decide about the shortest.
    """
    tokens, seconds = np.maximum(np.array(points, dtype=np.float64).T, 1e-9)
    slope, intercept = np.polyfit(tokens, seconds, 1, w=1.0 / seconds) if np.ptp(tokens) else (1.0, 0.0)
    # A slope of nothing or less is a device that larger batches cost nothing: then starting one is all that counts.
    return float(np.clip(intercept / slope if slope > 0 else np.inf, LEAST_OVERHEAD_SHARE * budget_tokens, budget_tokens))


def _warm_lengths(max_text_tokens: int) -> list[int]:
    """Returns the lengths to warm: powers of two up to the longest text, longest first, so that memory is taken once."""
    lengths = [2**power for power in range(4, max_text_tokens.bit_length()) if 2**power < max_text_tokens]
    return [max_text_tokens, *reversed(lengths)]


def _doubling() -> Iterator[int]:
    return itertools.takewhile(lambda budget: budget <= MOST_BUDGET, (LEAST_BUDGET * 2**power for power in itertools.count()))
