"""Linear layers whose rows each use their own LoRA adapter, at the cost of two products for all adapters together.

    y[n] = x[n] W^T + (x[n] A_s^T) B_s^T,   s = the adapter of row n; slot 0 is zero: the base alone

LoRA: Hu et al. 2021, arXiv 2106.09685; one base, many adapters in a batch: Chen et al. 2023, arXiv 2310.18547 (Punica).
peft's own mixed batches loop over the adapters in Python in every layer; here the adapters of a layer are stacked once,
padded with zeros to the highest rank. Layers of other kinds stay peft's and are told their rows' adapters by a hook.
Axes: N rows, T tokens, S slots, R rank, P layers that read the same input, I inputs, O outputs of all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

BASE_ROW = "__base__"  # peft's name for a row without an adapter


@dataclass(slots=True)
class RowAdapters:
    """The adapter of each row of the forward pass that runs now; what the layers read.

    Args:
        slots: peft's name of each adapter, in the order of the stacks; the first is the base.
        names: `[N]` peft's name of each row's adapter.
        index: `[N]` each row's slot.
        only: the slot that all rows use, None if they differ.
        marks: `[N, 1, 1, S, 1]` 1 at each row's slot and 0 elsewhere, None where `only` says all.
    """

    slots: tuple[str, ...]
    names: list[str] = field(default_factory=list)
    index: torch.Tensor | None = None
    only: int | None = 0
    marks: torch.Tensor | None = None

    def choose(self, names: list[str], device: torch.device, dtype: torch.dtype) -> None:
        """Sets the adapter of each row of the next forward pass, whose weights are of this type."""
        import torch

        if names != self.names:
            places = [self.slots.index(name) for name in names]
            self.names = names
            self.index = torch.tensor(places, device=device)
            self.only = places[0] if len(set(places)) == 1 else None
            marked = torch.nn.functional.one_hot(self.index, len(self.slots)) if self.only is None else None
            self.marks = None if marked is None else marked.to(dtype)[:, None, None, :, None]


def mix_rows(network: Any, slots: Sequence[str]) -> RowAdapters:
    """Replaces peft's layers in the network by ones that mix adapters within a batch; returns how rows choose.

    Args:
        network: a base into which peft has put the adapters' layers, in evaluation mode.
        slots: peft's names of the adapters.
    """
    import torch
    from peft.tuners.lora import Linear, LoraLayer

    rows = RowAdapters((BASE_ROW, *slots))

    class MixedLinear(torch.nn.Module):
        """A linear layer with the stacked adapters of one place in the network."""

        down: torch.Tensor  # [S, R, I]
        up: torch.Tensor  # [S, O, R]

        def __init__(self, layer: Any) -> None:
            super().__init__()
            self.base = layer.base_layer
            weight = self.base.weight
            rank = max(matrix.weight.shape[0] for matrix in layer.lora_A.values())
            down = weight.new_zeros(len(rows.slots), rank, self.base.in_features)
            up = weight.new_zeros(len(rows.slots), self.base.out_features, rank)
            for name, matrix in layer.lora_A.items():
                place, own = rows.slots.index(name), matrix.weight.shape[0]
                down[place, :own] = matrix.weight
                up[place, :, :own] = layer.lora_B[name].weight * layer.scaling[name]
            self.register_buffer("down", down, persistent=False)
            self.register_buffer("up", up, persistent=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.base(x)
            if rows.only == 0:
                return y
            if rows.only is not None:
                low = torch.nn.functional.linear(x, self.down[rows.only])
                return y + torch.nn.functional.linear(low, self.up[rows.only])
            low = torch.bmm(x, self.down[rows.index].transpose(1, 2))
            return torch.baddbmm(y, low, self.up[rows.index].transpose(1, 2))

    def tell(_layer: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        kwargs["adapter_names"] = rows.names
        return args, kwargs

    with torch.no_grad():
        for place, layer in list(network.named_modules()):
            if not isinstance(layer, LoraLayer):
                continue
            plain = isinstance(layer, Linear) and type(layer.base_layer) is torch.nn.Linear and not layer.lora_variant
            if plain and not any(matrix.bias is not None for matrix in layer.lora_B.values()):
                network.set_submodule(place, MixedLinear(layer))
            else:
                layer.register_forward_pre_hook(tell, with_kwargs=True)
    return rows


class JoinedLinear:
    """Linear layers that read the same input as one product, their adapters' first halves in it.

    One matrix holds `[W of every layer; A of every layer and slot]`; the layers' own weights become views of it, so that
    nothing is in memory twice. What the adapters of other rows made is multiplied by zero, and one product a layer with
    all B adds the rest. Where all slots together have more ranks than the layer has inputs, each row's own A and B are
    gathered instead.

    Args:
        layers: each a `torch.nn.Linear`, or one that `mix_rows` made. One alone without adapters keeps its weight: it may be tied.
        rows: where the adapter of each row is said; None without adapters.

    Raises:
        TypeError: a layer is of another kind.
    """

    def __init__(self, layers: Sequence[Any], rows: RowAdapters | None) -> None:
        import torch

        bases = [getattr(layer, "base", layer) for layer in layers]
        for base in bases:
            if type(base) is not torch.nn.Linear:
                raise TypeError(f"{type(base).__name__} is no plain linear layer")
        mixed = [(at, layer) for at, layer in enumerate(layers) if hasattr(layer, "down")]
        self._rows = rows if mixed else None
        sizes = [base.out_features for base in bases]
        ends = list(accumulate(sizes))
        rank = max((layer.down.shape[1] for _, layer in mixed), default=0)
        self._shape = (len(mixed), len(rows.slots) if rows and mixed else 0, rank)  # P, S, R
        joined = bases[0].weight
        if mixed or len(bases) > 1:
            joined = torch.cat([base.weight for base in bases] + [_ranked(layer.down, 1, rank).flatten(0, 1) for _, layer in mixed])
            if joined.device.type == "cpu":  # a product of few rows is up to 1.6 times as fast by columns, and no slower where it is not
                joined = joined.t().contiguous().t()
            for base, end in zip(bases, ends, strict=True):
                base.weight = torch.nn.Parameter(joined[end - base.out_features : end], requires_grad=False)
        biases = [base.bias if base.bias is not None else joined.new_zeros(base.out_features) for base in bases]
        bias = torch.cat(biases) if any(base.bias is not None for base in bases) else None
        added = joined.shape[0] - ends[-1]
        self._outputs = ends[-1]
        self._base = (joined[: ends[-1]], bias)
        self._whole = (joined, None if bias is None else torch.nn.functional.pad(bias, (0, added)))
        self._together = added <= joined.shape[1]
        self._down = joined[ends[-1] :].unflatten(0, self._shape) if mixed else None  # [P, S, R, I]
        self._ups: list[tuple[int, int, torch.Tensor]] = []  # where a layer's outputs begin and end, and its B: [S, R, O]
        for place, (at, layer) in enumerate(mixed):
            assert self._down is not None, "there are adapters"
            up = _ranked(layer.up, 2, rank).transpose(1, 2).contiguous()
            layer.down, layer.up = self._down[place], up.transpose(1, 2)
            self._ups.append((ends[at] - sizes[at], ends[at], up))

    def __call__(self, x: torch.Tensor, rows: int) -> torch.Tensor:
        """Returns `[N * T, O]` from `x`, `[N * T, I]` of N rows; its own to change."""
        import torch

        chosen = self._rows
        if chosen is None or chosen.only == 0:
            return torch.nn.functional.linear(x, *self._base)
        if not self._together:
            return self._gathered(x, rows, chosen)
        whole = torch.nn.functional.linear(x, *self._whole)
        y, low = whole.tensor_split((self._outputs,), 1)
        layers, slots, rank = self._shape
        if chosen.marks is None:
            lows = low.unflatten(1, self._shape)[:, :, chosen.only].unbind(1)
            for (start, end, up), own in zip(self._ups, lows, strict=True):
                y[:, start:end].addmm_(own, up[chosen.only])
        else:
            lows = (low.view(rows, -1, layers, slots, rank) * chosen.marks).view(-1, layers, slots * rank).unbind(1)
            for (start, end, up), own in zip(self._ups, lows, strict=True):
                y[:, start:end].addmm_(own, up.flatten(0, 1))
        return y

    def _gathered(self, x: torch.Tensor, rows: int, chosen: RowAdapters) -> torch.Tensor:
        import torch

        assert self._down is not None, "there are adapters"
        y = torch.nn.functional.linear(x, *self._base)
        for down, (start, end, up) in zip(self._down, self._ups, strict=True):
            if chosen.only is not None:
                y[:, start:end].addmm_(torch.nn.functional.linear(x, down[chosen.only]), up[chosen.only])
            else:
                low = torch.bmm(x.view(rows, -1, x.shape[1]), down[chosen.index].transpose(1, 2))
                y[:, start:end] += torch.bmm(low, up[chosen.index]).flatten(0, 1)
        return y


def _ranked(stack: torch.Tensor, axis: int, rank: int) -> torch.Tensor:
    """Returns the stack with zeros behind it on this axis, up to the rank."""
    import torch

    missing = [0, 0] * (stack.dim() - 1 - axis) + [0, rank - stack.shape[axis]]
    return torch.nn.functional.pad(stack, missing)
