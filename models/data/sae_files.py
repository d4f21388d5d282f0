"""Sparse autoencoders of a trunk's token states, and the files that carry public ones.

    SAELens: cfg.json + sae_weights.safetensors (standard, topk, jumprelu)      Gemma Scope: params.npz (jumprelu)

`f(z) = act(W_enc (n(z) - b_dec) + b_enc)` and `z ~ f W_dec + b_dec`; row `j` of the decoder is the direction that latent
`j` writes. Axis letters: `N` states, `D` the trunk's width, `L` latents. This module does not know how one is trained.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

Activation = Literal["relu", "topk", "jumprelu"]
Normalisation = Literal["none", "constant_norm_rescale", "layer_norm"]

CONFIG, WEIGHTS, SCOPE = "cfg.json", "sae_weights.safetensors", "params.npz"
_ACTIVATIONS: Final[Mapping[str, Activation]] = {"standard": "relu", "topk": "topk", "jumprelu": "jumprelu"}
_NORMALISATIONS: Final[tuple[Normalisation, ...]] = ("none", "constant_norm_rescale", "layer_norm")


class AutoencoderInvalid(ValueError):
    """Files that hold no autoencoder which this version can use; the message names the file and what is wrong."""


@dataclass(frozen=True, slots=True)
class SparseAutoencoder:
    """Encoder and decoder of one layer's states.

    Attributes:
        W_enc, b_enc: `[D, L]` and `[L]`.
        W_dec, b_dec: `[L, D]` and `[D]`.
        activation: what makes latents sparse.
        k: latents kept by `topk`.
        threshold: `[L]`, above which `jumprelu` lets a latent pass.
        centred: whether `b_dec` is taken from states before they are encoded.
        normalisation: of a state before that, as SAELens names it.
        by_decoder_norm: whether `topk` compares latents by the length of what they write.
        layer: hidden state of the trunk that it reads, 0 the embeddings; None where the files do not say.
    """

    W_enc: Tensor
    b_enc: Tensor
    W_dec: Tensor
    b_dec: Tensor
    activation: Activation
    k: int = 0
    threshold: Tensor | None = None
    centred: bool = True
    normalisation: Normalisation = "none"
    by_decoder_norm: bool = False
    layer: int | None = None

    def __post_init__(self) -> None:
        width, latents = (int(size) for size in self.W_enc.shape) if self.W_enc.ndim == 2 else (-1, -1)
        shapes: dict[str, tuple[Tensor | None, tuple[int, ...]]] = {
            "W_enc": (self.W_enc, (width, latents)),
            "b_enc": (self.b_enc, (latents,)),
            "W_dec": (self.W_dec, (latents, width)),
            "b_dec": (self.b_dec, (width,)),
            "threshold": (self.threshold, (latents,)),
        }
        for name, (tensor, shape) in shapes.items():
            if tensor is None:
                continue
            if tuple(tensor.shape) != shape:
                raise AutoencoderInvalid(f"{name} is {tuple(tensor.shape)}; with W_enc {tuple(self.W_enc.shape)} it must be {shape}")
            if not bool(torch.isfinite(tensor).all()):
                raise AutoencoderInvalid(f"{name} has entries that are not finite")
        if self.activation == "topk" and not 1 <= self.k <= latents:
            raise AutoencoderInvalid(f"topk keeps k = {self.k} latents; 1 to {latents} are possible")
        if (self.activation == "jumprelu") != (self.threshold is not None):
            raise AutoencoderInvalid("jumprelu needs a threshold, and nothing else has one")

    @property
    def width(self) -> int:
        """`D`."""
        return int(self.W_enc.shape[0])

    @property
    def latents(self) -> int:
        """`L`."""
        return int(self.W_enc.shape[1])

    @torch.inference_mode()
    def encode(self, states: Tensor) -> Tensor:
        """Returns the latents `[N, L]` of `states` `[N, D]`, 0 or above.

        Raises:
            AutoencoderInvalid: the states are of another width.
        """
        if states.shape[-1] != self.width:
            raise AutoencoderInvalid(f"states are {states.shape[-1]} wide; this autoencoder reads {self.width}")
        inputs = _normalise(states, self.normalisation)
        before = (inputs - self.b_dec if self.centred else inputs) @ self.W_enc + self.b_enc
        match self.activation:
            case "relu":
                return before.relu()
            case "jumprelu":
                assert self.threshold is not None
                return before.relu() * (before > self.threshold)
            case "topk":
                return keep_top(before * self.W_dec.norm(dim=1) if self.by_decoder_norm else before, self.k)

    def decode(self, latents: Tensor) -> Tensor:
        """Returns the states `[N, D]` that `latents` `[N, L]` stand for, in the units that were encoded after normalisation."""
        written = latents / self.W_dec.norm(dim=1) if self.by_decoder_norm else latents
        return written @ self.W_dec + self.b_dec

    def directions(self) -> NDArray[np.float64]:
        """Returns the decoder's rows `[L, D]` at length 1."""
        rows = self.W_dec.double().numpy()
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        unit: NDArray[np.float64] = rows / np.where(lengths > 0, lengths, 1.0)
        return unit


