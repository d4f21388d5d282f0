"""Trunk vectors of texts, computed once and kept on disk by content.

The key of a vector is a hash of the trunk's weights and of the row's token ids and pooled span, which hold the tokenizer
and the template: a change of any of them is a miss, never a stale vector. One `.npy` file per trunk, replaced atomically.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from attune.models.data.preferences import Texts
from attune.models.seam.text import Encoded, TextEncoder

Progress = Callable[[int, int], None]

CHUNK = 1024
"""Rows between two writes of the cache, so that an interrupted run loses a minute at most."""


class EmbeddingInvalid(ValueError):
    """A trunk gave a vector that nothing may learn from; the message names the text."""


class Embedder(Protocol):
    """What embeddings need of a trunk: `models.data.trunk.Trunk`, and stand-ins in tests."""

    encoder: TextEncoder
    sha256: str
    width: int

    def embed(self, rows: Sequence[Encoded]) -> NDArray[np.float32]: ...


@dataclass(frozen=True, slots=True)
class Vectors:
    """Pooled trunk vectors of a table of texts: `prompts` `[prompts, D + 1]` and `candidates` `[candidates, D + 1]`, float32."""

    prompts: NDArray[np.float32]
    candidates: NDArray[np.float32]


def show_progress(done: int, total: int) -> None:
    """Writes how many texts are embedded to stderr, on one line."""
    sys.stderr.write(f"\rembedded {done:,} of {total:,} texts" + ("\n" if done == total else ""))
    sys.stderr.flush()


def embed_texts(
    texts: Texts, trunk: Embedder, cache: Path | None = None, *, progress: Progress = show_progress, chunk: int = CHUNK
) -> Vectors:
    """Returns the vectors of all texts, from the cache where they are there.

    Args:
        texts: prompts and candidates.
        trunk: embeds what the cache lacks.
        cache: folder of the cache, made if absent; None computes everything.
        progress: told how many of the missing rows are done.
        chunk: rows between two writes of the cache.

    Raises:
        EmbeddingInvalid: a vector is not finite; what was computed before it stays in the cache.
    """
    rows = [trunk.encoder.prompt(prompt, context) for prompt, context in texts.prompts]
    by_prompt: dict[str, list[int]] = {}
    for index, (prompt, _) in enumerate(texts.candidates):
        by_prompt.setdefault(prompt, []).append(index)
    candidates: list[Encoded | None] = [None] * len(texts.candidates)
    for prompt, indices in by_prompt.items():
        encoded = trunk.encoder.candidates(prompt, [texts.candidates[index][1] for index in indices])
        for index, row in zip(indices, encoded, strict=True):
            candidates[index] = row
    rows += [row for row in candidates if row is not None]
    vectors = embed_rows(rows, trunk, cache, progress=progress, chunk=chunk)
    return Vectors(vectors[: len(texts.prompts)], vectors[len(texts.prompts) :])


def embed_rows(
    rows: Sequence[Encoded], trunk: Embedder, cache: Path | None = None, *, progress: Progress = show_progress, chunk: int = CHUNK
) -> NDArray[np.float32]:
    """Returns the vectors of encoded rows `[N, D + 1]`; see `embed_texts`."""
    keys = [_key(trunk.sha256, row) for row in rows]
    store = _read(cache, trunk)
    missing = [index for index, key in enumerate(dict.fromkeys(keys)) if key not in store]
    first = {key: index for index, key in reversed(list(enumerate(keys)))}
    unique = list(dict.fromkeys(keys))
    # Long rows last: a batch holds rows of like length, and the progress of the first chunks is not the worst of it.
    missing.sort(key=lambda index: len(rows[first[unique[index]]]))
    for start in range(0, len(missing), chunk):
        taken = [unique[index] for index in missing[start : start + chunk]]
        computed = trunk.embed([rows[first[key]] for key in taken])
        _refuse_not_finite(computed, [rows[first[key]] for key in taken])
        store.update(zip(taken, computed, strict=True))
        _write(cache, trunk, store)
        progress(start + len(taken), len(missing))
    if not rows:
        return np.zeros((0, trunk.width), dtype=np.float32)
    return np.stack([store[key] for key in keys])


def _key(trunk: str, row: Encoded) -> bytes:
    ids = np.array([row.pool_start, row.pool_stop, *row.input_ids], dtype="<i8")
    return hashlib.sha256(trunk.encode() + b"|" + ids.tobytes()).digest()


def _refuse_not_finite(vectors: NDArray[np.float32], rows: Sequence[Encoded]) -> None:
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        row = rows[bad[0]]
        raise EmbeddingInvalid(
            f"the trunk gave {len(bad)} of {len(vectors)} vectors that are not finite; "
            f"the first is of a text of {len(row)} tokens that begins with ids {row.input_ids[:8]}"
        )


def _file(cache: Path, trunk: Embedder) -> Path:
    return cache / f"vectors-{trunk.sha256[:16]}.npy"


def _read(cache: Path | None, trunk: Embedder) -> dict[bytes, NDArray[np.float32]]:
    if cache is None or not _file(cache, trunk).exists():
        return {}
    table = np.load(_file(cache, trunk), allow_pickle=False)
    if table["vector"].shape[1:] != (trunk.width,):
        raise EmbeddingInvalid(f"{_file(cache, trunk).name} holds vectors {table['vector'].shape[1:]}; this trunk gives ({trunk.width},)")
    return {key.tobytes(): vector for key, vector in zip(table["key"], table["vector"], strict=True)}


def _write(cache: Path | None, trunk: Embedder, store: dict[bytes, NDArray[np.float32]]) -> None:
    if cache is None:
        return
    cache.mkdir(parents=True, exist_ok=True)
    table = np.empty(len(store), dtype=[("key", "u1", (32,)), ("vector", "<f4", (trunk.width,))])
    table["key"] = np.frombuffer(b"".join(store), dtype=np.uint8).reshape(-1, 32)
    table["vector"] = np.stack(list(store.values()))
    target = _file(cache, trunk)
    staging = target.with_suffix(f".{os.getpid()}.tmp")
    with staging.open("wb") as stream:
        np.save(stream, table, allow_pickle=False)
    staging.replace(target)
