"""What waits for the scorer, and which of it forms the next batch: a synchronous structure without clock, thread or task.

    put(...)      entries of one submission, all or none, or Overloaded / TooLarge with the numbers
    take(now_s)   the next batch, and the entries whose deadline passed while they waited
    abandon(...)  entries whose caller left; their room is free at once
    drained(...)  what a finished batch taught about the speed of draining

A batch is a run of neighbours in length around the entry that is due first. It costs `overhead_tokens + longest * n`
(padded tokens), never over the budget, or what of it the taker asks for, unless one entry alone is. It stops growing when
the padding that the next text causes costs more than a separate batch. Payloads are opaque; what a token or a caller is,
this module does not know.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from attune.service.errors import Overloaded, TooLarge

Payload = TypeVar("Payload")

# Tokens of one submission that are due together, in budgets: an ordinary request of a few texts is one turn on any device.
TURN_BUDGETS = 4
# Weight of the newest batch in the drain rate, tokens of about ten batches by their seconds.
RATE_WEIGHT = 0.1
# Before the first batch there is no rate to estimate from; afterwards an estimate above this says nothing more useful.
RETRY_AFTER_UNKNOWN_S = 1.0
RETRY_AFTER_MOST_S = 60.0


@dataclass(slots=True, eq=False)  # not frozen: that would double the time of making one, which every text pays
class Entry(Generic[Payload]):
    """One text that waits: its length, its place in the order of turns, its deadline. Nobody changes one.

    `order` is unique within a queue and rises with arrival; `due_at_s` is the turn (see `BatchQueue`). All times are in
    seconds on the clock of the one who calls the queue.
    """

    tokens: int
    payload: Payload
    order: int
    submitted_at_s: float
    due_at_s: float
    deadline_at_s: float


@dataclass(frozen=True, slots=True)
class Batch(Generic[Payload]):
    """What `take` returns: `entries` shortest first, to be run together, and `expired` ones, to be failed."""

    entries: tuple[Entry[Payload], ...]
    expired: tuple[Entry[Payload], ...]

    @property
    def padded_tokens(self) -> int:
        """Tokens that the scorer computes: the longest entry times the number of entries."""
        return self.entries[-1].tokens * len(self.entries) if self.entries else 0

    @property
    def real_tokens(self) -> int:
        """Tokens that somebody asked for."""
        return sum(entry.tokens for entry in self.entries)


class BatchQueue(Generic[Payload]):
    """A bounded queue that hands out batches under a budget of padded tokens.

    Turns: the entry that is due first is in every next batch, so nothing starves whatever its length. An entry is due when
    it is submitted, plus `age_limit_s` for every `TURN_BUDGETS` budgets of tokens that precede it in its own submission: a
    large submission takes its first turn, and what it brings beyond that yields to whoever comes within the age limit.

    Args:
        max_items: entries that may wait at one time.
        max_tokens: tokens that may wait at one time.
        budget_tokens: padded tokens of a batch; a longer entry forms a batch alone.
        overhead_tokens: what starting a batch costs, in tokens that could have been computed instead.
        age_limit_s: how much later each further turn of one submission is due, seconds.
    """

    def __init__(self, *, max_items: int, max_tokens: int, budget_tokens: int, overhead_tokens: float, age_limit_s: float) -> None:
        for name, value, least in (
            ("max_items", max_items, 1),
            ("max_tokens", max_tokens, 1),
            ("budget_tokens", budget_tokens, 1),
            ("overhead_tokens", overhead_tokens, 0),
            ("age_limit_s", age_limit_s, 0),
        ):
            if not (math.isfinite(value) and value >= least):
                raise ValueError(f"{name} is {value}, must be finite and at least {least}")
        self.max_items = max_items
        self.max_tokens = max_tokens
        self.budget_tokens = budget_tokens
        self.overhead_tokens = overhead_tokens
        self.age_limit_s = age_limit_s
        self.tokens = 0
        self.drain_tokens_per_s: float | None = None
        self._batch_tokens = self._batch_s = 0.0  # averages over the last batches
        self._arrivals = 0
        self._waiting: dict[int, Entry[Payload]] = {}  # by order; dicts keep insertion order, so arrival order too
        self._by_length: list[tuple[int, int]] = []  # tokens and order of each
        # Runs of entries that are due together: when, the first order that may still wait, and where the run stops. What was taken or
        # abandoned stays until it surfaces, or until runs outnumber what waits.
        self._by_due: list[tuple[float, int, int]] = []
        # No waiting entry's deadline is before this: most takes need not look at deadlines at all.
        self._earliest_deadline_s = math.inf

    @property
    def items(self) -> int:
        """Entries that wait."""
        return len(self._waiting)

    @property
    def longest(self) -> int:
        """Tokens of the longest entry that waits; 0 when nothing waits."""
        return self._by_length[-1][0] if self._by_length else 0

    def oldest_age_s(self, now_s: float) -> float:
        """Returns how long the entry that has waited longest has waited, seconds; 0 when nothing waits."""
        return max((now_s - entry.submitted_at_s for entry in self._waiting.values()), default=0.0)

    def put(
        self, items: Sequence[tuple[int, Payload]], *, now_s: float, deadline_at_s: float = math.inf, urgent: bool = False
    ) -> tuple[Entry[Payload], ...]:
        """Adds the entries of one submission, all or none.

        Args:
            items: `(tokens, payload)` of each text.
            now_s: the time of submission.
            deadline_at_s: when the caller stops waiting.
            urgent: due before everything else and outside the bounds; for a health check, of which one waits at a time.

        Returns:
            The entries in the order of `items`.

        Raises:
            ValueError: a text has no tokens; nothing was added.
            TooLarge: the submission would not fit even an empty queue; nothing was added.
            Overloaded: it does not fit now; nothing was added.
        """
        if any(tokens < 1 for tokens, _ in items):
            raise ValueError(f"every text needs at least one token, got lengths {[tokens for tokens, _ in items]}")
        wanted_tokens = sum(tokens for tokens, _ in items)
        if not urgent:
            self._admit(len(items), wanted_tokens)
        entries: list[Entry[Payload]] = []
        turn_tokens = TURN_BUDGETS * self.budget_tokens
        before, order, run_start = 0, self._arrivals, self._arrivals
        run_due_s = -math.inf if urgent else now_s
        for tokens, payload in items:
            due_at_s = -math.inf if urgent else now_s + self.age_limit_s * (before // turn_tokens)
            if due_at_s != run_due_s:
                heapq.heappush(self._by_due, (run_due_s, run_start, order))
                run_due_s, run_start = due_at_s, order
            entry = Entry(tokens, payload, order, now_s, due_at_s, deadline_at_s)
            entries.append(entry)
            self._waiting[order] = entry
            insort(self._by_length, (tokens, order))
            order += 1
            before += tokens
        if entries:
            heapq.heappush(self._by_due, (run_due_s, run_start, order))
            self._earliest_deadline_s = min(self._earliest_deadline_s, deadline_at_s)
        self._arrivals = order
        self.tokens += wanted_tokens
        return tuple(entries)

    def take(self, now_s: float, budget_tokens: int | None = None) -> Batch[Payload]:
        """Removes and returns the next batch, and the entries whose deadline has passed.

        Both are gone from the queue. The batch is empty only if nothing that is still in time waits.

        Args:
            now_s: the time.
            budget_tokens: of this batch, where it is to be smaller than the queue's.
        """
        expired = self._take_expired(now_s)
        if not self._waiting:
            return Batch((), expired)
        first, stop = self._window(self._position(self._first_due()), self.budget_tokens if budget_tokens is None else budget_tokens)
        entries = tuple([self._waiting.pop(order) for _, order in self._by_length[first:stop]])
        del self._by_length[first:stop]
        batch = Batch(entries, expired)
        self._left(batch.real_tokens)
        return batch

    def abandon(self, entries: Iterable[Entry[Payload]]) -> int:
        """Removes those of `entries` that still wait; returns how many did."""
        left = 0
        for entry in entries:
            if entry.order in self._waiting:
                del self._by_length[self._position(entry)]
                del self._waiting[entry.order]
                self._left(entry.tokens)
                left += 1
        return left

    def clear(self) -> tuple[Entry[Payload], ...]:
        """Removes and returns everything that waits."""
        entries = tuple(self._waiting.values())
        self.abandon(entries)
        return entries

    def drained(self, tokens: int, elapsed_s: float) -> None:
        """Learns from a finished batch: `tokens` that were asked for, and how many seconds later than the one before it was finished."""
        if not self._batch_s:
            if elapsed_s <= 0:  # a clock too coarse to have seen the batch
                return
            # A speed that is known already counts as if batches before had taken as long as this one.
            self._batch_s = elapsed_s
            self._batch_tokens = tokens if self.drain_tokens_per_s is None else self.drain_tokens_per_s * elapsed_s
        # Not the average of rates: a batch that is finished a moment after the one beside it has taken next to no time.
        self._batch_tokens += RATE_WEIGHT * (tokens - self._batch_tokens)
        self._batch_s += RATE_WEIGHT * (max(0.0, elapsed_s) - self._batch_s)
        self.drain_tokens_per_s = self._batch_tokens / self._batch_s

    def retry_after_s(self) -> float:
        """Returns when what waits now will have drained, seconds: from then on a caller finds room."""
        if not self.drain_tokens_per_s:
            return RETRY_AFTER_UNKNOWN_S
        return min(RETRY_AFTER_MOST_S, self.tokens / self.drain_tokens_per_s)

    def _admit(self, items: int, tokens: int) -> None:
        for name, wanted, held, limit in (
            ("texts", items, len(self._waiting), self.max_items),
            ("tokens", tokens, self.tokens, self.max_tokens),
        ):
            if wanted > limit:
                raise TooLarge(f"{wanted:,} {name} in one request, the scoring queue takes at most {limit:,}")
            if held + wanted > limit:
                raise Overloaded(
                    f"the scoring queue holds {held:,} of {limit:,} {name}; {wanted:,} more do not fit", retry_after_s=self.retry_after_s()
                )

    def _take_expired(self, now_s: float) -> tuple[Entry[Payload], ...]:
        if now_s < self._earliest_deadline_s:
            return ()
        expired = tuple(entry for entry in self._waiting.values() if entry.deadline_at_s <= now_s)
        self.abandon(expired)
        self._earliest_deadline_s = min((entry.deadline_at_s for entry in self._waiting.values()), default=math.inf)
        return expired

    def _first_due(self) -> Entry[Payload]:
        while True:
            due_at_s, order, stop = self._by_due[0]
            while order < stop and order not in self._waiting:
                order += 1
            if order < stop:
                heapq.heapreplace(self._by_due, (due_at_s, order, stop))
                # Of two runs that are due together the one that came first goes on, unless what is left of it came after the other.
                if self._by_due[0][1] == order:
                    return self._waiting[order]
            else:
                heapq.heappop(self._by_due)

    def _window(self, anchor: int, budget: int) -> tuple[int, int]:
        """Returns the half-open range of `_by_length` to run together: around `anchor`, one neighbour at a time.

        At each step the neighbour that leaves more real tokens per token of cost is added, while the budget holds; of all
        the ranges passed, the one with the most real tokens per token of cost is returned, the larger one if they are equal.
        """
        waiting, end, overhead = self._by_length, len(self._by_length), self.overhead_tokens
        first, stop = anchor, anchor + 1
        real = longest = waiting[anchor][0]
        best, best_yield = (first, stop), real / (overhead + real)
        n = 1
        while True:
            n += 1
            shorter = longer = 0
            shorter_yield = longer_yield = 0.0
            if first and longest * n <= budget:
                shorter = waiting[first - 1][0]
                shorter_yield = (real + shorter) / (overhead + longest * n)
            if stop < end:
                longer = waiting[stop][0]
                if longer * n <= budget:
                    longer_yield = (real + longer) / (overhead + longer * n)
            if shorter_yield == longer_yield == 0.0:
                return best
            if shorter_yield >= longer_yield:
                first -= 1
                real += shorter
            else:
                stop += 1
                real += longer
                longest = longer
            if (step_yield := max(shorter_yield, longer_yield)) >= best_yield:
                best, best_yield = (first, stop), step_yield

    def _position(self, entry: Entry[Payload]) -> int:
        return bisect_left(self._by_length, (entry.tokens, entry.order))

    def _left(self, tokens: int) -> None:
        self.tokens -= tokens
        if len(self._by_due) > 2 * len(self._waiting) + 64:
            self._by_due = [(waiting.due_at_s, waiting.order, waiting.order + 1) for waiting in self._waiting.values()]
            heapq.heapify(self._by_due)