def keep_top(values: Tensor, k: int) -> Tensor:
    """Returns `values` `[N, L]` with all but each row's `k` largest at 0, and none below 0."""
    top = values.topk(k, dim=-1, sorted=False)
    return torch.zeros_like(values).scatter(-1, top.indices, top.values.relu())


def load_autoencoder(folder: Path, *, layer: int | None = None) -> SparseAutoencoder:
    """Returns the autoencoder in `folder`, in SAELens' or Gemma Scope's format.

    Args:
        folder: with `cfg.json` and `sae_weights.safetensors`, or with `params.npz`.
        layer: of the trunk; overrides what the configuration says. A hook before block `b` is hidden state `b`, after it `b + 1`.

    Raises:
        AutoencoderInvalid: a file is absent or damaged, an array is missing, or the architecture is not one of standard,
            topk and jumprelu.
    """
    if (folder / CONFIG).is_file():
        config, arrays = _read_config(folder), _read_weights(folder)
        return _from_saelens(config, arrays, _layer(config) if layer is None else layer)
    if (folder / SCOPE).is_file():
        arrays = _read_scope(folder)
        W_enc, b_enc, W_dec, b_dec, threshold = _take(SCOPE, arrays, "W_enc", "b_enc", "W_dec", "b_dec", "threshold")
        return SparseAutoencoder(W_enc, b_enc, W_dec, b_dec, "jumprelu", threshold=threshold, centred=False, layer=layer)
    raise AutoencoderInvalid(f"{folder.name} has neither {CONFIG} (SAELens) nor {SCOPE} (Gemma Scope)")


