"""What frames carry between a process that takes requests and one that owns a scorer (`service.framing` has the frames themselves).

    SUBMIT   deadline_s, generation, count; count x (tokens, pool_start, pool_stop, of_prompt); token ids, int32
    SPARE    the same, of texts that nobody waits for              HURRY    nothing: somebody waits for them now
    ROWS     queue_s, inference_s, waiting texts, waiting tokens, drain rate, count; float32, `width` or `answer_width` for each text

Axes: the outputs of a row lie one after the other, in the order and with the shapes that loading told (`RowLayout`); the pooled vector,
seven eighths of a row, lies last and is sent of prompts alone.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, groupby
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attune.models.seam.families import Row
from attune.models.seam.member_values import POOLED
from attune.models.seam.text import Encoded

_SUBMIT = struct.Struct("<dII")
_TEXT_NUMBERS = 4
_ROWS = struct.Struct("<ddIIdI")


class FramedText:
    """One text as it came through the socket: what `pad` reads, and whether it is a prompt's own row."""

    __slots__ = ("input_ids", "of_prompt", "pool_start", "pool_stop")

    def __init__(self, input_ids: NDArray[np.int32], pool_start: int, pool_stop: int, of_prompt: bool) -> None:  # noqa: FBT001 - one a text
        self.input_ids = input_ids
        self.pool_start = pool_start
        self.pool_stop = pool_stop
        self.of_prompt = of_prompt

    def __len__(self) -> int:
        return len(self.input_ids)


@dataclass(frozen=True)
class RowLayout:
    """Names and shapes of a row's outputs, in their order on the wire."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @cached_property
    def width(self) -> int:
        """Numbers in the row of a prompt."""
        return sum(prod(shape) for shape in self.shapes)

    @cached_property
    def answer_width(self) -> int:
        """Numbers in the row of an answer: a prompt's without the pooled vector."""
        return sum(prod(shape) for name, shape in zip(self.names, self.shapes, strict=True) if name != POOLED)

    @classmethod
    def of(cls, row: Row) -> RowLayout:
        """Returns the layout of a row."""
        names = sorted(row, key=lambda name: name == POOLED)
        return cls(tuple(names), tuple(row[name].shape for name in names))

    def table(self, outputs: Sequence[str], arrays: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Returns a batch's outputs, `[N, ...]` each, as rows of this layout, float32 `[N, width]`."""
        named = dict(zip(outputs, arrays, strict=True))
        return np.concatenate([named[name].reshape(len(named[name]), -1) for name in self.names], axis=1, dtype=np.float32)

    def rows(self, table: NDArray[np.float32]) -> list[Row]:
        """Returns rows of a table `[N, width]` or `[N, answer_width]`, as views."""
        named, start = {}, 0
        for name, shape in zip(self.names, self.shapes, strict=True):
            if start < table.shape[1]:
                named[name] = table[:, start : start + prod(shape)].reshape(len(table), *shape)
                start += prod(shape)
        return [dict(zip(named, values, strict=True)) for values in zip(*named.values(), strict=True)]

    def to_json(self) -> list[Any]:
        """Returns JSON data that `from_json` reads."""
        return [[name, list(shape)] for name, shape in zip(self.names, self.shapes, strict=True)]

    @classmethod
    def from_json(cls, data: Sequence[Any]) -> RowLayout:
        """Returns what `to_json` gave."""
        return cls(tuple(str(name) for name, _ in data), tuple(tuple(int(size) for size in shape) for _, shape in data))


@dataclass(frozen=True, slots=True)
class Answered:
    """The payload of ROWS but for the rows: times in seconds, and how full the queue was when they were ready."""

    queue_s: float
    inference_s: float
    waiting_items: int
    waiting_tokens: int
    drain_tokens_per_s: float


def pack_submit(items: Sequence[Encoded], deadline_s: float, generation: int) -> bytes:
    """Returns the payload of SUBMIT."""
    heads = [number for item in items for number in (len(item), item.pool_start, item.pool_stop, item.of_prompt)]
    ids = np.fromiter(chain.from_iterable(item.input_ids for item in items), dtype="<i4", count=sum(heads[::_TEXT_NUMBERS]))
    return _SUBMIT.pack(deadline_s, generation, len(items)) + struct.pack(f"<{len(heads)}I", *heads) + ids.tobytes()


def unpack_submit(payload: memoryview) -> tuple[list[FramedText], float, int]:
    """Returns texts, as views of the payload, deadline in seconds and generation.

    Raises:
        ValueError: the lengths do not add up.
    """
    deadline_s, generation, count = _SUBMIT.unpack_from(payload)
    heads = struct.unpack_from(f"<{count * _TEXT_NUMBERS}I", payload, _SUBMIT.size)
    ids = np.frombuffer(payload, dtype="<i4", offset=_SUBMIT.size + 4 * len(heads))
    if sum(heads[::_TEXT_NUMBERS]) != len(ids):
        raise ValueError(f"{len(ids)} token ids for texts of {sum(heads[::_TEXT_NUMBERS])} tokens")
    items, place, numbers = [], 0, iter(heads)
    for tokens, pool_start, pool_stop, of_prompt in zip(numbers, numbers, numbers, numbers, strict=True):
        items.append(FramedText(ids[place : place + tokens], pool_start, pool_stop, bool(of_prompt)))
        place += tokens
    return items, deadline_s, generation


def pack_rows(answered: Answered, rows: Sequence[NDArray[np.float32]], items: Sequence[FramedText], layout: RowLayout) -> bytes:
    """Returns the payload of ROWS for `rows`, `[width]` each, of `items`."""
    head = _ROWS.pack(
        answered.queue_s,
        answered.inference_s,
        answered.waiting_items,
        answered.waiting_tokens,
        answered.drain_tokens_per_s,
        len(rows),
    )
    width = layout.answer_width
    parts: list[Any] = [row if item.of_prompt else row[:width] for row, item in zip(rows, items, strict=True)]
    return b"".join([head, *parts])  # arrays are buffers, which their types do not say


def unpack_rows(payload: memoryview, items: Sequence[Encoded], layout: RowLayout) -> tuple[list[Row], Answered]:
    """Returns the rows of `items`, which are read-only views of the payload, and the rest of what `pack_rows` packed."""
    queue_s, inference_s, waiting_items, waiting_tokens, rate, _ = _ROWS.unpack_from(payload)
    rows: list[Row] = []
    place = _ROWS.size
    for of_prompt, alike in groupby(item.of_prompt for item in items):
        count, width = len(list(alike)), layout.width if of_prompt else layout.answer_width
        rows += layout.rows(np.frombuffer(payload, dtype="<f4", count=count * width, offset=place).reshape(count, width))
        place += 4 * count * width
    return rows, Answered(queue_s, inference_s, waiting_items, waiting_tokens, rate)
