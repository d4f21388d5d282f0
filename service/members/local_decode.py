"""Writes the answers of several requests at once: joins newcomers between steps, drops rows that are done.

    Task ── admit: prompt, prefill ──> rows in one batch ── step: advance, choose, write ──> Report(task, event)

Runs in one thread, which owns it. A row's text depends on its own request alone. A forward pass that raises is tried
again by halves, so that only the row that cannot be computed fails. Knows no event loop and no queue.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from attune.service.errors import AttuneError, TextTooLong
from attune.service.members.answer_text import Thoughts
from attune.service.members.local_batch import DecodingBatch, advance, join, prefill, select
from attune.service.members.local_model import LoadedModel, decoder_of
from attune.service.members.local_prompt import prompt_ids
from attune.service.members.local_sampling import NO_TOKEN, Draw, choose
from attune.service.members.member import Event, Finish, GenerationRequest, OneMemberFailed, TextPiece
from attune.service.members.redaction import without_request
from attune.service.members.text_of_tokens import Writer

if TYPE_CHECKING:
    import torch

READ_CHARS_A_TOKEN = 16
"""More characters a token than any conversation has on average: what is longer than that does not fit, and need not be tokenized."""
READ_CHARS = 32_768
"""So many are always tokenized."""


@dataclass(slots=True, eq=False)
class Task:
    """One request on its way through the model.

    Args:
        member: id of the member that serves it.
        adapter: the member's adapter, None for the base alone.
        request: what to write, with every default filled in.
        thoughts: how the member tells them from the text.
    """

    member: str
    adapter: str | None
    request: GenerationRequest
    thoughts: Thoughts


TaskT = TypeVar("TaskT", bound=Task)


@dataclass(frozen=True, slots=True)
class Report(Generic[TaskT]):
    """Something to tell the caller of a task; a `Finish` or an error is the last."""

    task: TaskT
    event: Event | AttuneError


@dataclass(slots=True, eq=False)
class Row(Generic[TaskT]):
    """A task in the batch: what it was asked, what it chose last, its own source of chance, and text that waits for the end."""

    task: TaskT
    prompt: list[int]
    max_tokens: int
    chance: random.Random
    writer: Writer
    last: int = NO_TOKEN
    written: int = 0
    begun: bool = False
    held: list[str] = field(default_factory=list)


class Decoder(Generic[TaskT]):
    """The batch of answers that are being written.

    Args:
        model: what computes.
        prefill_tokens: padded tokens that newcomers are read in at once; a longer prompt is read alone.
    """

    def __init__(self, model: LoadedModel, prefill_tokens: int) -> None:
        self._model = model
        self._prefill_tokens = prefill_tokens
        self._decode = decoder_of(model)
        self._batch: DecodingBatch[Row[TaskT]] | None = None

    @property
    def tasks(self) -> tuple[TaskT, ...]:
        """The tasks whose answers are being written."""
        return () if self._batch is None else tuple(row.task for row in self._batch.rows)

    def drop(self, left: Callable[[TaskT], bool]) -> None:
        """Takes the rows of these tasks out of the batch; nothing is reported for them."""
        if self._batch is not None:
            self._batch = _keep(self._batch, [not left(row.task) for row in self._batch.rows])

    def admit(self, tasks: Sequence[TaskT]) -> list[Report[TaskT]]:
        """Reads the prompts of newcomers, writes their first token and puts them into the batch."""
        reports: list[Report[TaskT]] = []
        rows: list[Row[TaskT]] = []
        for task in tasks:
            try:
                rows.append(self._row(task))
            except AttuneError as error:
                reports.append(Report(task, error))
            except Exception as error:  # noqa: BLE001 -- a template or tokenizer that breaks on one text fails that text alone
                reports.append(
                    Report(task, OneMemberFailed(task.member, "model", f"the prompt cannot be read: {_said(error, task.request)}"))
                )
        for group in self._groups(rows):
            batch, logits = self._by_halves(group, self._prefill, reports)
            if batch is not None and logits is not None:
                self._batch = join(self._batch, self._write(batch, logits, reports))
        return reports

    def step(self) -> list[Report[TaskT]]:
        """Writes one more token of every answer."""
        reports: list[Report[TaskT]] = []
        if self._batch is not None:
            whole = self._batch

            def advance_rows(rows: Sequence[Row[TaskT]]) -> tuple[DecodingBatch[Row[TaskT]], torch.Tensor]:
                places = {id(row): index for index, row in enumerate(whole.rows)}
                batch = whole if len(rows) == len(whole.rows) else select(whole, [places[id(row)] for row in rows])
                return advance(self._model, batch, [row.last for row in rows], [row.task.adapter for row in rows])

            batch, logits = self._by_halves(whole.rows, advance_rows, reports)
            self._batch = None if batch is None or logits is None else self._write(batch, logits, reports)
        return reports

    def _prefill(self, rows: Sequence[Row[TaskT]]) -> tuple[DecodingBatch[Row[TaskT]], torch.Tensor]:
        return prefill(self._model, rows, [row.prompt for row in rows], [row.task.adapter for row in rows])

    def _by_halves(
        self,
        rows: Sequence[Row[TaskT]],
        run: Callable[[Sequence[Row[TaskT]]], tuple[DecodingBatch[Row[TaskT]], torch.Tensor]],
        reports: list[Report[TaskT]],
    ) -> tuple[DecodingBatch[Row[TaskT]] | None, torch.Tensor | None]:
        """Returns the rows that could be computed with their logits, in order; reports each that could not."""
        import torch

        try:
            return run(rows)
        except Exception as error:  # noqa: BLE001 -- whatever the model raises, only the rows that raise it alone may fail
            if len(rows) == 1:
                reports.append(
                    Report(
                        rows[0].task,
                        OneMemberFailed(rows[0].task.member, "model", f"the model raised {_said(error, rows[0].task.request)}"),
                    )
                )
                return None, None
        middle = len(rows) // 2
        first, first_logits = self._by_halves(rows[:middle], run, reports)
        second, second_logits = self._by_halves(rows[middle:], run, reports)
        found = [logits for logits in (first_logits, second_logits) if logits is not None]
        return join(first, second), torch.cat(found) if found else None

    def _write(
        self, batch: DecodingBatch[Row[TaskT]], logits: torch.Tensor, reports: list[Report[TaskT]]
    ) -> DecodingBatch[Row[TaskT]] | None:
        """Returns the batch of the rows that go on, each with its next token chosen and what it says reported."""
        tokens = choose(logits, [_draw(row) for row in batch.rows])
        going = []
        for row, token in zip(batch.rows, tokens, strict=True):
            events = self._wrote(row, token)
            reports.extend(Report(row.task, event) for event in events)
            going.append(not events or isinstance(events[-1], TextPiece))
        return _keep(batch, going)

    def _wrote(self, row: Row[TaskT], token: int) -> list[Event | AttuneError]:
        """Returns what this token adds to the row's answer; a `Finish` or an error ends it."""
        if token == NO_TOKEN:
            return [OneMemberFailed(row.task.member, "model", f"the model's logits are not finite at token {row.written + 1}")]
        row.last = token
        row.written += 1
        ended = token in self._model.end_tokens
        text = "" if ended else row.writer.push(token)
        if not row.writer.stopped and (ended or row.written >= row.max_tokens):
            text += row.writer.close()
        ended = ended or row.writer.stopped
        finished = ended or row.written >= row.max_tokens
        if text and row.begun and not row.task.request.streamed:  # nobody reads it before the end: no event a token
            row.held.append(text)
            text = ""
        if finished:
            text = "".join(row.held) + text
        row.begun = row.begun or bool(text)
        events: list[Event | AttuneError] = [TextPiece(text)] if text else []
        if finished:
            events.append(Finish("stop" if ended else "length", len(row.prompt), row.written))
        return events

    def _row(self, task: TaskT) -> Row[TaskT]:
        """Returns the task with its prompt as tokens.

        Raises:
            TextTooLong: the prompt leaves no room for an answer, or is so long that it cannot.
            InvalidRequest: the chat template refuses the conversation.
        """
        characters = sum(len(message.content) for message in task.request.messages)
        most = max(READ_CHARS, READ_CHARS_A_TOKEN * self._model.context)
        if characters > most:  # others' answers wait while it is tokenized
            raise TextTooLong(f"the prompt has {characters:,} characters; member {task.member!r} reads at most {most:,}")
        prompt = prompt_ids(self._model.tokenizer, task.member, task.request)
        room = self._model.context - len(prompt)
        if room < 1:
            raise TextTooLong(
                f"the prompt has {len(prompt)} tokens; member {task.member!r} reads at most {self._model.context - 1}, "
                f"one less than its context"
            )
        request = task.request
        writer = Writer(self._decode, request.stop, task.thoughts)
        return Row(task, prompt, min(request.max_tokens, room), random.Random(request.seed), writer)

    def _groups(self, rows: list[Row[TaskT]]) -> Iterator[list[Row[TaskT]]]:
        """Yields the rows in groups of similar length, each within the budget of padded tokens."""
        group: list[Row[TaskT]] = []
        for row in sorted(rows, key=lambda row: len(row.prompt)):
            if group and len(row.prompt) * (len(group) + 1) > self._prefill_tokens:
                yield group
                group = []
            group.append(row)
        if group:
            yield group


def _draw(row: Row[Any]) -> Draw:
    """Returns how the row chooses its next token; takes one number from its own chance."""
    request = row.task.request
    assert request.temperature is not None, "defaults are filled in before a task is made"
    assert request.top_p is not None, "defaults are filled in before a task is made"
    return Draw(request.temperature, request.top_p, row.chance.random())


def _keep(batch: DecodingBatch[Row[TaskT]], keep: Sequence[bool]) -> DecodingBatch[Row[TaskT]] | None:
    """Returns the batch of the rows to keep, the same object if that is all of them, None if it is none."""
    if all(keep):
        return batch
    indices = [index for index, kept in enumerate(keep) if kept]
    return select(batch, indices) if indices else None


def _said(error: Exception, request: GenerationRequest) -> str:
    """Returns the kind of an error and what it says, on one line and without a piece of the conversation."""
    return without_request(f"{type(error).__name__}: {error}", request)
