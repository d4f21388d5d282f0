"""The process that owns the scorer: one queue and one session for the texts of every process that takes requests.

    parent     ──load, retire, metrics──> this process            (control line)
    requests'  ──SUBMIT, CANCEL, canary──> batcher ──ROWS──> them  (one socket, one connection each)

Bundles are numbered by the parent as generations; two are there while a reload passes. When the scorer's worker dies, or fails canary
after canary, this process ends, and the parent starts another.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from attune.models.seam.bundle import BundleInvalid, read_bundle
from attune.service.batching.batcher import Batcher
from attune.service.batching.frames import Answered, FramedText, pack_rows, unpack_submit
from attune.service.batching.submission import Submission
from attune.service.errors import BundleRefused, NotReady
from attune.service.framing import FrameKind, Frames, pack_error
from attune.service.live.child_process import ChildProcess, serve_parent
from attune.service.live.control import Body
from attune.service.live.opened_scorer import LoadPlan, SharedScorer, open_shared_scorer

EXIT_SCORER_DIED = 5


class ScorerProcess(ChildProcess[SharedScorer]):
    """Scorers, each with its queue."""

    def __init__(self, plan: LoadPlan, end: Callable[[int], None]) -> None:
        super().__init__(lambda opened: opened.batcher.aclose())
        self._plan = plan
        self._end = end
        self.metrics.watch_queue(
            lambda: sum(each.batcher.waiting_items for each in self.loaded.there.values()),
            lambda: sum(each.batcher.waiting_tokens for each in self.loaded.there.values()),
        )

    async def load(self, generation: int, path: Path, body: Body) -> Body:
        opened = await self.loaded.load(generation, lambda: self._open(path, int(body["budget_tokens"])))
        return {"provider": opened.provider, "budget_tokens": opened.budget_tokens, "layout": opened.layout.to_json()}

    async def _open(self, path: Path, budget_tokens: int) -> SharedScorer:
        try:
            bundle = await asyncio.to_thread(read_bundle, path)
        except (BundleInvalid, OSError) as error:
            raise BundleRefused(str(error)) from error
        # Measured once: a scorer that is started again serves with the budget that the first one found.
        plan = dataclasses.replace(self._plan, batch_budget_tokens=budget_tokens or self._plan.batch_budget_tokens)
        return await open_shared_scorer(bundle, bundle.text_encoder(), plan, self.metrics)

    def scorer(self, generation: int) -> SharedScorer:
        """Returns a loaded scorer.

        Raises:
            NotReady: it is not loaded yet, or no more.
        """
        if generation not in self.loaded.there:
            raise NotReady("the scorer's process has not loaded this bundle yet")
        return self.loaded.there[generation]

    async def canary(self, generation: int, deadline_s: float) -> float:
        """Returns the time of the canary's batch, seconds; a scorer that is beyond help ends the process."""
        opened = self.scorer(generation)
        try:
            return await opened.batcher.canary(deadline_s)
        finally:
            if not opened.batcher.alive and generation in self.loaded.there:
                self._end(EXIT_SCORER_DIED)


class RequestsDoor(Frames):
    """The connection of one process that takes requests."""

    def __init__(self, process: ScorerProcess) -> None:
        super().__init__()
        self._process = process
        self._submitted: dict[int, tuple[Batcher[NDArray[np.float32]], Submission[NDArray[np.float32]]]] = {}
        self._asked: set[asyncio.Task[None]] = set()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        for number in tuple(self._submitted):  # their texts leave the queue
            self._leave(number)
        for task in self._asked:
            task.cancel()

    def frame_received(self, kind: FrameKind, number: int, payload: memoryview) -> None:
        match kind:
            case FrameKind.SUBMIT | FrameKind.SPARE:
                self._submit(number, payload, spare=kind is FrameKind.SPARE)
            case FrameKind.HURRY:
                for batcher in {batcher for batcher, _ in self._submitted.values()}:
                    batcher.hurry()
            case FrameKind.CANCEL:
                self._leave(number)
            case _:
                task = asyncio.ensure_future(self._ask(number, payload))
                self._asked.add(task)
                task.add_done_callback(self._asked.discard)

    def _submit(self, number: int, payload: memoryview, *, spare: bool) -> None:
        """Puts texts into the queue; no task waits for them, since a task a request would cost as much as all the rest."""
        try:
            items, deadline_s, generation = unpack_submit(payload)
            opened = self._process.scorer(generation)
            submission = opened.batcher.begin(items, deadline_s, spare=spare)
        except Exception as error:  # noqa: BLE001 - whatever it is, the one who asked must hear of it
            self.send(FrameKind.FAILED, number, pack_error(error))
            return
        self._submitted[number] = opened.batcher, submission
        submission.answered.add_done_callback(partial(self._answer, number, opened, items))

    def _answer(self, number: int, opened: SharedScorer, items: list[FramedText], answered: asyncio.Future[float]) -> None:
        batcher, submission = self._submitted.pop(number, (None, None))
        if batcher is None or submission is None:  # the one who asked has left
            answered.exception()  # looked at, so that nobody logs it as forgotten
            return
        if (error := answered.exception()) is not None:
            batcher.leave(submission)
            self.send(FrameKind.FAILED, number, pack_error(error))
            return
        found = submission.whole()
        told = batcher.waiting_items, batcher.waiting_tokens, batcher.drain_tokens_per_s
        answer = pack_rows(Answered(found.queue_s, found.inference_s, *told), found.rows, items, opened.layout)
        self.send(FrameKind.ROWS, number, answer)

    def _leave(self, number: int) -> None:
        if (left := self._submitted.pop(number, None)) is not None:
            batcher, submission = left
            batcher.leave(submission)

    async def _ask(self, number: int, payload: memoryview) -> None:
        try:
            body = json.loads(bytes(payload))
            inference_s = await self._process.canary(int(body["generation"]), float(body["deadline_s"]))
        except Exception as error:  # noqa: BLE001 - as above
            self.send(FrameKind.FAILED, number, pack_error(error))
        else:
            self.send(FrameKind.ANSWER, number, json.dumps({"inference_s": inference_s}).encode())


async def serve_scorer(plan: LoadPlan, *, control_path: str, index: int, socket_path: str) -> int:
    """Serves until SIGTERM or until the parent is gone; returns the exit code.

    Args:
        plan: numbers to load bundles with.
        control_path: where the parent listens.
        index: of this process among those that own a scorer.
        socket_path: where to listen for processes that take requests.
    """
    return await serve_parent("scorer", partial(ScorerProcess, plan), RequestsDoor, control_path, index, socket_path)
