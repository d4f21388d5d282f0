"""The threads that run scorers: batches in through a handover, outcomes out through two callbacks.

    hand_over(number, scorer, items) ──> run ──(raised)──> halves, down to the one text at fault
                                  └──> tell_done(BatchRun)      after each batch, on the thread that ran it
                                       tell_end(error)     once: closed (None), or died of what is not an `Exception`

It knows texts and rows, no callers, no deadlines, no event loop.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeAlias

from attune.models.seam.padding import TokenRow
from attune.service.batching.session import Scored, Scorer

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BatchRun(Generic[Scored]):
    """One batch that was run, by its number: for each text its row or what the scorer raised on it alone, and the times, seconds."""

    number: int
    results: Sequence[Scored | Exception]
    started_at_s: float
    finished_at_s: float

    @property
    def elapsed_s(self) -> float:
        """Time that the worker spent, retries by halves included."""
        return self.finished_at_s - self.started_at_s


_Inbox: TypeAlias = "queue.SimpleQueue[tuple[int, Scorer[Scored], Sequence[TokenRow]] | None]"


class ScorerWorker(Generic[Scored]):
    """Daemon threads that run batches.

    Args:
        threads: batches that are run at once.
        alone: whether one more thread is for batches that want all cores. Always the same one: where threads took
            turns, a text alone took a tenth longer.
        tell_done: called on a worker's thread after each batch.
        tell_end: called once on a worker's thread when all have ended: with None after `close`, else at once with what killed one.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        *,
        threads: int,
        alone: bool = False,
        tell_done: Callable[[BatchRun[Scored]], None],
        tell_end: Callable[[BaseException | None], None],
        clock: Callable[[], float],
    ) -> None:
        self._tell_done = tell_done
        self._tell_end = tell_end
        self._clock = clock
        self._ending = threading.Lock()
        self._inbox: _Inbox[Scored] = queue.SimpleQueue()
        self._alone_inbox: _Inbox[Scored] = queue.SimpleQueue()
        self._inboxes = [self._inbox] * threads + [self._alone_inbox] * alone
        self._working = len(self._inboxes)
        # Daemons, so that a scorer that hangs in foreign code cannot keep the process from ending.
        self._threads = [threading.Thread(target=self._work, args=(inbox,), name="attune-scorer", daemon=True) for inbox in self._inboxes]

    @property
    def alive(self) -> bool:
        """Whether every thread runs."""
        return all(thread.is_alive() for thread in self._threads)

    def start(self) -> None:
        """Starts the threads."""
        for thread in self._threads:
            thread.start()

    def hand_over(self, number: int, scorer: Scorer[Scored], items: Sequence[TokenRow], *, alone: bool = False) -> None:
        """Queues one batch for a scorer, which only these threads use; batches of a kind begin in the order of handing over.

        Args:
            number: of the batch, for `tell_done`.
            scorer: to run it.
            items: its texts.
            alone: whether it is for the thread of batches that want all cores.
        """
        (self._alone_inbox if alone else self._inbox).put((number, scorer, items))

    def close(self) -> None:
        """Lets the threads end once they have run what was handed over."""
        for inbox in self._inboxes:
            inbox.put(None)

    def _work(self, inbox: _Inbox[Scored]) -> None:
        died: BaseException | None = None
        try:
            while (handed := inbox.get()) is not None:
                number, scorer, items = handed
                started_at_s = self._clock()
                results = run_by_halves(scorer, items)
                self._tell_done(BatchRun(number, results, started_at_s, self._clock()))
        except BaseException as error:  # whatever ends this thread, those who wait for it must hear of it
            LOG.critical("the scorer's worker died", exc_info=error)
            died = error
        with self._ending:
            last = self._working == 1
            told, self._working = self._working <= 0, 0 if died is not None else self._working - 1
        if not told and (last or died is not None):
            self._tell_end(died)


def run_by_halves(scorer: Scorer[Scored], items: Sequence[TokenRow]) -> Sequence[Scored | Exception]:
    """Returns for each text its row, or the exception that the scorer raises on that text alone.

    A batch that fails is run again as two halves, so one bad text among n costs about `2 log2 n` further runs.
    """
    try:
        rows = scorer.run(items)
        if len(rows) != len(items):
            raise ValueError(f"the scorer gave {len(rows)} rows for {len(items)} texts")  # noqa: TRY301 - as bad as one that raises
    except Exception as error:  # noqa: BLE001  # the runtime's exceptions share no base, and each is delivered to its caller
        if len(items) == 1:
            return [error]
        LOG.warning("a batch of %d texts failed, trying halves: %s", len(items), error)
        middle = len(items) // 2
        return [*run_by_halves(scorer, items[:middle]), *run_by_halves(scorer, items[middle:])]
    return rows
