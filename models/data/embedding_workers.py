"""Where texts are embedded: on CUDA where there is one, over several processes where they are asked for, else here.

    with quick(trunk, processes) as embedder: embed_texts(texts, embedder, cache)

The cache and its keys are the same in each case, so a run that was broken off may go on in another way.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from attune.models.data.embeddings import Embedder
from attune.models.data.trunk import Trunk
from attune.models.seam.text import Encoded


@contextmanager
def quick(trunk: Trunk, processes: int = 1) -> Iterator[Embedder]:
    """Yields an embedder that gives the trunk's vectors, as fast as this machine can where it is let to.

    Args:
        trunk: back on the CPU afterwards, as packing needs it.
        processes: that each hold a copy of the trunk; not used where there is CUDA, which one process keeps busy.
    """
    if torch.cuda.is_available():
        trunk.to("cuda")
        try:
            yield trunk
        finally:
            trunk.to("cpu")
    elif processes > 1:
        # Not a fork: torch's threads do not survive one.
        with ProcessPoolExecutor(
            processes, get_context("spawn"), _hold, (_sendable(trunk), max(1, torch.get_num_threads() // processes))
        ) as pool:
            yield _Together(trunk, pool, processes)
    else:
        yield trunk


class _Together:
    """An embedder that divides what it is given over processes."""

    def __init__(self, trunk: Trunk, pool: ProcessPoolExecutor, processes: int) -> None:
        self.encoder, self.sha256, self.width = trunk.encoder, trunk.sha256, trunk.width
        self.tokens_at_once = trunk.tokens_at_once * processes
        self._pool, self._processes = pool, processes

    def embed(self, rows: Sequence[Encoded]) -> NDArray[np.float32]:
        """Returns the vectors of `rows` `[N, D + 1]`."""
        # Rows come sorted by length: every nth one makes parts of equal work.
        parts = [list(rows[start :: self._processes]) for start in range(min(self._processes, len(rows)))]
        vectors = np.empty((len(rows), self.width), dtype=np.float32)
        for start, found in enumerate(self._pool.map(_embed, parts)):
            vectors[start :: self._processes] = found
        return vectors


@dataclass(frozen=True, slots=True)
class _Parts:
    """A trunk in parts: transformers hooks a model from which hidden states were asked, and such a one goes to no other process."""

    kind: type[Any]
    config: Any
    weights: Mapping[str, Tensor]
    tokenizer_json: bytes
    rest: tuple[Any, ...]

    def __call__(self) -> Trunk:
        """Returns the trunk, made anew."""
        model = self.kind(self.config)
        model.load_state_dict(self.weights)
        return Trunk(model, Tokenizer.from_str(self.tokenizer_json.decode()), *self.rest)


def _sendable(trunk: Trunk) -> Trunk | _Parts:
    if not trunk.layers:
        return trunk
    rest = (trunk.template, trunk.name, trunk.layers, trunk.pooling, trunk.source)
    return _Parts(type(trunk.model), trunk.model.config, trunk.model.state_dict(), trunk.tokenizer_json, rest)


_held: list[Trunk] = []


def _hold(trunk: Trunk | _Parts, threads: int) -> None:
    torch.set_num_threads(threads)
    _held.append(trunk if isinstance(trunk, Trunk) else trunk())
    # A parent that is killed says nothing, and a worker holds the other end of its own queue: it would wait for ever.
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _embed(rows: list[Encoded]) -> NDArray[np.float32]:
    return _held[0].embed(rows)
