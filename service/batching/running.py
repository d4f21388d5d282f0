"""The batches that a worker has, whether it may be given another, and by which scorer that one is run.

    fewer full ones wait than there are cores ─> `scorer`, all cores, one after the other       a GPU has `scorer` for every batch
    a full one waits for every core           ─> `beside`, a core each

On all cores a batch takes less time; on a core each, batches take less work, since threads of one run wait for each other. But
cores for which there is no full batch would stand idle, and small batches take more work than one of all their texts.
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
        self._alone = False

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

    def has_room(self, *, full: int) -> bool:
        """Returns whether the worker may be given a batch while `full` full ones wait: one if it has none, else full ones and one more."""
        running = len(self._batches)
        if not running:
            return True
        if self._alone:  # once there is one for every core, this one ends first
            return 0 < full < self._at_once and running < 1 + BATCHES_READY
        return full > 0 and running < self._at_once + BATCHES_READY

    def begin(self, batch: Batch[Text[Scored]], *, full: int) -> tuple[int, Scorer[Scored], bool]:
        """Returns the number of the batch from here on, what is to run it, and whether it has all cores.

        Args:
            batch: taken from the queue.
            full: how many full ones still wait there.
        """
        if not self._batches:
            self._alone = self._beside is not None and full < self._at_once - 1
        self._last += 1
        self._batches[self._last] = batch
        return self._last, self._scorer if self._beside is None or self._alone else self._beside, self._alone

    def end(self, number: int) -> Batch[Text[Scored]] | None:
        """Returns the batch of this number, which is done; None if `clear` took it."""
        return self._batches.pop(number, None)

    def clear(self) -> list[Batch[Text[Scored]]]:
        """Returns all batches, which will not be done."""
        batches = list(self._batches.values())
        self._batches.clear()
        return batches
