"""The threads that run a local model, each with a batch of its own, and the bounded queue in front of them.

    loop:    submit ──> waiting ──┐                               ┌──> job.events
    thread:                       └─ take · admit · step · ... ───┘  one wake-up of the loop a step
    loop:    leave ───> out of the queue at once, out of the batch before its next step

Mostly there is one. Of a small model a product is over before two threads have shared it out, so there each core has rows of its own,
and a newcomer joins where there are fewest. Shared state is a few fields under one condition that is never held while
computing. Whatever ends a thread, the others end too, and nobody is left waiting. Knows jobs, not members' settings.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache

from attune.service.cores import usable_cores
from attune.service.errors import AttuneError, DeadlineExceeded, Overloaded
from attune.service.members.local_decode import Decoder, Report, Task
from attune.service.members.local_model import LoadedModel
from attune.service.members.member import Event, OneMemberFailed

SMALL_BYTES = 32 * 2**20
# Threads of one interpreter take turns for all but the products: with more of them than this, each would mostly wait for its turn.
MOST_DECODERS = 4


@dataclass(slots=True, eq=False)
class Job(Task):
    """A task with the way back to its caller.

    Args:
        deadline_s: when the caller stops waiting, in seconds of the loop's clock.
        loop: where the caller waits.
        events: what was written and is not yet taken; `max_tokens` bounds it.
        left: the caller is gone; set by the loop, read by the worker.
    """

    deadline_s: float
    loop: asyncio.AbstractEventLoop
    events: asyncio.Queue[Event | AttuneError] = field(default_factory=asyncio.Queue)
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


@dataclass(slots=True, eq=False)
class _Ping:
    """A question whether every thread lives, the threads that have not answered yet, and the way back."""

    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[None]
    silent: set[int]


class DecodingWorker:
    """Decodes the jobs of a queue in threads of its own, until it is closed.

    Args:
        model: what computes; nobody else may run it.
        threads: torch's threads for one forward pass; None takes torch's choice, at most the cores that may be used, and for weights
            below 32 MB one, where every core has then a batch of its own.
        max_batch: rows decoded at one time.
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
        small = threads is None and model.bytes < SMALL_BYTES and model.device.type == "cpu"
        unless_told = min(usable_cores(), _threads_of_torch())
        self._threads = 1 if small else threads or unless_told
        # transformers' own modules are not made to run in several threads.
        decoders = min(usable_cores(), MOST_DECODERS, max_batch) if small and model.decoder is not None else 1
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._clock = clock
        self._changed = threading.Condition()  # guards what follows
        self._waiting: deque[Job] = deque()
        self._pings: list[_Ping] = []
        self._rows: list[tuple[Job, ...]] = [()] * decoders  # of each thread
        self._closing = False
        self._end: str | None = None  # why it no longer runs
        self._alive = [
            threading.Thread(target=self._work, args=(number, Decoder[Job](model, prefill_tokens)), name="attune-local-member", daemon=True)
            for number in range(decoders)
        ]
        try:
            for thread in self._alive:
                thread.start()
        except RuntimeError:  # the machine grants no more: those that were begun would wait for ever, and hold the model
            self._end_threads()
            raise

    # --- called on the event loop ---------------------------------------------------------------------------------

    def load_now(self) -> EngineLoad:
        """Returns how busy it is."""
        with self._changed:
            return EngineLoad(len(self._waiting), self._max_waiting, sum(map(len, self._rows)), self._max_batch)

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
            self._changed.notify_all()  # which of the idle ones has fewest rows, they find out

    def leave(self, job: Job) -> None:
        """Frees the job's place in the queue at once, or its row before the next step."""
        with self._changed:
            job.left = True
            if job in self._waiting:
                self._waiting.remove(job)

    async def ping(self, member: str) -> None:
        """Returns once every thread has answered between two steps: it lives, and is not stuck in a forward pass.

        Raises:
            OneMemberFailed: the worker is not running.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[None] = loop.create_future()
        with self._changed:
            self._must_run(member)
            self._pings.append(_Ping(loop, answer, set(range(len(self._alive)))))
            self._changed.notify_all()
        try:
            await answer
        except ConnectionError as error:
            raise OneMemberFailed(member, "closed", str(error)) from None

    async def aclose(self) -> None:
        """Ends the threads after their current steps; jobs that are not finished fail."""
        self._end_threads()
        for thread in self._alive:
            await asyncio.to_thread(thread.join)

    def _end_threads(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def _must_run(self, member: str) -> None:
        if self._closing or self._end is not None:
            raise OneMemberFailed(member, "closed", self._end or "its engine is closing")

    # --- the threads ----------------------------------------------------------------------------------------------

    def _work(self, number: int, decoder: Decoder[Job]) -> None:
        end = "its engine was closed"
        try:
            self._decode_until_closed(number, decoder)
        except BaseException as error:
            end = f"its worker died of {type(error).__name__}: {error}"
            raise
        finally:
            with self._changed:
                # With one of them gone nobody can say what is right any more: the others end after the step that they are in.
                self._closing, self._end = True, self._end or end
                end = self._end
                stranded = (*self._rows[number], *self._waiting)
                pings, self._pings, self._rows[number] = self._pings, [], ()
                self._waiting.clear()
                self._changed.notify_all()
            _deliver([Report(job, OneMemberFailed(job.member, "closed", end)) for job in stranded])
            for ping in pings:
                _call(ping.loop, _resolve, ping.answer, ConnectionError(end))

    def _decode_until_closed(self, number: int, decoder: Decoder[Job]) -> None:
        import torch

        torch.get_num_threads()  # the first look of a thread takes what any thread set last: not after we have set our own
        torch.set_num_threads(self._threads)
        with torch.inference_mode():
            while (newcomers := self._take(number, decoder)) is not None:
                reports = decoder.step()
                reports += decoder.admit(newcomers)
                _deliver(reports)

    def _take(self, number: int, decoder: Decoder[Job]) -> list[Job] | None:
        """Drops rows that nobody waits for; returns the jobs that join now, None on closing; waits while there is nothing to do."""
        now = self._clock()
        late = {job for job in decoder.tasks if job.deadline_s <= now}
        decoder.drop(lambda job: job.left or job in late)
        _deliver([Report(job, job.too_late()) for job in late])
        rows = decoder.tasks
        with self._changed:
            if len(rows) < len(self._rows[number]) and self._waiting:
                self._changed.notify_all()  # one that found no room and is idle may have the next share
            self._rows[number] = rows
            while True:
                self._answer_pings(number)
                if self._closing:
                    return None
                taken = self._join(len(rows))
                if rows or taken:
                    self._rows[number] = (*rows, *taken)
                    return taken
                self._changed.wait()

    def _answer_pings(self, number: int) -> None:
        for ping in self._pings:
            ping.silent.discard(number)
            if not ping.silent:
                _call(ping.loop, _resolve, ping.answer, None)
        self._pings = [ping for ping in self._pings if ping.silent]

    def _join(self, own: int) -> list[Job]:
        """Returns the jobs that join a thread with so many rows: as many as make it have its share of all, where there is room."""
        busy, now = sum(map(len, self._rows)), self._clock()
        taken: list[Job] = []
        while self._waiting and busy + len(taken) < self._max_batch:
            share = -(-min(busy + len(taken) + len(self._waiting), self._max_batch) // len(self._rows))
            if own + len(taken) >= share:
                break
            job = self._waiting.popleft()
            if job.deadline_s > now:  # otherwise its caller's own timer is telling it
                taken.append(job)
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
        report.task.events.put_nowait(report.event)


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
