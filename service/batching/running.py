"""The batches that a worker has, whether it may be given another, and by which scorer that one is run.

    no full one waits behind it ─> `scorer`, all cores, and nothing beside it          a GPU has `scorer` for every batch
    full ones wait              ─> `beside`, a core each, as many as there are cores

On all cores a batch takes less time; on a core each, batches take less work, since threads of one run wait for each other. But
small batches beside each other take more work than one of all their texts, so what is not full waits for the others.
"""

from __future__ import annotations

from typing import Generic

from attune.service.batching.queue import Batch
from attune.service.batching.session import Scored, Scorer
from attune.service.batching.submission import Text

# A batch that is full already gains nothing by waiting: it is formed while others run, and the worker never waits for the loop.
BATCHES_READY = 1


class RunningBatches(Generic[Scored]):
    """See the module; nothing here waits or calls.

    Args:
        scorer: runs a batch with all that the device has.
        beside: runs batches that are under way together; None where `scorer` does.
        at_once: batches that may run together.
    """

    def __init__(self, scorer: Scorer[Scored], beside: Scorer[Scored] | None, at_once: int) -> None:
        self._scorer = scorer
        self._beside = beside
        self._at_once = at_once
        self._batches: dict[int, Batch[Text[Scored]]] = {}
        self._last = 0
        self._spread = False

    def __len__(self) -> int:
        return len(self._batches)

    @property
    def items(self) -> int:
        """Texts in all batches."""
        return sum(len(batch.entries) for batch in self._batches.values())

    def has_room(self, *, full: bool) -> bool:
        """Returns whether the worker may be given a batch: one if it has none, and beside others, or to have ready, one that is full."""
        running = len(self._batches)
        return not running or (full and not self._spread and running < self._at_once + BATCHES_READY)

    def begin(self, batch: Batch[Text[Scored]], *, another: bool) -> tuple[int, Scorer[Scored]]:
        """Returns the number under which the batch is known from here on, and what is to run it.

        Args:
            batch: taken from the queue.
            another: whether a full one still waits there.
        """
        self._spread = self._beside is not None and not self._batches and not another
        self._last += 1
        self._batches[self._last] = batch
        return self._last, self._scorer if self._beside is None or self._spread else self._beside

    def end(self, number: int) -> Batch[Text[Scored]] | None:
        """Returns the batch of this number, which is done; None if `clear` took it."""
        return self._batches.pop(number, None)

    def clear(self) -> list[Batch[Text[Scored]]]:
        """Returns all batches, which will not be done."""
        batches = list(self._batches.values())
        self._batches.clear()
        return batches
