"""Writes a bundle's trunk as infinity reads it: the tokenizer and `onnx/model.onnx`, which gives the last hidden state of each token.

    python -m loadtest.peers.infinity_model BUNDLE FOLDER

infinity pools it and returns the vector, without any head. It optimises the graph itself; encoders of BERT's inputs alone.
"""

from __future__ import annotations

import shutil
import sys
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from attune.models.data.model_folder import open_model
from attune.models.data.trunk import load_trunk
from attune.models.seam.bundle import read_bundle

INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class LastHiddenState(nn.Module):
    """An encoder of Hugging Face's as a function of tensors."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        """Returns the last layer's states, `[B, T, D]`, of ids, mask and types, each `[B, T]`."""
        found: Tensor = self.encoder(input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids).last_hidden_state
        return found


def write_infinity_model(bundle: Path, folder: Path) -> None:
    """Writes the folder; its files are named as infinity looks for them."""
    name = str(read_bundle(bundle).manifest["trunk"]["name"])
    location, _, _ = open_model(name)
    (folder / "onnx").mkdir(parents=True)
    for file in Path(location).glob("*.json"):
        shutil.copy(file, folder)
    shutil.copy(Path(location) / "vocab.txt", folder)
    encoder = LastHiddenState(load_trunk(name).model).eval()
    ids = torch.ones((2, 8), dtype=torch.int64)
    axes = {name: {0: "batch_size", 1: "sequence_length"} for name in (*INPUTS, "last_hidden_state")}
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # the TorchScript exporter is announced as legacy, as in `models.export.onnx`
        torch.onnx.export(
            encoder,
            (ids, ids, ids * 0),
            str(folder / "onnx/model.onnx"),
            dynamo=False,
            input_names=list(INPUTS),
            output_names=["last_hidden_state"],
            dynamic_axes=axes,
            opset_version=17,
        )


if __name__ == "__main__":
    write_infinity_model(Path(sys.argv[1]), Path(sys.argv[2]))
