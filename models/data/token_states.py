"""Hidden states of single tokens at one layer of the trunk: what a sparse autoencoder reads.

Only the tokens that are pooled are kept, so that the mean of a text's states is that layer's part of its pooled vector.
Axis letters: `N` texts, `S` states (tokens of all texts), `D` the trunk's width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from attune.models.data.embeddings import Progress
from attune.models.data.preferences import Texts
from attune.models.data.progress import Steps
from attune.models.data.trunk import Trunk, pad
from attune.models.seam.text import Encoded

Ints = NDArray[np.int64]

BATCH_TOKENS = 2048


@dataclass(frozen=True, slots=True)
class TokenStates:
    """States of the pooled tokens of some texts, one after the other.

    Attributes:
        states: `[S, D]` float16: half the memory, and far finer than what a sparse code keeps.
        text: `[S]` which text a state belongs to, ascending.
        token: `[S]` the token's id.
    """

    states: NDArray[np.float16]
    text: Ints
    token: Ints


def encode_candidates(texts: Texts, trunk: Trunk) -> list[Encoded]:
    """Returns the row of every candidate, in the order of the table."""
    return [trunk.encoder.candidates(prompt, [response])[0] for prompt, response in texts.candidates]


def token_states(rows: Sequence[Encoded], trunk: Trunk, layer: int, *, progress: Progress | None = None) -> TokenStates:
    """Returns the states of the pooled tokens of `rows` at hidden state `layer`, 0 the embeddings.

    Raises:
        ValueError: the trunk has no such layer, or no token is pooled.
    """
    deepest = int(trunk.model.config.num_hidden_layers)  # type: ignore[union-attr, arg-type]  # every transformers model has a config
    if not 0 <= layer <= deepest:
        raise ValueError(f"layer is {layer}; the trunk {trunk.name!r} has hidden states 0 to {deepest}")
    counts = np.array([row.pool_stop - row.pool_start for row in rows], dtype=np.int64)
    starts = np.concatenate([[0], np.cumsum(counts)])
    if not starts[-1]:
        raise ValueError(f"none of {len(rows)} texts has a token to pool")
    states = np.empty((int(starts[-1]), (trunk.width - 1) // max(1, len(trunk.layers))), dtype=np.float16)
    for index, found in _hidden(rows, trunk, layer, progress or Steps("read the states of {} texts")):
        states[starts[index] : starts[index + 1]] = found
    tokens = [row.input_ids[row.pool_start : row.pool_stop] for row in rows]
    return TokenStates(states, np.repeat(np.arange(len(rows)), counts), np.concatenate([np.array(ids, dtype=np.int64) for ids in tokens]))


def states_of(texts: Texts, trunk: Trunk, layer: int, cache: Path | None = None, *, progress: Progress | None = None) -> TokenStates:
    """Returns the states of the candidates of `texts`, from the cache where it has them for this trunk, this layer and these rows.

    Raises:
        ValueError: as `token_states`.
    """
    rows = encode_candidates(texts, trunk)
    digest = hashlib.sha256(f"{trunk.sha256} {layer}".encode())
    for row in rows:
        digest.update(np.array([row.pool_start, row.pool_stop, *row.input_ids], dtype="<i8").tobytes() + b"|")
    file = None if cache is None else cache / f"states-{digest.hexdigest()[:16]}.npz"
    if file is not None and file.exists():
        with np.load(file, allow_pickle=False) as kept:
            return TokenStates(kept["states"], kept["text"], kept["token"])
    found = token_states(rows, trunk, layer, progress=progress)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        staging = file.with_suffix(".tmp.npz")
        np.savez(staging, states=found.states, text=found.text, token=found.token)
        staging.replace(file)
    return found


@torch.inference_mode()
def _hidden(rows: Sequence[Encoded], trunk: Trunk, layer: int, progress: Progress) -> Iterator[tuple[int, NDArray[np.float32]]]:
    order = sorted(range(len(rows)), key=lambda index: -len(rows[index]))
    start = 0
    while start < len(order):
        batch = order[start : start + max(1, BATCH_TOKENS // max(1, len(rows[order[start]])))]
        ids, attention, _ = pad([rows[index] for index in batch])
        hidden = trunk.model(input_ids=ids, attention_mask=attention, output_hidden_states=True).hidden_states[layer].float().numpy()
        for place, index in enumerate(batch):
            yield index, hidden[place, rows[index].pool_start : rows[index].pool_stop]
        start += len(batch)
        progress(start, len(order))
