"""The one thread that owns a local model, and the bounded queue in front of it.

    loop:    submit ──> waiting ──┐                               ┌──> job.tell
    thread:                       └─ take · admit · step · ... ───┘  one wake-up of the loop a step
    loop:    leave ───> out of the queue at once, out of the batch before its next step

Shared state is a few fields under one condition that is never held while computing. Whatever ends the thread, nobody is
left waiting. Knows jobs, not members' settings.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from attune.service.cores import usable_cores
from attune.service.errors import AttuneError, DeadlineExceeded, Overloaded
from attune.service.members.local_decode import Decoder, Report, Task
from attune.service.members.local_model import LoadedModel
from attune.service.members.member import Event, OneMemberFailed

SMALL_BYTES = 32 * 2**20


@dataclass(slots=True, eq=False)
class Job(Task):
    """A task with the way back to its caller.

    Args:
        deadline_s: when the caller stops waiting, in seconds of the loop's clock.
        loop: where the caller waits.
        tell: called on that loop with each piece, and at last with the `Finish` or the failure.
        left: the caller is gone; set by the loop, read by the worker.
    """

    deadline_s: float
    loop: asyncio.AbstractEventLoop
    tell: Callable[[Event | AttuneError], None]
    left: bool = False

    def too_late(self) -> DeadlineExceeded:
        """Returns the error of a job whose deadline has passed."""
        return DeadlineExceeded(f"member {self.member!r}: the deadline passed before the answer was complete")


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """How busy an engine is: requests that wait, and rows in the batch, each with its bound."""

    waiting: int
    max_waiting: int
    rows: int
    max_batch: int


class DecodingWorker:
    """Decodes the jobs of a queue in a thread of its own, until it is closed.

    Args:
        model: what computes; nobody else may run it.
        threads: torch's threads for one forward pass; None takes one for weights below 32 MB, and for others torch's choice, at most the
            cores that may be used.
        max_batch: rows decoded together.
        max_waiting: jobs that may wait for a row.
        prefill_tokens: padded tokens of newcomers read at once.
        clock: the clock of the deadlines.
    """

    def __init__(
        self,
        model: LoadedModel,
        *,
        threads: int | None,
        max_batch: int,
        max_waiting: int,
        prefill_tokens: int,
        clock: Callable[[], float],
    ) -> None:
        # Of a small model a product takes as long as it takes two threads to wait for each other where the cores are shared.
        unless_told = min(usable_cores(), _threads_of_torch())
        self._threads = threads or (1 if model.bytes < SMALL_BYTES else unless_told)
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._clock = clock
        self._changed = threading.Condition()  # guards what follows
        self._waiting: deque[Job] = deque()
        self._pings: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self._rows: tuple[Job, ...] = ()
        self._closing = False
        self._end: str | None = None  # why it no longer runs
        decoder: Decoder[Job] = Decoder(model, prefill_tokens)
        self._thread = threading.Thread(target=self._work, args=(decoder,), name="attune-local-member", daemon=True)
        self._thread.start()

    # --- called on the event loop ---------------------------------------------------------------------------------

    def load_now(self) -> EngineLoad:
        """Returns how busy it is."""
        with self._changed:
            return EngineLoad(len(self._waiting), self._max_waiting, len(self._rows), self._max_batch)

    def submit(self, job: Job) -> None:
        """Puts the job into the queue.

        Raises:
            Overloaded: the queue is full.
            OneMemberFailed: the worker is not running.
        """
        with self._changed:
            self._must_run(job.member)
            if len(self._waiting) >= self._max_waiting:
                raise Overloaded(f"member {job.member!r}: its queue holds {len(self._waiting)} of {self._max_waiting} requests")
            self._waiting.append(job)
            self._changed.notify()

    def leave(self, job: Job) -> None:
        """Frees the job's place in the queue at once, or its row before the next step."""
        with self._changed:
            job.left = True
            if job in self._waiting:
                self._waiting.remove(job)

    @property
    def runs(self) -> bool:
        """Whether the thread takes jobs; once it does not, it never will again."""
        with self._changed:
            return not self._closing and self._end is None

    async def ping(self, member: str) -> None:
        """Returns once the worker has answered between two steps: it lives, and is not stuck in a forward pass.

        Raises:
            OneMemberFailed: the worker is not running.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[None] = loop.create_future()
        with self._changed:
            self._must_run(member)
            self._pings.append((loop, answer))
            self._changed.notify()
        try:
            await answer
        except ConnectionError as error:
            raise OneMemberFailed(member, "closed", str(error)) from None

    async def aclose(self) -> None:
        """Ends the thread after its current step; jobs that are not finished fail."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        await asyncio.to_thread(self._thread.join)

    def _must_run(self, member: str) -> None:
        if self._closing or self._end is not None:
            raise OneMemberFailed(member, "closed", self._end or "its engine is closing")

    # --- the thread -----------------------------------------------------------------------------------------------

    def _work(self, decoder: Decoder[Job]) -> None:
        end = "its engine was closed"
        try:
            self._decode_until_closed(decoder)
        except BaseException as error:
            end = f"its worker died of {type(error).__name__}: {error}"
            raise
        finally:
            with self._changed:
                self._end = end
                stranded = (*self._rows, *self._waiting)
                pings, self._pings, self._rows = self._pings, [], ()
                self._waiting.clear()
            _deliver([Report(job, OneMemberFailed(job.member, "closed", end)) for job in stranded])
            for loop, answer in pings:
                _call(loop, _resolve, answer, ConnectionError(end))

    def _decode_until_closed(self, decoder: Decoder[Job]) -> None:
        import torch

        torch.get_num_threads()  # the first look of a thread takes what any thread set last: not after we have set our own
        torch.set_num_threads(self._threads)
        with torch.inference_mode():
            while (newcomers := self._take(decoder)) is not None:
                reports = decoder.step()
                reports += decoder.admit(newcomers)
                _deliver(reports)

    def _take(self, decoder: Decoder[Job]) -> list[Job] | None:
        """Drops rows that nobody waits for; returns the jobs that join now, None on closing; waits while there is nothing to do."""
        now = self._clock()
        late = {job for job in decoder.tasks if job.deadline_s <= now}
        decoder.drop(lambda job: job.left or job in late)
        _deliver([Report(job, job.too_late()) for job in late])
        rows = decoder.tasks
        with self._changed:
            self._rows = rows
            while True:
                for loop, answer in self._pings:
                    _call(loop, _resolve, answer, None)
                self._pings.clear()
                if self._closing:
                    return None
                if rows or self._waiting:
                    break
                self._changed.wait()
            taken: list[Job] = []
            while self._waiting and len(rows) + len(taken) < self._max_batch:
                job = self._waiting.popleft()
                if job.deadline_s > now:  # otherwise its caller's own timer is telling it
                    taken.append(job)
            self._rows = (*rows, *taken)
            return taken


@cache
def _threads_of_torch() -> int:
    """Returns how many threads torch takes unless told; asked before any worker says so: later threads go by that."""
    import torch

    return torch.get_num_threads()


def _deliver(reports: Sequence[Report[Job]]) -> None:
    """Hands events to the loops where their callers wait, with one wake-up a loop."""
    loops: dict[asyncio.AbstractEventLoop, list[Report[Job]]] = {}
    for report in reports:
        loops.setdefault(report.task.loop, []).append(report)
    for loop, own in loops.items():
        _call(loop, _put, own)


def _put(reports: Sequence[Report[Job]]) -> None:
    for report in reports:
        report.task.tell(report.event)


def _resolve(answer: asyncio.Future[None], error: Exception | None) -> None:
    if answer.done():  # whoever asked is gone
        return
    if error is None:
        answer.set_result(None)
    else:
        answer.set_exception(error)


def _call(loop: asyncio.AbstractEventLoop, call: Callable[..., None], *args: object) -> None:
    """Calls on the loop, from the thread; a loop that was closed has nobody left who waits."""
    try:
        loop.call_soon_threadsafe(call, *args)
    except RuntimeError:
        if not loop.is_closed():
            raise
