"""Linear layers whose rows each use their own LoRA adapter, in two batched products.

    y[n] = x[n] W^T + (x[n] A_s^T) B_s^T,   s = the adapter of row n; slot 0 is zero: the base alone

LoRA: Hu et al. 2021, arXiv 2106.09685; one base, many adapters in a batch: Chen et al. 2023, arXiv 2310.18547 (Punica).
peft's own mixed batches loop over the adapters in Python in every layer; here the adapters of a layer are stacked once,
padded with zeros to the highest rank. Layers of other kinds stay peft's and are told their rows' adapters by a hook.
Axes: N rows, T tokens, S slots, R rank, I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
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
    """

    slots: tuple[str, ...]
    names: list[str] = field(default_factory=list)
    index: torch.Tensor | None = None
    only: int | None = 0

    def choose(self, names: list[str], device: torch.device) -> None:
        """Sets the adapter of each row of the next forward pass."""
        import torch

        if names != self.names:
            places = [self.slots.index(name) for name in names]
            self.names = names
            self.index = torch.tensor(places, device=device)
            self.only = places[0] if len(set(places)) == 1 else None


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
