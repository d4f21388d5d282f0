"""Members in this process: one causal language model, several LoRA adapters on it, answers written side by side.

    LocalEngine(base, adapters) ── load() ──> worker thread
    engine.member(id, adapter) ──> LocalMember ── stream() ── Job ──> the worker's queue

The base is in memory once; rows of different adapters share a batch, and what a row's text is does not depend on its
neighbours. The event loop never computes. Importing this module imports no torch; loading an engine does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from attune.service.errors import AttuneError
from attune.service.members.answer_text import Thoughts
from attune.service.members.local_batch import check_rows_are_independent
from attune.service.members.local_model import LoadedModel, load
from attune.service.members.local_worker import DecodingWorker, EngineLoad, Job
from attune.service.members.member import Defaults, Event, Finish, GenerationRequest, OneMemberFailed, UnusableMember
from attune.service.members.spec import Device, Dtype


class LocalEngine:
    """One base model with its adapters, and the thread that runs it.

    Args:
        base: directory of the base model.
        adapters: name to directory.
        device: `cpu` or `cuda`.
        dtype: of the weights; `auto` is float32 on a CPU and the model's own on CUDA.
        threads: torch's threads for one forward pass; None takes one for weights below 32 MB, and for others torch's choice, at most the
            cores that may be used.
        max_batch: rows decoded together; with the context it bounds the memory of keys and values.
        max_waiting: requests that may wait for a row; one more is `Overloaded`.
        prefill_tokens: padded tokens of newcomers read at once; None takes 512 on a CPU, where longer batches lose, 8,192 on CUDA.
        context: overrides the context length of the model's configuration.
        clock: the clock of the deadlines; the event loop's own counts the same seconds.
    """

    def __init__(
        self,
        base: str | Path,
        adapters: Mapping[str, Path],
        *,
        device: Device = "cpu",
        dtype: Dtype = "auto",
        threads: int | None = None,
        max_batch: int = 16,
        max_waiting: int = 64,
        prefill_tokens: int | None = None,
        context: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._base = base
        self._adapters = dict(adapters)
        self._device: Device = device
        self._dtype: Dtype = dtype
        self._threads = threads
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._prefill_tokens = prefill_tokens or (512 if device == "cpu" else 8192)
        self._context = context
        self._clock = clock
        self._members: set[str] = set()
        self._model: LoadedModel | None = None
        self._worker: DecodingWorker | None = None

    def load(self) -> None:
        """Loads the model and starts the worker; a second call does nothing. Blocks for seconds: call it off the event loop.

        Raises:
            UnusableMember: a file is missing, an adapter does not fit the base, or the base cannot decode rows side by side.
        """
        if self._worker is not None:
            return
        members = ", ".join(sorted(self._members))
        self._model = load(self._base, self._adapters, device=self._device, dtype=self._dtype, context=self._context, members=members)
        check_rows_are_independent(self._model)
        self._worker = DecodingWorker(
            self._model,
            threads=self._threads,
            max_batch=self._max_batch,
            max_waiting=self._max_waiting,
            prefill_tokens=self._prefill_tokens,
            clock=self._clock,
        )

    @property
    def model(self) -> LoadedModel:
        """The loaded model, which belongs to the worker thread."""
        if self._model is None:
            raise RuntimeError("the engine is not loaded")
        return self._model

    def load_now(self) -> EngineLoad:
        """Returns how busy the engine is."""
        return EngineLoad(0, self._max_waiting, 0, self._max_batch) if self._worker is None else self._worker.load_now()

    def member(
        self, member_id: str, adapter: str | None = None, defaults: Defaults | None = None, thoughts: Thoughts | None = None
    ) -> LocalMember:
        """Returns a member that writes with this adapter, or with the base alone.

        Raises:
            UnusableMember: the engine has no adapter of that name.
        """
        if adapter is not None and adapter not in self._adapters:
            raise UnusableMember(member_id, "adapter", f"{adapter!r} is not among {sorted(self._adapters)}")
        self._members.add(member_id)
        return LocalMember(member_id, adapter, defaults or Defaults(), self, thoughts or Thoughts())

    def worker(self, member_id: str) -> DecodingWorker:
        """Returns the worker.

        Raises:
            OneMemberFailed: the engine is not loaded.
        """
        if self._worker is None:
            raise OneMemberFailed(member_id, "closed", "its engine is not loaded")
        return self._worker

    async def release(self, member_id: str) -> None:
        """Closes the engine with the last of its members."""
        self._members.discard(member_id)
        if not self._members:
            await self.aclose()

    async def aclose(self) -> None:
        """Ends the worker after its current step and forgets the model; open streams fail."""
        if self._worker is not None:
            await self._worker.aclose()
        self._model = None


@dataclass(frozen=True, slots=True)
class LocalMember:
    """One adapter of an engine, or its base alone, with a system prompt and sampling of its own."""

    id: str
    adapter: str | None
    defaults: Defaults
    engine: LocalEngine
    thoughts: Thoughts = field(default_factory=Thoughts)

    async def stream(self, request: GenerationRequest, deadline_s: float) -> AsyncGenerator[Event, None]:
        told: asyncio.Queue[Event | AttuneError] = asyncio.Queue()  # `max_tokens` bounds it
        job = self.begin(request, deadline_s, told.put_nowait)
        try:
            while True:
                try:
                    async with asyncio.timeout_at(deadline_s):
                        event = await told.get()
                except TimeoutError:
                    raise job.too_late() from None
                if isinstance(event, AttuneError):
                    raise event
                yield event
                if isinstance(event, Finish):
                    return
        finally:
            self.leave(job)

    @property
    def runs(self) -> bool:
        """Whether its engine takes requests; once it does not, it never will again."""
        return self.engine.worker(self.id).runs

    def begin(self, request: GenerationRequest, deadline_s: float, tell: Callable[[Event | AttuneError], None]) -> Job:
        """Puts a request into the engine's queue; `tell` hears on this loop what `stream` would yield or raise, but for the deadline.

        Raises:
            OneMemberFailed, Overloaded: as `stream`; nothing was begun.
        """
        worker = self.engine.worker(self.id)
        asked = self.defaults.applied_to(request)
        job = Job(self.id, self.adapter, asked, self.thoughts, deadline_s, asyncio.get_running_loop(), tell)
        worker.submit(job)
        return job

    def leave(self, job: Job) -> None:
        """Frees the place or the row of a job that was begun here."""
        self.engine.worker(self.id).leave(job)

    async def check(self) -> None:
        await self.engine.worker(self.id).ping(self.id)

    async def aclose(self) -> None:
        await self.engine.release(self.id)
