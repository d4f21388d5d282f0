"""Scorers for these tests: a real graph small enough to write down, one that holds a gate, and one whose time is a formula."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper, save

from attune.models.seam.families import Row
from attune.models.seam.text import Encoded

VOCABULARY = 100
NAN_ID = 66  # this token's embedding is not a number
UNKNOWN_ID = VOCABULARY  # this token has no embedding: the runtime raises


def text(*ids: int, pool: tuple[int, int] | None = None) -> Encoded:
    """Returns a text of these token ids; all but the first are pooled unless said otherwise."""
    start, stop = pool or (min(1, len(ids)), len(ids))
    return Encoded(ids, start, stop)


def texts(*lengths: int) -> list[Encoded]:
    """Returns texts of these lengths; the ids of each are its place plus one, so that answers tell texts apart."""
    return [text(*[1 + place] * length) for place, length in enumerate(lengths)]


def toy_table() -> np.ndarray:
    """Returns the embeddings `[VOCABULARY, 2]`: small whole numbers, so that sums are exact in any order."""
    ids = np.arange(VOCABULARY, dtype=np.float32)
    table = np.stack([ids, ids * ids % 7], axis=1)
    table[NAN_ID] = np.nan
    return table


def write_toy_scorer(path: Path, *, pool_name: str = "pool_mask", output_type: int = TensorProto.FLOAT) -> Path:
    """Writes a graph with a scorer's inputs; outputs the sum of the pooled embeddings and the count of attended tokens."""
    table = numpy_helper.from_array(np.nan_to_num(toy_table(), nan=0.0), "table")
    poison = numpy_helper.from_array(np.where(np.arange(VOCABULARY) == NAN_ID, np.nan, 0.0).astype(np.float32)[:, None], "poison")
    one = numpy_helper.from_array(np.array([1], dtype=np.int64), "axis")
    last = numpy_helper.from_array(np.array([2], dtype=np.int64), "last")
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["embedded"]),
        helper.make_node("Gather", ["poison", "input_ids"], ["poisoned"]),
        helper.make_node("Add", ["embedded", "poisoned"], ["clean"]),
        helper.make_node("Cast", [pool_name], ["pool"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["pool", "last"], ["pool_column"]),
        helper.make_node("Mul", ["clean", "pool_column"], ["pooled"]),
        helper.make_node("ReduceSum", ["pooled", "axis"], ["toy_rewards"], keepdims=0),
        helper.make_node("Cast", ["attention_mask"], ["attended"], to=output_type),
        helper.make_node("ReduceSum", ["attended", "axis"], ["toy_features"], keepdims=1),
    ]
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["N", "T"]) for name in ("input_ids", "attention_mask", pool_name)]
    outputs = [
        helper.make_tensor_value_info("toy_rewards", TensorProto.FLOAT, ["N", 2]),
        helper.make_tensor_value_info("toy_features", output_type, ["N", 1]),
    ]
    graph = helper.make_graph(nodes, "toy", inputs, outputs, [table, poison, one, last])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    checker.check_model(model)
    save(model, path)
    return path


class GatedScorer:
    """Holds every batch until it is released; `entered` says in order of arrival which lengths the worker was given.

    A token id in `refused` makes `run` raise, as a runtime does on a bad input; `fatal` is raised instead of an answer.
    """

    def __init__(self, *, refused: frozenset[int] = frozenset()) -> None:
        self.entered: asyncio.Queue[list[int]] = asyncio.Queue()
        self.batches: list[list[int]] = []
        self.refused = refused
        self.fatal: BaseException | None = None
        self._loop = asyncio.get_running_loop()
        self._gate = threading.Semaphore(0)

    def release(self, batches: int = 1) -> None:
        """Lets this many runs go on, held ones or later ones."""
        self._gate.release(batches)

    def run(self, items: Sequence[Encoded]) -> list[Row]:
        lengths = [len(item) for item in items]
        self.batches.append(lengths)
        self._loop.call_soon_threadsafe(self.entered.put_nowait, lengths)
        self._gate.acquire()
        if self.fatal is not None:
            raise self.fatal
        bad = [token for item in items for token in item.input_ids if token in self.refused]
        if bad:
            raise ValueError(f"token {bad[0]} is refused")
        return [{"toy_rewards": np.array([sum(item.input_ids), len(item)], dtype=np.float32)} for item in items]


class CostedScorer:
    """Takes the time that a formula says, on a clock of its own; `disturb` multiplies the time of the n-th run."""

    def __init__(self, cost_s: Callable[[int, int], float], disturb: Callable[[int], float] = lambda _: 1.0) -> None:
        self.now_s = 0.0
        self.shapes: list[tuple[int, int]] = []
        self._cost_s = cost_s
        self._disturb = disturb

    def clock(self) -> float:
        return self.now_s

    def run(self, items: Sequence[Encoded]) -> list[Row]:
        shape = (len(items), max(len(item) for item in items))
        self.now_s += self._cost_s(*shape) * self._disturb(len(self.shapes))
        self.shapes.append(shape)
        return [{} for _ in items]
