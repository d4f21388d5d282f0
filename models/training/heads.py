"""A trained family: what the seam computes with, and the heads that go into the scorer graph; and how both are kept.

`heads(h, e)` maps pooled vectors to named outputs. Every row computes all outputs: the scorer passes its pooled vector as
both `h` and `e`, and callers read a candidate's outputs from its row and a prompt's from the prompt's row.
All families' weights are one `heads.safetensors` and one `heads.json`, small enough to be committed.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save
from torch import Tensor, nn

from attune.models.seam.artefacts import it_is
from attune.models.seam.documents import read_document
from attune.models.seam.families import Families, Family
from attune.models.seam.families_file import read_families, write_families
from attune.models.seam.family import Row
from attune.models.seam.trust import ALWAYS

OF_FIRST_HEAD = "of_first_head"
"""In a summary: how many times the first head stands in each of the family's heads, in logits; absent where heads were trained from it."""

Reads = Literal["candidate", "prompt"]
Outputs = dict[str, NDArray[np.float32]]


class HeadsInvalid(ValueError):
    """`heads.json` and `heads.safetensors` do not belong together or hold a layer that this version does not know."""


class Heads(nn.Module):
    """Named outputs, each a small stack of layers on the pooled vector; exportable to ONNX as it is.

    Attributes:
        reads: output name -> whether it is meant for a candidate's vector `h` or a prompt's vector `e`.
    """

    def __init__(self, outputs: Mapping[str, nn.Sequential], reads: Mapping[str, Reads]) -> None:
        super().__init__()
        self.outputs = nn.ModuleDict(dict(outputs))
        self.reads = dict(reads)

    def forward(self, h: Tensor, e: Tensor) -> dict[str, Tensor]:
        """Returns output name -> `[N, ...]` for pooled vectors `h` and `e`, each `[N, D + 1]`."""
        return {name: layers(e if self.reads[name] == "prompt" else h) for name, layers in self.outputs.items()}


@dataclass(frozen=True, slots=True)
class TrainedFamily:
    """What a trainer returns.

    Attributes:
        family: the numpy side, run by the server and the simulator.
        heads: the graph side.
        summary: settings, losses and monitors of the training, JSON data.
        trust: prior log-odds of a user's own evidence, see `models.seam.trust`.
    """

    family: Family
    heads: Heads
    summary: Mapping[str, Any] = field(default_factory=dict)
    trust: float = ALWAYS


def families_of(trained: Sequence[TrainedFamily]) -> Families:
    """Returns the families as a server reads them, each with its trust."""
    return Families([one.family for one in trained], {one.family.name: one.trust for one in trained})


@torch.inference_mode()
def compute_outputs(families: Sequence[TrainedFamily], vectors: NDArray[np.float32]) -> Outputs:
    """Returns every output of every family for every row of `vectors` `[N, D + 1]`, as the scorer graph would."""
    rows = torch.from_numpy(np.ascontiguousarray(vectors))
    return {name: value.numpy() for trained in families for name, value in trained.heads(rows, rows).items()}


def row_at(outputs: Outputs, index: int) -> Row:
    """Returns the outputs of one text."""
    return {name: values[index] for name, values in outputs.items()}


