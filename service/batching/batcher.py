"""The life of a submission between the use cases and the scorer, on the event loop.

    submit ──> admit or refuse ──> BatchQueue ──(worker free)──> ScorerWorker ──> deliver ──> the caller's rows

All state changes in plain functions on the loop's thread: `begin`, `_dispatch`, `_deliver`, `_end`. There is no timer and
no task: a batch is dispatched when a submission finds the worker free, and when the worker becomes free; while it runs, the
next batch collects. Callers wait on one future per submission; whoever stops waiting takes its texts out of the queue.
This module knows nothing of tensors, metrics or HTTP; it reports each batch and each text without a row through two callbacks.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Generic

from attune.models.seam.padding import TokenRow
from attune.service.batching.running import RunningBatches
from attune.service.batching.session import Scored, Scorer
from attune.service.batching.submission import BatchReport, Drop, Submission, Submitted, deadline_exceeded
from attune.service.batching.two_queues import TwoQueues
from attune.service.batching.worker import BatchRun, ScorerWorker
from attune.service.errors import AttuneError, NotReady, Overloaded, ScorerFailed, TooLarge

# This many canaries failing in a row is a scorer that only a restart mends (a CUDA context, once broken, stays broken).
CANARY_FAILURES = 3


class Batcher(Generic[Scored]):
    """Admits submissions, batches them and delivers their rows; one scorer, one worker, one event loop.

    Args:
        scorer: owned by the worker from `start` on, as `beside` is.
        at_once: batches that may run together.
        beside: runs a batch beside others, where `scorer` takes all cores for one (see `share_cores`); None where it runs every batch.
        max_items: texts that may wait at one time.
        max_tokens: tokens that may wait at one time.
        max_text_tokens: the longest text that the scorer takes.
        budget_tokens: padded tokens of a batch.
        canary: the text that health checks run.
        overhead_tokens: what starting a batch costs, in tokens.
        tokens_per_s: speed to estimate `Retry-After` from until batches have been measured (`calibrate` gives all three).
        age_limit_s: how much later each further turn of a large submission is due, seconds (see `BatchQueue`).
        on_batch: called on the loop's thread after the rows of a batch were delivered.
        on_drop: called on the loop's thread with why texts got no row, and how many.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        scorer: Scorer[Scored],
        *,
        at_once: int = 1,
        beside: Scorer[Scored] | None = None,
        max_items: int,
        max_tokens: int,
        max_text_tokens: int,
        budget_tokens: int,
        canary: TokenRow,
        overhead_tokens: float = 16.0,
        tokens_per_s: float | None = None,
        age_limit_s: float = 0.5,
        on_batch: Callable[[BatchReport], None] | None = None,
        on_drop: Callable[[Drop, int], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._queue: TwoQueues[Scored] = TwoQueues(
            max_items=max_items,
            max_tokens=max_tokens,
            budget_tokens=budget_tokens,
            overhead_tokens=overhead_tokens,
            age_limit_s=age_limit_s,
        )
        self._queue.asked.drain_tokens_per_s = tokens_per_s
        self._running = RunningBatches(scorer, beside, at_once, budget_tokens)
        self._max_text_tokens = max_text_tokens
        self._canary_item = canary
        self._canary: Submission[Scored] | None = None
        self._canary_failures = 0
        self._on_batch = on_batch
        self._on_drop = on_drop
        self._clock = clock
        self._at_once = at_once
        self._busy_since_s = 0.0  # when a batch was finished last, or was handed over to a worker that had none
        self._dispatch_is_coming = False
        self._refusal: str | None = "the scorer has not started"
        self._worker: ScorerWorker[Scored] | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._ended = asyncio.Event()

    # --- gauges -----------------------------------------------------------------------------------------------------

    @property
    def waiting_items(self) -> int:
        """Texts that wait for a batch."""
        return self._queue.items

    @property
    def waiting_tokens(self) -> int:
        """Tokens that wait for a batch."""
        return self._queue.tokens

    @property
    def running_items(self) -> int:
        """Texts in the batches that the worker has."""
        return self._running.items

    @property
    def drain_tokens_per_s(self) -> float:
        """Measured speed of draining, tokens a second; 0 before the first batch."""
        return self._queue.asked.drain_tokens_per_s or 0.0

    @property
    def alive(self) -> bool:
        """Whether the worker runs and the last canaries did not all fail; once false, only a restart helps."""
        return self._worker is not None and self._worker.alive and not self._ended.is_set() and self._canary_failures < CANARY_FAILURES

    # --- life -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Starts the worker and admits submissions; called once, on the event loop that will submit.

        Raises:
            RuntimeError: there is no running event loop, or it was started before.
        """
        if self._worker is not None or self._ended.is_set():
            raise RuntimeError("a batcher starts once")
        loop = asyncio.get_running_loop()
        self._worker = ScorerWorker(
            threads=self._at_once,
            alone=self._running.shared,
            tell_done=lambda run: _call(loop, self._deliver, run),
            tell_end=lambda error: _call(loop, self._end, error),
            clock=self._clock,
        )
        self._worker.start()
        self._refusal = None

    async def drain(self) -> None:
        """Stops admitting and returns once everything admitted is answered."""
        self._refusal = self._refusal or "the scorer is shutting down"
        self.hurry()
        await self._idle.wait()

    async def aclose(self) -> None:
        """Stops admitting, fails what waits with NotReady, and returns once what runs is delivered; a cancelled caller leaves daemons."""
        self._refusal = self._refusal or "the scorer is shutting down"
        self._fail_waiting(NotReady, self._refusal)
        if self._worker is not None and not self._ended.is_set():
            self._worker.close()
            await self._ended.wait()

    # --- callers ----------------------------------------------------------------------------------------------------

    async def submit(self, items: Sequence[TokenRow], deadline_s: float, *, spare: bool = False) -> Submitted[Scored]:
        """Returns the rows of `items`, all of them or an error.

        Args:
            items: texts of one request; admitted together or not at all.
            deadline_s: seconds from now after which the caller no longer wants them.
            spare: nobody waits for them: they go behind all that others ask, and take one core where cores are shared (`TwoQueues`).

        Raises:
            ValueError: a text has no tokens.
            TooLarge: a text, or the request as a whole, can never be admitted.
            Overloaded: the queue has no room now.
            DeadlineExceeded: the deadline passed; texts that still waited were dropped.
            ScorerFailed: the scorer fails on one of the texts, which is named; the request's other rows are lost.
            NotReady: the worker is not running, or ended while the texts waited.
        """
        submission = self.begin(items, deadline_s, spare=spare)
        try:
            async with asyncio.timeout(deadline_s):
                await submission.answered
        except TimeoutError:
            self.leave(submission, "expired")
            raise deadline_exceeded(submission, deadline_s) from None
        finally:
            self.leave(submission, "abandoned")
        return submission.whole()

    def hurry(self) -> None:
        """Has everything asked for that was submitted to be done in spare time."""
        self._queue.hurry(self._clock())
        self._dispatch()

    def begin(self, items: Sequence[TokenRow], deadline_s: float, *, spare: bool = False) -> Submission[Scored]:
        """Returns a submission that is under way, for a caller that waits for `answered` by itself and ends with `leave`.

        Texts that still wait at the deadline are dropped when the next batch is formed. Raises as `submit` does on arrival.
        """
        if self._refusal is not None:
            raise NotReady(self._refusal)
        lengths = [len(item) for item in items]
        if max(lengths, default=0) > self._max_text_tokens:
            number, tokens = next((number, tokens) for number, tokens in enumerate(lengths, 1) if tokens > self._max_text_tokens)
            raise TooLarge(f"text {number} of {len(items)} has {tokens:,} tokens, the scorer takes at most {self._max_text_tokens:,}")
        try:
            return self._put(items, lengths, deadline_s, spare=spare)
        except Overloaded:
            self._dropped("refused", len(items))
            raise

    def leave(self, submission: Submission[Scored], why: Drop | None = None) -> None:
        """Takes what still waits of a submission out of the queue, as expired or abandoned; nothing where all has been answered."""
        if submission.missing:
            late = self._clock() >= submission.deadline_at_s
            self._dropped(why or ("expired" if late else "abandoned"), self._queue.abandon(submission))
            self._note_idle()

    async def canary(self, deadline_s: float) -> float:
        """Runs the canary through the worker, ahead of what waits; returns the time of its batch, seconds.

        One canary is under way at a time, and callers meanwhile wait for that one.

        Raises:
            DeadlineExceeded: no answer came in time; the worker is busy for long, or hangs.
            ScorerFailed: the scorer fails on the canary.
            NotReady: the worker is not running, or ended meanwhile.
        """
        if self._canary is None:
            if self._refusal is not None:
                raise NotReady(self._refusal)
            self._canary = self._put([self._canary_item], [len(self._canary_item)], math.inf, urgent=True)
            self._canary.answered.add_done_callback(self._canary_answered)
        canary = self._canary
        try:
            async with asyncio.timeout(deadline_s):
                await asyncio.shield(canary.answered)
        except TimeoutError:
            raise deadline_exceeded(canary, deadline_s) from None
        return canary.inference_s

    # --- the loop's side: plain functions, each leaves the state whole --------------------------------------------------

    def _put(
        self, items: Sequence[TokenRow], lengths: Sequence[int], deadline_s: float, *, urgent: bool = False, spare: bool = False
    ) -> Submission[Scored]:
        loop = asyncio.get_running_loop()
        now_s = self._clock()
        submission: Submission[Scored] = Submission(loop.create_future(), items, now_s, now_s + deadline_s, spare=spare)
        self._queue.put(submission, lengths, urgent=urgent)
        if not items:
            submission.answered.set_result(now_s)
            return submission
        self._idle.clear()
        if not self._dispatch_is_coming:
            # Not at once: whoever else submits in this turn of the loop joins the first batch.
            self._dispatch_is_coming = True
            loop.call_soon(self._dispatch)
        return submission

    def _dispatch(self) -> None:
        """Hands batches to the worker, as many as `RunningBatches` has turns for."""
        self._dispatch_is_coming = False
        if self._worker is None or self._ended.is_set():
            return
        while (turn := self._running.turn(*self._queue.waiting(now_s := self._clock()))) is not None:
            batch = self._queue.take(now_s, turn)
            for submission, texts in Counter(submission for submission, _ in batch.expired).items():
                self._dropped("expired", texts)
                self._fail(submission, deadline_exceeded(submission, submission.deadline_at_s - submission.submitted_at_s))
            if not batch.texts:
                if batch.expired:  # what nobody waits for may be next, and nothing else would begin it
                    continue
                break
            if not self._running:
                self._busy_since_s = self._clock()
            number, scorer = self._running.begin(batch, turn)
            self._worker.hand_over(number, scorer, [submission.items[index] for submission, index in batch.texts], alone=turn.alone)
        self._note_idle()

    def _deliver(self, run: BatchRun[Scored]) -> None:
        if (batch := self._running.end(run.number)) is None:
            return  # another of the worker's threads died meanwhile: whoever waited has been told
        # Where several run at once each takes longer: what counts is the time since the one before was finished.
        busy_s = max(0.0, run.finished_at_s - self._busy_since_s)
        self._busy_since_s += busy_s
        self._dispatch()  # first, so that the worker computes while callers wake up
        failed = 0
        for (submission, index), result in zip(batch.texts, run.results, strict=True):
            if isinstance(result, Exception):
                failed += 1
                told = f"text {index + 1} of {len(submission.items)} ({len(submission.items[index]):,} tokens): {type(result).__name__}"
                error = ScorerFailed(f"the scorer failed on {told}")
                error.__cause__ = result
                self._fail(submission, error)
            else:
                submission.rows[index] = result
        waits, asked = [], len(batch.texts)
        for submission, texts in Counter(submission for submission, _ in batch.texts).items():
            if submission is self._canary:  # nobody's text: of a server that nobody asks, it would be all that there is to see
                asked -= texts
            elif not submission.spare and run.started_at_s >= submission.submitted_at_s:  # else it waited, or ran, for nobody yet
                waits.append(run.started_at_s - submission.submitted_at_s)
            submission.ran(texts, run.started_at_s, run.finished_at_s)
        self._dropped("failed", failed)
        self._queue.asked.drained(batch.real_tokens, busy_s)
        self._note_idle()
        if self._on_batch is not None and asked:
            self._on_batch(BatchReport(asked, batch.real_tokens, batch.padded_tokens, run.elapsed_s, busy_s, tuple(waits)))

    def _end(self, error: BaseException | None) -> None:
        """The worker's thread has ended: by `aclose`, or of `error`."""
        self._ended.set()
        self._worker = None  # it refers back here, and a scorer must not stay in memory until a collector comes by
        self._refusal = "the scorer is shutting down" if error is None else f"the scorer's worker died: {type(error).__name__}"
        for batch in self._running.clear():
            for submission, _ in batch.texts:
                self._fail(submission, NotReady(self._refusal))
        self._fail_waiting(NotReady, self._refusal)

    def _fail_waiting(self, error: type[AttuneError], detail: str) -> None:
        for submission in dict.fromkeys(submission for submission, _ in self._queue.clear()):
            self._fail(submission, error(detail))
        self._note_idle()

    def _fail(self, submission: Submission[Scored], error: AttuneError) -> None:
        # Its other texts leave the queue with the caller, in `submit`.
        if not submission.answered.done():
            submission.answered.set_exception(error)

    def _canary_answered(self, answered: asyncio.Future[float]) -> None:
        self._canary = None
        # Asked for here also because nobody may be waiting for it any more.
        failed = isinstance(answered.exception(), ScorerFailed)
        self._canary_failures = self._canary_failures + 1 if failed else 0

    def _note_idle(self) -> None:
        if not self._running and not self._queue.items:
            self._idle.set()

    def _dropped(self, why: Drop, texts: int) -> None:
        if texts and self._on_drop is not None:
            self._on_drop(why, texts)


def _call(loop: asyncio.AbstractEventLoop, function: Callable[..., None], argument: object) -> None:
    """Runs `function(argument)` on the loop's thread, or nowhere if the loop is gone: then nobody waits either."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(function, argument)
