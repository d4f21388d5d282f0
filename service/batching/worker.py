"""The one thread that owns a scorer: batches in through a handover, outcomes out through two callbacks.

    hand_over(items) ──> run ──(raised)──> halves, down to the one text at fault
                          └──> tell_done(BatchRun)      after each batch, on the worker's thread
                               tell_end(error)     once: closed (None), or died of what is not an `Exception`

It knows texts and rows, no callers, no deadlines, no event loop.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from attune.models.seam.families import Row
from attune.models.seam.text import Encoded
from attune.service.batching.session import Scorer

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BatchRun:
    """One batch that was run: for each text its row or what the scorer raised on it alone, and the times, seconds."""

    results: tuple[Row | Exception, ...]
    started_at_s: float
    finished_at_s: float

    @property
    def elapsed_s(self) -> float:
        """Time that the worker spent, retries by halves included."""
        return self.finished_at_s - self.started_at_s


class ScorerWorker:
    """A daemon thread around one scorer.

    Args:
        scorer: used by this thread alone from `start` on.
        tell_done: called on the worker's thread after each batch.
        tell_end: called once on the worker's thread when it ends: with None after `close`, else with what killed it.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        scorer: Scorer,
        *,
        tell_done: Callable[[BatchRun], None],
        tell_end: Callable[[BaseException | None], None],
        clock: Callable[[], float],
    ) -> None:
        self._scorer = scorer
        self._tell_done = tell_done
        self._tell_end = tell_end
        self._clock = clock
        self._inbox: queue.SimpleQueue[tuple[Encoded, ...] | None] = queue.SimpleQueue()
        # A daemon, so that a scorer that hangs in foreign code cannot keep the process from ending.
        self._thread = threading.Thread(target=self._work, name="attune-scorer", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def hand_over(self, items: tuple[Encoded, ...]) -> None:
        """Queues one batch; outcomes come in the order of handing over."""
        self._inbox.put(items)

    def close(self) -> None:
        """Lets the thread end once it has run what was handed over."""
        self._inbox.put(None)

    def _work(self) -> None:
        try:
            while (items := self._inbox.get()) is not None:
                started_at_s = self._clock()
                results = run_by_halves(self._scorer, items)
                self._tell_done(BatchRun(tuple(results), started_at_s, self._clock()))
        except BaseException as error:  # whatever ends this thread, those who wait for it must hear of it
            LOG.critical("the scorer's worker died", exc_info=error)
            self._tell_end(error)
        else:
            self._tell_end(None)


def run_by_halves(scorer: Scorer, items: Sequence[Encoded]) -> list[Row | Exception]:
    """Returns for each text its row, or the exception that the scorer raises on that text alone.

    A batch that fails is run again as two halves, so one bad text among n costs about `2 log2 n` further runs.
    """
    try:
        results: list[Row | Exception] = [row for _, row in zip(items, scorer.run(items), strict=True)]
    except Exception as error:  # noqa: BLE001  # the runtime's exceptions share no base, and each is delivered to its caller
        if len(items) == 1:
            return [error]
        LOG.warning("a batch of %d texts failed, trying halves: %s", len(items), error)
        middle = len(items) // 2
        return run_by_halves(scorer, items[:middle]) + run_by_halves(scorer, items[middle:])
    return results
