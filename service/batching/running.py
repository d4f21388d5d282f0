"""The batches that a worker has, whether it may be given another, how large that one is, and by which scorer it is run.

    fewer texts wait than there are cores ─> `scorer`, all cores, one batch after the other       a GPU has `scorer` for every batch
    a text and more for every core        ─> `beside`: what waits is shared out, a batch for each core

On all cores a batch takes less time, if nothing else runs there; on a core each, batches take less work, since threads of one run
wait for each other at every operator, and all of them for the one whose core is used by others as well (the event loop, for one).
A core that is done before the others takes what waits once it is as much as its share was: smaller batches take more work.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic

from attune.service.batching.queue import Batch
from attune.service.batching.session import Scored, Scorer
from attune.service.batching.submission import Text

# A batch that is full already gains nothing by waiting: it is formed while others run, and the worker never waits for the loop.
BATCHES_READY = 1
# Tokens for every core from which what waits is shared out: with less, one run on all cores is over before batches of a core each are.
LEAST_SHARE = 32


@dataclass(frozen=True, slots=True)
class NextBatch:
    """The next batch: padded tokens it may have, whether it has all cores, and for how many cores the rest is shared out after it."""

    budget_tokens: int
    alone: bool = False
    shares_left: int = 0


class RunningBatches(Generic[Scored]):
    """See the module; nothing here waits or calls.

    Args:
        scorer: runs a batch with all that the device has.
        beside: runs batches that are under way together; None where `scorer` does.
        at_once: batches that may run together.
        budget_tokens: padded tokens of a batch.
    """

    def __init__(self, scorer: Scorer[Scored], beside: Scorer[Scored] | None, at_once: int, budget_tokens: int) -> None:
        self._scorer = scorer
        self._beside = beside
        self._at_once = at_once
        self._budget_tokens = budget_tokens
        self._batches: dict[int, Batch[Text[Scored]]] = {}
        self._last = 0
        self._alone = False
        self._shares_left = 0
        self._share_tokens = 0

    def __len__(self) -> int:
        return len(self._batches)

    @property
    def shared(self) -> bool:
        """Whether some batches have all cores and others one each."""
        return self._beside is not None

    @property
    def items(self) -> int:
        """Texts in all batches."""
        return sum(len(batch.entries) for batch in self._batches.values())

    def turn(self, *, texts: int, tokens: int) -> NextBatch | None:
        """Returns what the next batch may be while so many texts and tokens wait; None where the worker has enough.

        It is given one if it has none; full ones and one more while others run; and where cores are shared, one for every core.
        """
        running, full = len(self._batches), tokens >= self._budget_tokens
        if self._beside is None:
            return NextBatch(self._budget_tokens) if not running or (full and running < self._at_once + BATCHES_READY) else None
        share = texts >= self._at_once and tokens >= self._at_once * LEAST_SHARE
        if not running:
            return self._share_of(tokens, self._at_once) if share else NextBatch(self._budget_tokens, alone=True)
        if self._alone:  # once there is something for every core, this one ends first
            return NextBatch(self._budget_tokens, alone=True) if full and not share and running < 1 + BATCHES_READY else None
        if self._shares_left and texts:
            return self._share_of(tokens, self._shares_left)
        most = self._at_once + BATCHES_READY if full else self._at_once
        return NextBatch(self._budget_tokens) if running < most and tokens >= min(self._share_tokens, self._budget_tokens) else None

    def _share_of(self, tokens: int, cores: int) -> NextBatch:
        """Returns a core's part of what waits, the last one's with room for padding."""
        part = -(-tokens // cores) if cores > 1 else self._budget_tokens
        return NextBatch(min(part, self._budget_tokens), shares_left=cores - 1)

    def begin(self, batch: Batch[Text[Scored]], turn: NextBatch) -> tuple[int, Scorer[Scored]]:
        """Returns the number of the batch from here on, and what is to run it.

        Args:
            batch: taken from the queue for this turn.
            turn: as it was given.
        """
        if not self._batches:
            self._share_tokens = turn.budget_tokens
        self._alone, self._shares_left = turn.alone, turn.shares_left
        self._last += 1
        self._batches[self._last] = batch
        return self._last, self._scorer if self._beside is None or turn.alone else self._beside

    def end(self, number: int) -> Batch[Text[Scored]] | None:
        """Returns the batch of this number, which is done; None if `clear` took it."""
        return self._batches.pop(number, None)

    def clear(self) -> list[Batch[Text[Scored]]]:
        """Returns all batches, which will not be done."""
        batches = list(self._batches.values())
        self._batches.clear()
        return batches
