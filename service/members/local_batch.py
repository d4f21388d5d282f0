"""Rows that are decoded together: their keys and values, padded on the left, and how rows come and go.

    join: [A···]      step: [A····]      select: [··B..]  ->  [B..]
          [··B..]           [··B...]              the padding that all rows share is cut off

What a batch shows never changes: a step writes behind it, into room that the batch before has too, so that a forward pass
that fails half-way (some layers written, some not) can be tried again with half of the rows. Of two steps from one
batch the later is the one that counts. Knows tensors, not text. Axes: N rows, W columns (padding and tokens), C columns
with the room behind them, L layers, H heads, E head size.
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

# Columns of room behind what is read, so that the tensors are copied once in so many tokens: a quarter of what there is, at least this.
_ROOM = 64
# Rounding is 1e-5 of the spread of the logits in float32 and up to some 0.05 in bfloat16; a wrong state is above 0.5.
_OTHER_STATE = 0.2


@dataclass(frozen=True, slots=True)
class DecodingBatch(Generic[RowT]):
    """Rows and what the model remembers of them.

    Args:
        rows: `[N]` whose they are.
        lengths: `[N]` tokens of each row in the cache; the longest row has no padding.
        keys: L tensors `[N, H, C, E]`, of which the first W columns hold something.
        values: as `keys`.
        mask: `[N, C]` what is added to the scores of each column: 0 for a token and for the room, -inf for padding on the left.
    """

    rows: tuple[RowT, ...]
    lengths: tuple[int, ...]
    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]
    mask: torch.Tensor

    @property
    def width(self) -> int:
        """Columns that hold something."""
        return max(self.lengths)


def prefill(
    model: LoadedModel, rows: Sequence[RowT], prompts: Sequence[Sequence[int]], adapters: Sequence[str | None]
) -> tuple[DecodingBatch[RowT], torch.Tensor]:
    """Returns a batch that has read the prompts, and the `[N, V]` logits of each row's first token."""
    import torch

    lengths = tuple(len(prompt) for prompt in prompts)
    width = max(lengths)
    # The id under the padding is never seen: the mask hides it. 0 is in every vocabulary.
    ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=model.device)
    padding = torch.tensor([width - length for length in lengths], device=model.device)
    positions = torch.arange(width, device=model.device) - padding[:, None]
    mask = torch.zeros(len(prompts), width + _room(width), dtype=model.dtype, device=model.device)
    for row, length in enumerate(lengths):
        mask[row, : width - length] = -torch.inf
    logits, keys, values = model.read(ids, positions.clamp_(min=0), adapters, mask, None, 0)
    return DecodingBatch(tuple(rows), lengths, keys, values, mask), logits


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

    width, mask, memory = batch.width, batch.mask, (batch.keys, batch.values)
    if width == mask.shape[1]:
        more = _room(width)
        mask = torch.nn.functional.pad(mask, (0, more))
        keys, values = (tuple(_widened(tensor, 0, more) for tensor in tensors) for tensors in memory)
        memory = (keys, values)
    ids, positions = torch.tensor([tokens, batch.lengths], device=model.device)[:, :, None]
    # Nothing is hidden where all rows are equally long: attention is faster without a mask.
    hidden = mask if min(batch.lengths) < width else None
    logits, keys, values = model.read(ids, positions, adapters, hidden, memory, width)
    return DecodingBatch(batch.rows, tuple(length + 1 for length in batch.lengths), keys, values, mask), logits


def select(batch: DecodingBatch[RowT], indices: Sequence[int]) -> DecodingBatch[RowT]:
    """Returns the batch of these rows alone, without the columns that are padding in all of them."""
    import torch

    chosen = torch.tensor(indices, device=batch.mask.device)
    lengths = tuple(batch.lengths[index] for index in indices)
    start = batch.width - max(lengths)
    return DecodingBatch(
        tuple(batch.rows[index] for index in indices),
        lengths,
        tuple(keys[:, :, start:].index_select(0, chosen) for keys in batch.keys),
        tuple(values[:, :, start:].index_select(0, chosen) for values in batch.values),
        batch.mask[:, start:].index_select(0, chosen),
    )


def join(one: DecodingBatch[RowT] | None, other: DecodingBatch[RowT] | None) -> DecodingBatch[RowT] | None:
    """Returns the rows of both, the narrower padded on the left to the width of the wider, with as much room as the one that has more."""
    import torch

    if one is None or other is None:
        return one or other
    width = max(one.width, other.width)
    room = max(batch.keys[0].shape[2] - batch.width for batch in (one, other))

    def joined(above: torch.Tensor, below: torch.Tensor) -> torch.Tensor:
        both = above.new_zeros(above.shape[0] + below.shape[0], above.shape[1], width + room, above.shape[3])
        both[: above.shape[0], :, width - one.width : width] = above[:, :, : one.width]
        both[above.shape[0] :, :, width - other.width : width] = below[:, :, : other.width]
        return both

    mask = one.mask.new_zeros(len(one.rows) + len(other.rows), width + room)
    mask[: len(one.rows), width - one.width : width] = one.mask[:, : one.width]
    mask[: len(one.rows), : width - one.width] = -torch.inf
    mask[len(one.rows) :, width - other.width : width] = other.mask[:, : other.width]
    mask[len(one.rows) :, : width - other.width] = -torch.inf
    return DecodingBatch(
        one.rows + other.rows,
        one.lengths + other.lengths,
        tuple(map(joined, one.keys, other.keys)),
        tuple(map(joined, one.values, other.values)),
        mask,
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
    if not bool(alone.isfinite().all()):
        raise UnusableMember(type(model.network).__name__, "base", "gives no finite numbers: weights of it are no numbers, or too large")
    difference = _difference(together[1].float(), alone[0].float())
    if not difference < _OTHER_STATE:
        message = f"a row's logits differ by {difference:.2g} of their spread between alone and joined to another row"
        raise UnusableMember(type(model.network).__name__, "base", message)


def _room(width: int) -> int:
    return max(_ROOM, width // 4)


def _widened(tensor: torch.Tensor, before: int, behind: int) -> torch.Tensor:
    """Returns the `[N, H, C, E]` tensor with zeros in front of its columns and behind them."""
    import torch

    return torch.nn.functional.pad(tensor, (0, 0, before, behind))


def read_alike(one: LoadedModel, other: LoadedModel) -> bool:
    """Returns whether two ways to compute the same model give the same logits, padded, continued and with every adapter."""
    import torch

    adapters = [None, *one.slots]
    prompts = [[3 + row + at for at in range(3 + row % 3 * 2)] for row in range(len(adapters))]
    with torch.inference_mode():
        found = []
        for model in (one, other):
            batch, first = prefill(model, range(len(prompts)), prompts, adapters)
            _, second = advance(model, batch, [5] * len(prompts), adapters)
            found.append(torch.cat([first, second]).float())
    return _difference(*found) < (1e-3 if one.dtype == torch.float32 else _OTHER_STATE)


def _difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """Returns the greatest difference of two `[V]` or `[N, V]` logits, as a share of their spread."""
    return float((one - other).abs().max() / other.std())
