"""Rows that are decoded together: their keys and values, padded on the left, and how rows come and go.

    join: [A···]      step: [A····]      select: [··B..]  ->  [B..]
          [··B..]           [··B...]              the padding that all rows share is cut off

Every function returns a new batch and leaves its arguments alone, so a forward pass that fails half-way (some layers
grown, some not) can be tried again with half of the rows. Knows tensors, not text. Axes: N rows, W columns (padding and
tokens), L layers, H heads, E head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from attune.service.members.member import UnusableMember

if TYPE_CHECKING:
    import torch

    from attune.service.members.local_model import LoadedModel

RowT = TypeVar("RowT")


@dataclass(frozen=True, slots=True)
class DecodingBatch(Generic[RowT]):
    """Rows and what the model remembers of them.

    Args:
        rows: `[N]` whose they are.
        lengths: `[N]` tokens of each row in the cache; the longest row has no padding.
        keys: L tensors `[N, H, W, E]`.
        values: L tensors `[N, H, W, E]`.
        mask: `[N, W]` 1 for a token, 0 for padding on the left.
    """

    rows: tuple[RowT, ...]
    lengths: tuple[int, ...]
    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]
    mask: torch.Tensor


def prefill(
    model: LoadedModel, rows: Sequence[RowT], prompts: Sequence[Sequence[int]], adapters: Sequence[str | None]
) -> tuple[DecodingBatch[RowT], torch.Tensor]:
    """Returns a batch that has read the prompts, and the `[N, V]` logits of each row's first token."""
    import torch
    from transformers import DynamicCache

    lengths = tuple(len(prompt) for prompt in prompts)
    width = max(lengths)
    # The id under the padding is never seen: the mask hides it. 0 is in every vocabulary.
    ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - length) + [1] * length for length in lengths], device=model.device)
    positions = (mask.cumsum(dim=1) - 1).clamp_(min=0)
    cache = DynamicCache()
    logits = model.forward(ids, mask, positions, adapters, cache)
    return DecodingBatch(tuple(rows), lengths, *_remembered(cache), mask), logits


def advance(
    model: LoadedModel, batch: DecodingBatch[RowT], tokens: Sequence[int], adapters: Sequence[str | None]
) -> tuple[DecodingBatch[RowT], torch.Tensor]:
    """Returns the batch after reading one more token a row, and the `[N, V]` logits of the next.

    Args:
        model: what reads.
        batch: at least one row.
        tokens: `[N]` the token each row chose last.
        adapters: `[N]` the adapter of each row.
    """
    import torch
    from transformers import DynamicCache

    cache = DynamicCache()
    for layer, (keys, values) in enumerate(zip(batch.keys, batch.values, strict=True)):
        cache.update(keys, values, layer)
    mask = torch.nn.functional.pad(batch.mask, (0, 1), value=1)
    ids = torch.tensor(tokens, device=model.device)[:, None]
    positions = torch.tensor(batch.lengths, device=model.device)[:, None]
    logits = model.forward(ids, mask, positions, adapters, cache)
    lengths = tuple(length + 1 for length in batch.lengths)
    return DecodingBatch(batch.rows, lengths, *_remembered(cache), mask), logits


def select(batch: DecodingBatch[RowT], indices: Sequence[int]) -> DecodingBatch[RowT]:
    """Returns the batch of these rows alone, without the columns that are padding in all of them."""
    import torch

    chosen = torch.tensor(indices, device=batch.mask.device)
    lengths = tuple(batch.lengths[index] for index in indices)
    start = batch.mask.shape[1] - max(lengths)
    return DecodingBatch(
        tuple(batch.rows[index] for index in indices),
        lengths,
        tuple(keys[chosen, :, start:] for keys in batch.keys),
        tuple(values[chosen, :, start:] for values in batch.values),
        batch.mask[chosen, start:],
    )


def join(one: DecodingBatch[RowT] | None, other: DecodingBatch[RowT] | None) -> DecodingBatch[RowT] | None:
    """Returns the rows of both, the narrower padded on the left to the width of the wider."""
    import torch

    if one is None or other is None:
        return one or other
    width = max(one.mask.shape[1], other.mask.shape[1])

    def joined(above: torch.Tensor, below: torch.Tensor) -> torch.Tensor:
        return torch.cat([_widened(above, width), _widened(below, width)])

    return DecodingBatch(
        one.rows + other.rows,
        one.lengths + other.lengths,
        tuple(map(joined, one.keys, other.keys)),
        tuple(map(joined, one.values, other.values)),
        torch.cat([_widened(one.mask[:, None, :, None], width), _widened(other.mask[:, None, :, None], width)])[:, 0, :, 0],
    )


def check_rows_are_independent(model: LoadedModel) -> None:
    """Returns if a row reads the same alone and joined, padded and continued among others.

    Not every architecture does: some keep a state that padding enters, or do not continue from keys and values at all, and
    would answer wrongly in silence.

    Raises:
        UnusableMember: this one does not.
    """
    import torch

    long, short, following = [3, 5, 7, 9, 11, 13], [4, 6], [8, 10]
    what = "read a text at all"
    try:
        with torch.inference_mode():
            _, alone = prefill(model, [0], [[*short, following[1]]], [None])
            what = "decode rows of different lengths together"
            batch = join(prefill(model, [0], [long], [None])[0], prefill(model, [1], [short], [None])[0])
            assert batch is not None, "two batches were joined"
            _, together = advance(model, batch, following, [None, None])
    except Exception as error:
        message = f"the model cannot {what}: {type(error).__name__}: {error}"
        raise UnusableMember(type(model.network).__name__, "base", message[:600]) from error
    difference = float((together[1] - alone[0]).abs().max() / alone[0].float().std())
    # Rounding is 1e-5 of the spread of the logits in float32 and up to some 0.05 in bfloat16; a wrong state is above 0.5.
    if not difference < 0.2:
        message = f"a row's logits differ by {difference:.2g} of their spread between alone and joined to another row"
        raise UnusableMember(type(model.network).__name__, "base", message)


def _widened(tensor: torch.Tensor, width: int) -> torch.Tensor:
    """Returns the `[N, H, W, E]` tensor with zeros in front of the columns up to this width."""
    import torch

    missing = width - tensor.shape[2]
    return torch.nn.functional.pad(tensor, (0, 0, missing, 0)) if missing else tensor


def _remembered(cache: object) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    """Returns the keys and the values of each layer of transformers' cache."""
    layers = cache.layers  # type: ignore[attr-defined]
    return tuple(layer.keys for layer in layers), tuple(layer.values for layer in layers)
