"""What a sparse autoencoder sees in a table of texts: which latents fire, where, and how strongly.

Axis letters: `N` candidates, `S` states (tokens of all candidates), `L` latents, `D` the width of one layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from tokenizers import Tokenizer

from attune.models.data.embeddings import Progress
from attune.models.data.preferences import Texts
from attune.models.data.sae_files import AutoencoderInvalid, SparseAutoencoder
from attune.models.data.token_states import TokenStates, states_of
from attune.models.data.trunk import Trunk
from attune.models.training.sparse_autoencoder import AutoencoderSettings, TrainedAutoencoder, train_sparse_autoencoder

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

BATCH = 4096


@dataclass(frozen=True, slots=True)
class Latents:
    """Activity of the latents in every candidate of a table.

    Attributes:
        texts: the table.
        directions: `[L, D]` decoder rows at length 1.
        columns: where the layer's means stand in a pooled vector.
        frequency: `[N, L]` share of a candidate's tokens in which a latent fires: a longer text has no larger one by its length alone.
        strength: `[N, L]` mean activation over a candidate's tokens.
        codes: `[S, L]` sparse, activations of single tokens.
        text, token: `[S]` which candidate, and which token.
    """

    texts: Texts
    directions: Array
    columns: slice
    frequency: NDArray[np.float32]
    strength: NDArray[np.float32]
    codes: Any
    text: Ints
    token: Ints


def learn_latents(
    texts: Texts,
    trunk: Trunk,
    settings: AutoencoderSettings,
    seed: int,
    *,
    layer: int,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> tuple[TrainedAutoencoder, Latents]:
    """Returns an autoencoder trained on the candidates of `texts` at hidden state `layer`, and its activity in them.

    Raises:
        AutoencoderInvalid: the trunk does not pool that layer.
        StatesInvalid, TrainingDiverged: see `train_sparse_autoencoder`.
    """
    states = states_of(texts, trunk, layer, cache, progress=progress)
    trained = train_sparse_autoencoder(states.states, settings, seed, layer=layer, progress=progress)
    return trained, activity(texts, states, trained.autoencoder, columns_of(trunk, trained.autoencoder))


def activity(texts: Texts, states: TokenStates, autoencoder: SparseAutoencoder, columns: slice) -> Latents:
    """Returns the activity of `autoencoder` in `states`, the tokens of the candidates of `texts`."""
    parts = []
    for start in range(0, len(states.states), BATCH):
        batch = torch.from_numpy(states.states[start : start + BATCH].astype(np.float32))
        parts.append(sparse.csr_matrix(autoencoder.encode(batch).numpy()))
    codes = sparse.vstack(parts, format="csr")
    count = len(texts.candidates)
    tokens = np.maximum(np.bincount(states.text, minlength=count), 1)
    mean = sparse.csr_matrix((1.0 / tokens[states.text], (states.text, np.arange(len(states.text)))), shape=(count, len(states.text)))
    frequency = (mean @ (codes > 0).astype(np.float64)).toarray().astype(np.float32)
    strength = (mean @ codes).toarray().astype(np.float32)
    return Latents(texts, autoencoder.directions(), columns, frequency, strength, codes, states.text, states.token)


def columns_of(trunk: Trunk, autoencoder: SparseAutoencoder) -> slice:
    """Returns where the layer that `autoencoder` reads stands in the trunk's pooled vector.

    Raises:
        AutoencoderInvalid: it does not say its layer, the trunk does not pool that layer, or the widths differ.
    """
    width = (trunk.width - 1) // max(1, len(trunk.layers))
    layers = trunk.layers or (int(trunk.model.config.num_hidden_layers),)  # type: ignore[union-attr, arg-type]  # every transformers model has a config
    if autoencoder.layer not in layers:
        raise AutoencoderInvalid(f"the autoencoder reads layer {autoencoder.layer}; the trunk {trunk.name!r} pools {list(layers)}")
    if autoencoder.width != width:
        raise AutoencoderInvalid(f"the autoencoder reads states {autoencoder.width} wide; those of {trunk.name!r} are {width}")
    start = layers.index(autoencoder.layer) * width
    return slice(start, start + width)


@dataclass(frozen=True, slots=True)
class Card:
    """What a latent stands for, to a person: the tokens that fire it most, and pieces of text around its strongest tokens."""

    tokens: tuple[str, ...]
    examples: tuple[str, ...]


def cards(latents: Latents, tokenizer: Tokenizer, chosen: Ints, *, tokens: int = 3, examples: int = 3, around: int = 8) -> list[Card]:
    """Returns the card of each of the latents `chosen`; a dead one has an empty card.

    Args:
        latents: the activity to read from.
        tokenizer: the trunk's, to spell tokens.
        chosen: latents.
        tokens: how many at most; by their summed activation, so that a chance hit of a rare token does not name a latent.
        examples: pieces, each from another text.
        around: tokens shown to either side.
    """
    columns = latents.codes.tocsc()
    made = []
    for latent in chosen:
        span = slice(columns.indptr[latent], columns.indptr[latent + 1])
        states, values = columns.indices[span], columns.data[span]
        if not len(states):
            made.append(Card((), ()))
            continue
        total = np.bincount(latents.token[states], weights=values)
        spelled: dict[str, None] = {}
        for token in np.argsort(-total, kind="stable")[: 4 * tokens]:
            if total[token] > 0:
                spelled.setdefault(tokenizer.decode([int(token)]).strip() or "?")
        pieces: dict[int, str] = {}
        for place in np.argsort(-values, kind="stable"):
            text = int(latents.text[states[place]])
            if text not in pieces:
                pieces[text] = _piece(latents, tokenizer, int(states[place]), around)
            if len(pieces) == examples:
                break
        made.append(Card(tuple(spelled)[:tokens], tuple(pieces.values())))
    return made


def _piece(latents: Latents, tokenizer: Tokenizer, state: int, around: int) -> str:
    first = max(state - around, int(np.searchsorted(latents.text, latents.text[state])))
    last = min(state + around + 1, int(np.searchsorted(latents.text, latents.text[state], side="right")))
    return str(tokenizer.decode(latents.token[first:last].tolist()))
