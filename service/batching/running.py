"""The batches that a worker has, whether it may be given another, how large that one is, and by which scorer it is run.

    less waits than keeps every core busy  ─> `scorer`, all cores, one batch after the other      a GPU has `scorer` for every batch
    enough for every core                  ─> `beside`: what waits is shared out, a batch for each core that is free
    nobody waits for what waits            ─> `beside`: a small batch on one core, where nothing else runs

On all cores a batch takes less time, if nothing else runs there; on a core each, batches take less work, since threads of one run
wait for each other at every operator, and all of them for the one whose core is used by others as well (the event loop, for one).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic

from attune.service.batching.queue import Batch
from attune.service.batching.session import Scored, Scorer
from attune.service.batching.submission import Submission

# A batch that is full already gains nothing by waiting: it is formed while others run, and the worker never waits for the loop.
BATCHES_READY = 1
# Tokens for every core from which what waits is shared out: with less, one run on all cores is over before batches of a core each are.
LEAST_SHARE = 32
# Padded tokens of a batch for which nobody waits, where cores are shared: it cannot be ended, and has a core of those who come meanwhile.
SPARE_TOKENS = 128
# Cores that all cores are worth to one batch, as a share of their number; from a longer text than that allows for, the rest would wait.
WORTH_TOGETHER = 0.8


@dataclass(frozen=True, slots=True)
class WaitingTexts:
    """What waits for a batch: how many texts, their tokens, and those of the longest."""

    texts: int
    tokens: int
    longest: int


@dataclass(frozen=True, slots=True)
class NextBatch:
    """What the worker may be given: padded tokens of it, whether it has all cores, and whether it is of texts that nobody waits for."""

    budget_tokens: int
    alone: bool = False
    spare: bool = False


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
        self._batches: dict[int, Batch[Submission[Scored]]] = {}
        self._last = 0
        self._alone = False
        self._spare: set[int] = set()

    def __len__(self) -> int:
        return len(self._batches)

    @property
    def shared(self) -> bool:
        """Whether some batches have all cores and others one each."""
        return self._beside is not None

    @property
    def items(self) -> int:
        """Texts in all batches."""
        return sum(len(batch.texts) for batch in self._batches.values())

    def turn(self, asked: WaitingTexts, spare: WaitingTexts = WaitingTexts(0, 0, 0)) -> NextBatch | None:
        """Returns what the next batch may be while so much waits; None where the worker has enough.

        It is given one if it has none; full ones and one more while others run; and where cores are shared, one for every core.

        Args:
            asked: what somebody waits for.
            spare: what nobody waits for: one batch of it runs, where nothing else does.
        """
        if asked.texts or not spare.texts:
            return self._turn_of_asked(asked)
        if self._batches:
            return None
        return NextBatch(self._budget_tokens if self._beside is None else min(self._budget_tokens, SPARE_TOKENS), spare=True)

    def _turn_of_asked(self, waiting: WaitingTexts) -> NextBatch | None:
        running, whole = len(self._batches), self._budget_tokens
        ready = NextBatch(whole, self._alone) if waiting.tokens >= whole else None  # a full one may stand ready behind those that run
        if self._beside is None:
            if not running:
                return NextBatch(whole)
            return ready if running < self._at_once + BATCHES_READY else None
        shared = self._is_enough_for_all(waiting)
        if not running and not shared:
            return NextBatch(whole, alone=True)
        if running and self._alone:  # once there is enough for every core, this one ends first
            return ready if not shared and running < 1 + BATCHES_READY else None
        if running >= self._at_once:
            return ready if running < self._at_once + BATCHES_READY else None
        cores = min(self._at_once - running, waiting.texts, waiting.tokens // LEAST_SHARE)
        if self._spare and running == len(self._spare):  # nobody waits for what runs: whoever comes has a core at once
            cores = max(cores, min(1, waiting.texts))
        if not cores:
            return None
        # The last one has room for padding.
        return NextBatch(min(whole, -(-waiting.tokens // cores)) if cores > 1 else whole)

    def _is_enough_for_all(self, waiting: WaitingTexts) -> bool:
        least = max(LEAST_SHARE, WORTH_TOGETHER * waiting.longest)
        return waiting.texts >= self._at_once and waiting.tokens >= self._at_once * least

    def begin(self, batch: Batch[Submission[Scored]], turn: NextBatch) -> tuple[int, Scorer[Scored]]:
        """Returns the number of the batch from here on, and what is to run it.

        Args:
            batch: taken from the queue for this turn.
            turn: as it was given.
        """
        self._alone = turn.alone
        self._last += 1
        self._batches[self._last] = batch
        if turn.spare:
            self._spare.add(self._last)
        return self._last, self._scorer if self._beside is None or turn.alone else self._beside

    def end(self, number: int) -> Batch[Submission[Scored]] | None:
        """Returns the batch of this number, which is done; None if `clear` took it."""
        self._spare.discard(number)
        return self._batches.pop(number, None)

    def clear(self) -> list[Batch[Submission[Scored]]]:
        """Returns all batches, which will not be done."""
        batches = list(self._batches.values())
        self._batches.clear()
        self._spare.clear()
        return batches
