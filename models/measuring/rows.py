"""The scorer's rows for a table of texts, as the server would see them: from trained heads, or from a bundle's graph.

Evaluation reads rows and nothing else of a model, so the same code measures heads fresh from training and a bundle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from attune.models.data.embeddings import Vectors
from attune.models.data.graph import Outputs, answers_by_length
from attune.models.data.preferences import Texts
from attune.models.seam.bundle import Bundle
from attune.models.seam.families import Row
from attune.models.seam.member_values import POOLED
from attune.models.training.heads import TrainedFamily, compute_outputs


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
    rows = _split(answers_by_length(bundle.scorer, encoded, threads=threads))
    return Rows(rows[: len(texts.prompts)], rows[len(texts.prompts) :])


def _split(outputs: Outputs) -> tuple[Row, ...]:
    names = list(outputs)
    return tuple(dict(zip(names, values, strict=True)) for values in zip(*outputs.values(), strict=True))