def save_autoencoder(folder: Path, autoencoder: SparseAutoencoder) -> None:
    """Writes `cfg.json` and `sae_weights.safetensors`, which `load_autoencoder` and SAELens read."""
    folder.mkdir(parents=True, exist_ok=True)
    architecture = next(name for name, activation in _ACTIVATIONS.items() if activation == autoencoder.activation)
    config: dict[str, Any] = {
        "architecture": architecture,
        "d_in": autoencoder.width,
        "d_sae": autoencoder.latents,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": autoencoder.centred,
        "normalize_activations": autoencoder.normalisation,
        "reshape_activations": "none",
        "metadata": {} if autoencoder.layer is None else {"hidden_state": autoencoder.layer},
    }
    if autoencoder.activation == "topk":
        config |= {"k": autoencoder.k, "rescale_acts_by_decoder_norm": autoencoder.by_decoder_norm}
    tensors = {name: getattr(autoencoder, name).contiguous() for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
    if autoencoder.threshold is not None:
        tensors["threshold"] = autoencoder.threshold.contiguous()
    save_file(tensors, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _normalise(states: Tensor, how: Normalisation) -> Tensor:
    match how:
        case "none":
            return states
        case "constant_norm_rescale":
            rescaled: Tensor = states * states.shape[-1] ** 0.5 / states.norm(dim=-1, keepdim=True).clamp(min=1e-12)
            return rescaled
        case "layer_norm":
            centred = states - states.mean(dim=-1, keepdim=True)
            scaled: Tensor = centred / (centred.std(dim=-1, keepdim=True) + 1e-5)
            return scaled


def _from_saelens(config: Mapping[str, Any], arrays: Mapping[str, Tensor], layer: int | None) -> SparseAutoencoder:
    architecture = config.get("architecture", "standard")
    k = config.get("k", 0)
    # Before version 6 a TopK autoencoder was a standard one with another activation function.
    if architecture == "standard" and config.get("activation_fn_str", config.get("activation_fn")) == "topk":
        architecture, k = "topk", config.get("activation_fn_kwargs", {}).get("k", 0)
    if architecture not in _ACTIVATIONS:
        raise AutoencoderInvalid(f"{CONFIG}: architecture {architecture!r} is not one of {', '.join(_ACTIVATIONS)}")
    how = config.get("normalize_activations", "none")
    if how not in _NORMALISATIONS:
        raise AutoencoderInvalid(f"{CONFIG}: normalize_activations {how!r} is not one of {', '.join(_NORMALISATIONS)}; fold it first")
    if not isinstance(k, int):
        raise AutoencoderInvalid(f"{CONFIG}: k is {k!r}; a whole number is needed")
    W_enc, b_enc, W_dec, b_dec = _take(WEIGHTS, arrays, "W_enc", "b_enc", "W_dec", "b_dec")
    found = SparseAutoencoder(
        W_enc,
        b_enc,
        W_dec,
        b_dec,
        _ACTIVATIONS[architecture],
        k=k,
        threshold=_take(WEIGHTS, arrays, "threshold")[0] if architecture == "jumprelu" else None,
        centred=bool(config.get("apply_b_dec_to_input", True)),
        normalisation=how,
        by_decoder_norm=bool(config.get("rescale_acts_by_decoder_norm", False)),
        layer=layer,
    )
    told = (config.get("d_in"), config.get("d_sae"))
    if told != (found.width, found.latents):
        raise AutoencoderInvalid(f"{CONFIG} says d_in, d_sae = {told}; {WEIGHTS} holds {(found.width, found.latents)}")
    return found


def _layer(config: Mapping[str, Any]) -> int | None:
    metadata = config.get("metadata") or {}
    if "hidden_state" in metadata:
        return int(metadata["hidden_state"])
    name = str(metadata.get("hook_name") or config.get("hook_name") or config.get("hook_point") or "")
    parts = name.split(".")
    if len(parts) > 1 and parts[0] == "blocks" and parts[1].isdecimal():
        return int(parts[1]) + (parts[-1] == "hook_resid_post")
    return None


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise AutoencoderInvalid(f"{folder.name}/{CONFIG} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise AutoencoderInvalid(f"{folder.name}/{CONFIG} is not an object")
    return config


def _read_weights(folder: Path) -> dict[str, Tensor]:
    try:
        arrays: dict[str, Tensor] = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError, ValueError) as error:
        raise AutoencoderInvalid(f"{folder.name}/{WEIGHTS} cannot be read: {error}") from error
    return arrays


def _read_scope(folder: Path) -> dict[str, Tensor]:
    try:
        with np.load(folder / SCOPE, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(np.ascontiguousarray(arrays[name])) for name in arrays.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise AutoencoderInvalid(f"{folder.name}/{SCOPE} cannot be read: {error}") from error


def _take(file: str, arrays: Mapping[str, Tensor], *names: str) -> list[Tensor]:
    missing = [name for name in names if name not in arrays]
    if missing:
        raise AutoencoderInvalid(f"{file} lacks {', '.join(missing)}; it holds {', '.join(sorted(arrays))}")
    return [arrays[name].float() for name in names]