def save_heads(folder: Path, families: Sequence[TrainedFamily], default: str) -> None:
    """Writes `heads.safetensors` and `heads.json` into `folder`; equal families give equal bytes.

    Args:
        folder: made if absent.
        families: in the order in which they share the evidence vector.
        default: the family that serves where none is asked for.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = write_families([one.family for one in families], default, {one.family.name: one.trust for one in families})
    with np.load(io.BytesIO(files["families.npz"]), allow_pickle=False) as arrays:
        tensors = {f"seam/{name}": arrays[name] for name in arrays.files}
    entries = []
    for trained in families:
        state = trained.heads.state_dict()
        tensors |= {f"heads/{trained.family.name}/{name}": tensor.numpy() for name, tensor in state.items()}
        described = {
            name: {"reads": trained.heads.reads[name], "layers": [_describe(layer) for layer in _sequential(layers)]}
            for name, layers in trained.heads.outputs.items()
        }
        entries.append({"name": trained.family.name, "outputs": described, "summary": dict(trained.summary)})
    # Not `save_file`, whose files nobody else may read and whose errors are not OSError.
    (folder / "heads.safetensors").write_bytes(save({name: np.array(array, order="C") for name, array in sorted(tensors.items())}))
    document = {"schema": 1, "families": json.loads(files["families.json"]), "heads": entries}
    (folder / "heads.json").write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def load_heads(folder: Path) -> tuple[list[TrainedFamily], str]:
    """Returns the families that `save_heads` wrote, and the name of the default one.

    Raises:
        HeadsInvalid: no such file, another schema, an unknown layer, or weights that do not fit.
        FileNotFoundError: the weights are absent.
    """
    if not (folder / "heads.json").is_file():
        raise HeadsInvalid(
            f"{folder} has no heads.json, as `train families` and `import reward` write into a folder of families{it_is(folder)}"
        )
    document = read_document((folder / "heads.json").read_bytes(), file=str(folder / "heads.json"), schema=1, invalid=HeadsInvalid)
    try:
        tensors: dict[str, NDArray[Any]] = load_file(folder / "heads.safetensors")
        return _trained(document, tensors)
    except (SafetensorError, KeyError, TypeError, AttributeError) as error:
        raise HeadsInvalid(f"the heads in {folder} are damaged or of another make: {error!r}") from error


def _trained(document: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> tuple[list[TrainedFamily], str]:
    seam = {name.removeprefix("seam/"): array for name, array in tensors.items() if name.startswith("seam/")}
    buffer = io.BytesIO()
    np.savez(buffer, **seam)  # type: ignore[arg-type]  # numpy's stub takes the names for its allow_pickle flag
    families, default = read_families(json.dumps(document["families"]).encode(), buffer.getvalue())
    trained = []
    for entry in document["heads"]:
        outputs = {name: nn.Sequential(*map(_build, described["layers"])) for name, described in entry["outputs"].items()}
        heads = Heads(outputs, {name: described["reads"] for name, described in entry["outputs"].items()})
        prefix = f"heads/{entry['name']}/"
        state = {name.removeprefix(prefix): torch.from_numpy(array) for name, array in tensors.items() if name.startswith(prefix)}
        try:
            heads.load_state_dict(state)
        except RuntimeError as error:
            raise HeadsInvalid(f"heads of family {entry['name']!r}: {error}") from error
        trained.append(TrainedFamily(families[entry["name"]], heads.eval(), entry["summary"], families.trust[entry["name"]]))
    return trained, default


_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "log_softmax": lambda: nn.LogSoftmax(dim=-1),
    "relu": nn.ReLU,
    "silu": nn.SiLU,
}


def _describe(layer: nn.Module) -> dict[str, Any]:
    match layer:
        case nn.Linear():
            return {"kind": "linear", "inputs": layer.in_features, "outputs": layer.out_features, "bias": layer.bias is not None}
        case nn.LayerNorm():
            return {"kind": "layer_norm", "size": layer.normalized_shape[0]}
    for kind, make in _ACTIVATIONS.items():
        if type(layer) is type(make()):
            return {"kind": kind}
    raise HeadsInvalid(f"a layer of type {type(layer).__name__} has no file format")


def _build(entry: Mapping[str, Any]) -> nn.Module:
    match entry["kind"]:
        case "linear":
            return nn.Linear(entry["inputs"], entry["outputs"], bias=entry["bias"])
        case "layer_norm":
            return nn.LayerNorm(entry["size"])
        case kind if kind in _ACTIVATIONS:
            return _ACTIVATIONS[kind]()
        case kind:
            raise HeadsInvalid(f"heads.json has a layer of kind {kind!r}; this version knows linear, layer_norm, {', '.join(_ACTIVATIONS)}")


def _sequential(layers: nn.Module) -> nn.Sequential:
    assert isinstance(layers, nn.Sequential)
    return layers
