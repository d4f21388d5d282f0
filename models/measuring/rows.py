"""The scorer's rows for a table of texts, as the server would see them: from trained heads, or from a bundle's graph.

Evaluation reads rows and nothing else of a model, so the same code measures heads fresh from training and a bundle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from attune.models.data.embeddings import Vectors, show_progress
from attune.models.data.preferences import Texts
from attune.models.seam.bundle import Bundle
from attune.models.seam.families import Row
from attune.models.seam.member_values import POOLED
from attune.models.seam.text import Encoded
from attune.models.training.heads import TrainedFamily, compute_outputs

Outputs = dict[str, NDArray[np.float32]]

BATCH_TOKENS = 2048


@dataclass(frozen=True, slots=True)
class Rows:
    """One row per text of a table: `prompts` and `candidates`, in the table's order."""

    prompts: tuple[Row, ...]
    candidates: tuple[Row, ...]


def rows_from_heads(families: Sequence[TrainedFamily], vectors: Vectors) -> Rows:
    """Returns the rows that the scorer graph would give for texts with these trunk vectors."""
    prompts = compute_outputs(families, vectors.prompts) | {POOLED: vectors.prompts}
    return Rows(_split(prompts), _split(compute_outputs(families, vectors.candidates) | {POOLED: vectors.candidates}))


def rows_from_bundle(bundle: Bundle, texts: Texts, *, threads: int = 2) -> Rows:
    """Returns the rows of `texts` from the bundle's own graph, tokenizer and template, in length-sorted batches."""
    encoder = bundle.text_encoder()
    encoded = [encoder.prompt(prompt, context) for prompt, context in texts.prompts]
    encoded += [encoder.candidates(prompt, [response])[0] for prompt, response in texts.candidates]
    rows = _split(graph_outputs(bundle.scorer, encoded, threads=threads))
    return Rows(rows[: len(texts.prompts)], rows[len(texts.prompts) :])


def graph_outputs(scorer: Path, rows: Sequence[Encoded], *, threads: int = 2) -> Outputs:
    """Returns every output of the graph at `scorer` for `rows`, `[N, ...]` each."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(scorer), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    order = sorted(range(len(rows)), key=lambda index: -len(rows[index]))
    found: list[Outputs | None] = [None] * len(rows)
    start = 0
    while start < len(order):
        count = max(1, BATCH_TOKENS // len(rows[order[start]]))
        batch = order[start : start + count]
        for index, row in zip(
            batch, _split(dict(zip(names, session.run(names, _feeds([rows[i] for i in batch])), strict=True))), strict=True
        ):
            found[index] = dict(row)
        start += count
        show_progress(min(len(order), start), len(order))
    return {name: np.stack([row[name] for row in found if row is not None]) for name in names}


def _feeds(rows: Sequence[Encoded]) -> dict[str, NDArray[np.int64]]:
    longest = max(len(row) for row in rows)
    ids, attention, pool = (np.zeros((len(rows), longest), dtype=np.int64) for _ in range(3))
    for index, row in enumerate(rows):
        ids[index, : len(row)] = row.input_ids
        attention[index, : len(row)] = 1
        pool[index, row.pool_start : row.pool_stop] = 1
    return {"input_ids": ids, "attention_mask": attention, "pool_mask": pool}


def _split(outputs: Outputs) -> tuple[Row, ...]:
    names = list(outputs)
    return tuple(dict(zip(names, values, strict=True)) for values in zip(*outputs.values(), strict=True))
