"""Trunk vectors of texts, computed once and kept on disk by content.

The key of a vector is a hash of the trunk's weights and of the row's token ids and pooled span, which hold the tokenizer
and the template: a change of any of them is a miss, never a stale vector. A folder per trunk, to which files are added and never
changed: what is written grows with what is computed, and two runs may share it.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from attune.models.data.preferences import Texts
from attune.models.data.progress import Steps
from attune.models.seam.staging import LEFT_BEHIND_S
from attune.models.seam.text import Encoded, TextEncoder

Progress = Callable[[int, int], None]

CHUNK, CHUNK_TOKENS = 1024, 4096
"""Most rows, and tokens where the embedder does not say how many it takes at once, that are computed between two reports of progress."""
SHARD_ROWS, SHARD_S = 16_384, 30.0
"""A file of the cache is written after so many rows or seconds: an interrupted run loses half a minute at most."""


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


def embed_texts(
    texts: Texts, trunk: Embedder, cache: Path | None = None, *, progress: Progress | None = None, chunk: int = CHUNK
) -> Vectors:
    """Returns the vectors of all texts, from the cache where they are there.

    Args:
        texts: prompts and candidates.
        trunk: embeds what the cache lacks.
        cache: folder of the cache, made if absent; None computes everything.
        progress: told how many of the missing rows are done; says so on standard error if None.
        chunk: most rows between two reports.

    Raises:
        EmbeddingInvalid: a vector is not finite; what was computed before it is in the cache.
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
    rows: Sequence[Encoded], trunk: Embedder, cache: Path | None = None, *, progress: Progress | None = None, chunk: int = CHUNK
) -> NDArray[np.float32]:
    """Returns the vectors of encoded rows `[N, D + 1]`; see `embed_texts`."""
    if not rows:
        return np.zeros((0, trunk.width), dtype=np.float32)
    progress = progress or Steps("embedded {} texts")
    keys = [_key(trunk.sha256, row) for row in rows]
    place = {key: index for index, key in enumerate(dict.fromkeys(keys))}
    row_of = dict(zip(reversed(keys), reversed(rows), strict=True))
    vectors = np.empty((len(place), trunk.width), dtype=np.float32)
    known = _read(cache, trunk, place, vectors)
    # Long rows last: a batch holds rows of like length, and the progress of the first chunks is not the worst of it.
    missing = sorted((key for key in place if key not in known), key=lambda key: len(row_of[key]))
    with _Shards(cache, trunk) as shards:
        done = 0
        for taken in _chunks(missing, row_of, chunk, getattr(trunk, "tokens_at_once", CHUNK_TOKENS)):
            computed = trunk.embed([row_of[key] for key in taken])
            _refuse_not_finite(computed, [row_of[key] for key in taken])
            vectors[[place[key] for key in taken]] = computed
            shards.add(taken, computed)
            done += len(taken)
            progress(done, len(missing))
    return vectors[[place[key] for key in keys]]


def _chunks(keys: Sequence[bytes], row_of: Mapping[bytes, Encoded], rows: int, tokens: int) -> Iterator[list[bytes]]:
    """Yields the keys in order, so many at a time as have at most `rows` rows and `tokens` tokens, and one at least."""
    taken: list[bytes] = []
    held = 0
    for key in keys:
        if taken and (len(taken) == rows or held + len(row_of[key]) > tokens):
            yield taken
            taken, held = [], 0
        taken.append(key)
        held += len(row_of[key])
    if taken:
        yield taken


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


def _folder(cache: Path, trunk: Embedder) -> Path:
    return cache / f"vectors-{trunk.sha256[:16]}"


def _read(cache: Path | None, trunk: Embedder, place: Mapping[bytes, int], vectors: NDArray[np.float32]) -> set[bytes]:
    """Puts what the cache has of `place` into `vectors`, and returns the keys that it had."""
    found: set[bytes] = set()
    if cache is None:
        return found
    for file in sorted(_folder(cache, trunk).glob("*.npy")):
        try:
            table = np.load(file, mmap_mode="r", allow_pickle=False)
            shape = table["vector"].shape[1:]
        except (ValueError, IndexError, EOFError) as error:
            # A machine that lost its power leaves such a file; what it held can be had again.
            sys.stderr.write(f"{file} is damaged and was deleted; its vectors are computed again ({error})\n")
            file.unlink(missing_ok=True)
            continue
        if shape != (trunk.width,):
            raise EmbeddingInvalid(f"{file.parent.name}/{file.name} holds vectors {shape}; this trunk gives ({trunk.width},)")
        here = [(row, key) for row, key in enumerate(map(bytes, table["key"])) if key in place]
        if here:
            vectors[[place[key] for _, key in here]] = table["vector"][[row for row, _ in here]]
            found.update(key for _, key in here)
    return found


class _Shards:
    """Gathers vectors and writes them as files of their own, each in one step; on the way out, however that is, what is left."""

    def __init__(self, cache: Path | None, trunk: Embedder) -> None:
        self.cache, self.trunk = cache, trunk
        self.keys: list[bytes] = []
        self.parts: list[NDArray[np.float32]] = []
        self.since = time.monotonic()

    def add(self, keys: Sequence[bytes], vectors: NDArray[np.float32]) -> None:
        self.keys += keys
        self.parts.append(vectors)
        if len(self.keys) >= SHARD_ROWS or time.monotonic() - self.since >= SHARD_S:
            self.write()

    def write(self) -> None:
        if self.cache is not None and self.keys:
            folder = _folder(self.cache, self.trunk)
            folder.mkdir(parents=True, exist_ok=True)
            table = np.empty(len(self.keys), dtype=[("key", "u1", (32,)), ("vector", "<f4", (self.trunk.width,))])
            joined = b"".join(self.keys)
            table["key"] = np.frombuffer(joined, dtype=np.uint8).reshape(-1, 32)
            table["vector"] = np.concatenate(self.parts)
            target = folder / f"{hashlib.sha256(joined).hexdigest()[:16]}.npy"
            staging = target.with_suffix(f".{os.getpid()}.tmp")
            try:
                with staging.open("wb") as stream:
                    np.save(stream, table, allow_pickle=False)
                staging.replace(target)
            except OSError as error:
                staging.unlink(missing_ok=True)
                raise OSError(error.errno, error.strerror or str(error), str(folder)) from error
            for left in folder.glob("*.tmp"):  # of runs that were killed while they wrote
                with suppress(FileNotFoundError):
                    if left.stat().st_mtime < target.stat().st_mtime - LEFT_BEHIND_S:
                        left.unlink()
        self.keys, self.parts, self.since = [], [], time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.write()
