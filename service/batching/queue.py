"""What waits for the scorer, and which of it forms the next batch: a synchronous structure without clock, thread or task.

    put(...)      texts of one asker, all or none, or Overloaded / TooLarge with the numbers
    take(now_s)   the next batch, and the texts whose deadline passed while they waited
    abandon(...)  texts whose caller left; their room is free at once
    drained(...)  what a finished batch taught about the speed of draining

A batch is a run of neighbours in length around the text that is due first. It costs `overhead_tokens + longest * n`
(padded tokens), never over the budget, or what of it the taker asks for, unless one text alone is. It stops growing when
the padding that further texts cause costs more than a separate batch. A text is nothing but its length, whose it is and which
of theirs: on a GPU a text costs ten microseconds, so there is no object for each.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice, repeat
from typing import Generic, Protocol, TypeVar

from attune.service.errors import Overloaded, TooLarge


class Asker(Protocol):
    """Whoever puts texts: when that was, and when they stop waiting; seconds on the clock of the one who calls the queue."""

    submitted_at_s: float
    deadline_at_s: float


Owner = TypeVar("Owner", bound=Asker)

# Tokens of one submission that are due together, in budgets: an ordinary request of a few texts is one turn on any device.
TURN_BUDGETS = 4
# Weight of the newest batch in the drain rate, tokens of about ten batches by their seconds.
RATE_WEIGHT = 0.1
# Before the first batch there is no rate to estimate from; afterwards an estimate above this says nothing more useful.
RETRY_AFTER_UNKNOWN_S = 1.0
RETRY_AFTER_MOST_S = 60.0


@dataclass(frozen=True, slots=True)
class Batch(Generic[Owner]):
    """What `take` returns; a text is told by its owner and its place among the owner's.

    Attributes:
        texts: to be run together, shortest first.
        real_tokens: that somebody asked for.
        padded_tokens: that the scorer computes: the longest text times the number of texts.
        expired: texts to be failed.
    """

    texts: Sequence[tuple[Owner, int]] = ()
    real_tokens: int = 0
    padded_tokens: int = 0
    expired: Sequence[tuple[Owner, int]] = ()


class BatchQueue(Generic[Owner]):
    """A bounded queue that hands out batches under a budget of padded tokens.

    Turns: the text that is due first is in every next batch, so nothing starves whatever its length. A text is due when
    it is submitted, plus `age_limit_s` for every `TURN_BUDGETS` budgets of tokens that precede it in its own submission: a
    large submission takes its first turn, and what it brings beyond that yields to whoever comes within the age limit.

    Args:
        max_items: texts that may wait at one time.
        max_tokens: tokens that may wait at one time.
        budget_tokens: padded tokens of a batch; a longer text forms a batch alone.
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
        # A text's order is its number among all that ever came. Dicts keep the order of arrival.
        self._arrivals = 0
        self._tokens_of: dict[int, int] = {}  # by order
        # Tokens, then order; no length without texts. A plain dict whose first texts were taken is walked from where they lay.
        self._by_length: dict[int, OrderedDict[int, tuple[Owner, int]]] = {}
        self._lengths: list[int] = []  # of `_by_length`, sorted
        # Heaps of runs of texts that are due, or late, together: when, the first order that may still wait, and where the run stops.
        # What was taken or abandoned stays until it surfaces, or until runs outnumber what waits.
        self._by_due: list[tuple[float, int, int]] = []
        self._by_deadline: list[tuple[float, int, int]] = []

    @property
    def items(self) -> int:
        """Texts that wait."""
        return len(self._tokens_of)

    @property
    def longest(self) -> int:
        """Tokens of the longest text that waits; 0 when nothing waits."""
        return self._lengths[-1] if self._lengths else 0

    def oldest(self) -> Owner | None:
        """Returns whose text came first of those that wait; None when nothing waits."""
        for order, tokens in self._tokens_of.items():
            return self._by_length[tokens][order][0]
        return None

    def waiting_of(self, orders: Iterable[int]) -> list[tuple[int, int]]:
        """Returns those of these texts that still wait: the place of each among its owner's, and its tokens."""
        waiting, by_length = self._tokens_of, self._by_length
        return [(by_length[waiting[order]][order][1], waiting[order]) for order in orders if order in waiting]

    def has_room(self, lengths: Sequence[int]) -> bool:
        """Returns whether `put` would admit texts of these lengths now."""
        return self.items + len(lengths) <= self.max_items and self.tokens + sum(lengths) <= self.max_tokens

    def put(self, owner: Owner, lengths: Sequence[int], *, indices: Sequence[int] | None = None, urgent: bool = False) -> range:
        """Adds texts of one owner, all or none.

        Args:
            owner: whose they are; submitted as it says.
            lengths: tokens of each text.
            indices: its place among the owner's texts; by default they are all of them.
            urgent: due before everything else and outside the bounds; for a health check, of which one waits at a time.

        Returns:
            The texts in the order of `lengths`, as `abandon` takes them.

        Raises:
            ValueError: a text has no tokens; nothing was added.
            TooLarge: the submission would not fit even an empty queue; nothing was added.
            Overloaded: it does not fit now; nothing was added.
        """
        if min(lengths, default=1) < 1:
            raise ValueError(f"every text needs at least one token, got lengths {[*lengths]}")
        wanted_tokens = sum(lengths)
        if not urgent:
            self._admit(len(lengths), wanted_tokens)
        orders = range(self._arrivals, self._arrivals + len(lengths))
        places = range(len(lengths)) if indices is None else indices
        by_length = self._by_length
        for order, tokens, text in zip(orders, lengths, zip(repeat(owner), places), strict=True):
            if (alike := by_length.get(tokens)) is not None:
                alike[order] = text
            else:
                by_length[tokens] = OrderedDict(((order, text),))
                insort(self._lengths, tokens)
        self._tokens_of.update(zip(orders, lengths, strict=True))
        self._arrivals = orders.stop
        self.tokens += wanted_tokens
        if orders:
            due_at_s = -math.inf if urgent else owner.submitted_at_s
            if wanted_tokens <= TURN_BUDGETS * self.budget_tokens:
                heapq.heappush(self._by_due, (due_at_s, orders.start, orders.stop))
            else:
                self._line_up(due_at_s, orders.start, lengths)
            if owner.deadline_at_s < math.inf:
                heapq.heappush(self._by_deadline, (owner.deadline_at_s, orders.start, orders.stop))
        return orders

    def take(self, now_s: float, budget_tokens: int | None = None) -> Batch[Owner]:
        """Removes and returns the next batch, and the texts whose deadline has passed.

        Both are gone from the queue. The batch is empty only if nothing that is still in time waits.

        Args:
            now_s: the time.
            budget_tokens: of this batch, where it is to be smaller than the queue's.
        """
        expired = self._take_expired(now_s)
        if not self._tokens_of:
            return Batch(expired=expired)
        first, stop = self._first_due()
        window = self._window(self._tokens_of[first], self.budget_tokens if budget_tokens is None else budget_tokens)
        texts: list[tuple[Owner, int]] = []
        emptied, real = [], 0
        for tokens, many in window:
            alike = self._by_length[tokens]
            real += tokens * many
            if many == len(alike):
                texts += alike.values()
                emptied.append(tokens)
                taken: Iterable[int] = self._by_length.pop(tokens)
            else:
                # Those that are due first: one text a batch of a request whose others are as long as what lies before them would be slow.
                due = [order for order in range(first, min(stop, first + many)) if order in alike]
                texts += [alike.pop(order) for order in due]
                others = list(islice(alike, many - len(due)))
                texts += [alike.pop(order) for order in others]
                taken = due + others
            for order in taken:
                del self._tokens_of[order]
        if emptied:  # neighbours, since at most the shortest or the longest of a window has others left
            at = bisect_left(self._lengths, emptied[0])
            del self._lengths[at : at + len(emptied)]
        self._left(real)
        return Batch(texts, real, window[-1][0] * len(texts), expired)

    def abandon(self, orders: Iterable[int]) -> int:
        """Removes those texts that still wait; returns how many did."""
        left = tokens_left = 0
        for order in orders:
            if (tokens := self._tokens_of.pop(order, None)) is not None:
                alike = self._by_length[tokens]
                del alike[order]
                if not alike:
                    del self._by_length[tokens]
                    del self._lengths[bisect_left(self._lengths, tokens)]
                left += 1
                tokens_left += tokens
        self._left(tokens_left)
        return left

    def clear(self) -> Sequence[tuple[Owner, int]]:
        """Removes and returns everything that waits, in order of arrival."""
        texts = [self._by_length[tokens][order] for order, tokens in self._tokens_of.items()]
        self.abandon(tuple(self._tokens_of))
        return texts

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
            ("texts", items, len(self._tokens_of), self.max_items),
            ("tokens", tokens, self.tokens, self.max_tokens),
        ):
            if wanted > limit:
                raise TooLarge(f"{wanted:,} {name} in one request, the scoring queue takes at most {limit:,}")
            if held + wanted > limit:
                raise Overloaded(
                    f"the scoring queue holds {held:,} of {limit:,} {name}; {wanted:,} more do not fit", retry_after_s=self.retry_after_s()
                )

    def _line_up(self, due_at_s: float, first: int, lengths: Sequence[int]) -> None:
        """Adds the turns of a large submission that is due from `due_at_s` on, and whose texts are numbered from `first`."""
        turn_tokens, before, turn, start = TURN_BUDGETS * self.budget_tokens, 0, 0, first
        for order, tokens in enumerate(lengths, first):
            if before // turn_tokens != turn:
                heapq.heappush(self._by_due, (due_at_s + self.age_limit_s * turn, start, order))
                turn, start = before // turn_tokens, order
            before += tokens
        heapq.heappush(self._by_due, (due_at_s + self.age_limit_s * turn, start, first + len(lengths)))

    def _take_expired(self, now_s: float) -> Sequence[tuple[Owner, int]]:
        late: list[int] = []
        while self._by_deadline and self._by_deadline[0][0] <= now_s:
            _, order, stop = heapq.heappop(self._by_deadline)
            late += [each for each in range(order, stop) if each in self._tokens_of]
        if not late:
            return ()
        texts = [self._by_length[self._tokens_of[order]][order] for order in late]
        self.abandon(late)
        return texts

    def _first_due(self) -> tuple[int, int]:
        """Returns the order of the text that is due first, and where the run of those that are due with it stops."""
        while True:
            due_at_s, order, stop = self._by_due[0]
            while order < stop and order not in self._tokens_of:
                order += 1
            if order < stop:
                heapq.heapreplace(self._by_due, (due_at_s, order, stop))
                # Of two runs that are due together the one that came first goes on, unless what is left of it came after the other.
                if self._by_due[0][1] == order:
                    return order, stop
            else:
                heapq.heappop(self._by_due)

    def _window(self, anchor: int, budget: int) -> Sequence[tuple[int, int]]:
        """Returns which lengths to run together, shortest first, and how many texts of each, around the length `anchor`.

        At each step that of the two neighbouring lengths joins of which one more text leaves more real tokens per token of cost, with as
        many of its texts as the budget allows; of all that was passed, what has the most real tokens per token of cost is returned, the
        larger one if they are equal. Within a length each further text changes that share in the same direction.
        """
        lengths, by_length, overhead = self._lengths, self._by_length, self.overhead_tokens
        low = bisect_left(lengths, anchor)
        high, end = low + 1, len(lengths)
        longest, n = anchor, min(len(by_length[anchor]), max(1, budget // anchor))
        real = longest * n
        steps, best, best_yield = [(anchor, n)], 1, real / (overhead + real)
        while True:
            one_more = n + 1
            shorter = lengths[low - 1] if low and longest * one_more <= budget else 0
            longer = lengths[high] if high < end and lengths[high] * one_more <= budget else 0
            shorter_yield = (real + shorter) / (overhead + longest * one_more) if shorter else 0.0
            longer_yield = (real + longer) / (overhead + longer * one_more) if longer else 0.0
            if not shorter and not longer:
                return sorted(steps[:best])
            if shorter_yield >= longer_yield:
                low, joins = low - 1, shorter
            else:
                high, joins, longest = high + 1, longer, longer
            many = min(len(by_length[joins]), budget // longest - n)
            n += many
            real += joins * many
            steps.append((joins, many))
            if (step_yield := real / (overhead + longest * n)) >= best_yield:
                best, best_yield = len(steps), step_yield

    def _left(self, tokens: int) -> None:
        self.tokens -= tokens
        most = 2 * len(self._tokens_of) + 64
        if len(self._by_due) > most:
            self._by_due = self._that_wait(self._by_due)
        if len(self._by_deadline) > most:
            self._by_deadline = self._that_wait(self._by_deadline)

    def _that_wait(self, runs: Iterable[tuple[float, int, int]]) -> list[tuple[float, int, int]]:
        """Returns a heap of those runs of which a text waits, each from its first one that does."""
        kept = []
        for at_s, order, stop in runs:
            for each in range(order, stop):
                if each in self._tokens_of:
                    kept.append((at_s, each, stop))
                    break
        heapq.heapify(kept)
        return kept
