"""Trunks whose limits, widths and ways with padding no field of their configuration tells."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from attune.models.data.classifier import load_classifier
from attune.models.data.model_folder import TrunkUnavailable
from attune.models.data.trunk import load_trunk
from attune.models.export.onnx import ExportFailed, ScorerGraph, export_scorer
from attune.models.training.reward_model_family import ImportRefused, Named, head_names
from tests.models.architectures import tiny_tokenizer

SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
POSITIONS = {"max_position_embeddings": 64, "pad_token_id": 1}


def write(folder: Path, architecture: str, *, encoder: bool = True, labels: int = 0, **fields: Any) -> str:
    tokenizer = tiny_tokenizer(encoder=encoder)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = getattr(transformers, f"{architecture}Config")(vocab_size=len(tokenizer), **fields)
    if labels:
        config.num_labels = labels
        transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    else:
        transformers.AutoModel.from_config(config).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    ("architecture", "fields"),
    [
        ("MPNet", SIZES | POSITIONS),
        ("XLMRoberta", SIZES | POSITIONS),
        ("Longformer", SIZES | POSITIONS | {"attention_window": 8}),
        ("Xmod", SIZES | POSITIONS | {"languages": ["en_XX"], "default_language": "en_XX"}),
    ],
)
def test_positions_that_begin_after_those_of_the_padding_are_not_counted(tmp_path: Path, architecture: str, fields: dict[str, Any]) -> None:
    trunk = load_trunk(write(tmp_path, architecture, **fields))
    (row,) = trunk.encoder.candidates("hello " * 100, ["world " * 200])
    assert len(row) == trunk.template.max_tokens == 62
    assert np.all(np.isfinite(trunk.embed([row])))


def test_a_model_without_a_limit_may_say_so_by_a_number_below_nothing(tmp_path: Path) -> None:
    trunk = load_trunk(write(tmp_path, "XLNet", d_model=32, n_layer=2, n_head=2, d_inner=64, pad_token_id=0))
    assert trunk.template.max_tokens == 2048


def test_the_width_is_that_of_what_comes_out(tmp_path: Path) -> None:
    narrow = {"ffn_dim": 64, "word_embed_proj_dim": 16, "max_position_embeddings": 96, "pad_token_id": 0}
    fields = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, **narrow}
    trunk = load_trunk(write(tmp_path, "OPT", encoder=False, **fields))
    assert trunk.embed(trunk.encoder.candidates("hello", ["world"])).shape == (1, trunk.width) == (1, 17)


def test_a_trunk_that_reads_the_padding_is_refused(tmp_path: Path) -> None:
    fields = SIZES | {"max_position_embeddings": 96, "pad_token_id": 0, "embedding_size": 32, "initializer_range": 0.5}
    with pytest.raises(TrunkUnavailable, match="ConvBertModel reads the padding of a batch"):
        load_trunk(write(tmp_path / "trunk", "ConvBert", **fields))
    with pytest.raises(TrunkUnavailable, match="ConvBertForSequenceClassification reads the padding of a batch"):
        load_classifier(write(tmp_path / "reward", "ConvBert", labels=2, **fields))


def test_a_mixture_of_experts_is_refused_before_anything_is_trained_on_it(tmp_path: Path) -> None:
    fields = SIZES | {"num_key_value_heads": 1, "num_local_experts": 2, "max_position_embeddings": 96, "pad_token_id": 0}
    with pytest.raises(TrunkUnavailable, match=r"is a mixture of experts \(Mixtral"):
        load_trunk(write(tmp_path, "Mixtral", encoder=False, **fields))


@pytest.mark.parametrize(
    ("architecture", "fields", "said"),
    [
        # One hashes characters and has no row for a token; one wants places on a page, for which this width is none.
        ("Canine", SIZES | {"pad_token_id": 0}, "CanineModel has no table with a row for each token"),
        (
            "Lilt",
            SIZES | {"max_position_embeddings": 96, "pad_token_id": 0},
            "LiltModel makes no vector of a text alone, .* RuntimeError: mat1",
        ),
    ],
)
def test_a_model_that_cannot_be_given_a_text_is_refused_in_a_sentence(
    tmp_path: Path, architecture: str, fields: dict[str, Any], said: str
) -> None:
    with pytest.raises(TrunkUnavailable, match=said):
        load_trunk(write(tmp_path / "trunk", architecture, **fields))


def test_a_reward_model_that_has_no_row_for_a_token_is_refused_in_a_sentence(tmp_path: Path) -> None:
    # The Perceiver reads bytes of anything: what it says its table is, is no table.
    fields = {"d_model": 32, "d_latents": 32, "num_latents": 4, "num_blocks": 1, "num_self_attends_per_block": 1}
    with pytest.raises(TrunkUnavailable, match="PerceiverForSequenceClassification has no table with a row for each token"):
        load_classifier(write(tmp_path, "Perceiver", labels=2, num_self_attention_heads=2, num_cross_attention_heads=2, **fields))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    fields = SIZES | {"num_key_value_heads": 1, "max_position_embeddings": 96, "pad_token_id": 0}
    return Path(write(tmp_path_factory.mktemp("llama"), "Llama", encoder=False, **fields))


def adapter(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "some/base"}))


def quantised(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4, "group_size": 32}
    (folder / "config.json").write_text(json.dumps(config))


def own_code(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "other", "auto_map": {"AutoConfig": "code.C", "AutoModel": "code.M"}}
    (folder / "config.json").write_text(json.dumps(config))


def no_tokenizer(folder: Path) -> None:
    for file in folder.glob("*token*"):
        file.unlink()


def cut_off(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])


def no_numbers(folder: Path) -> None:
    model = transformers.AutoModel.from_pretrained(folder)
    model.layers[0].mlp.up_proj.weight.data[0, 0] = float("nan")
    model.save_pretrained(folder)


def few_rows(folder: Path) -> None:
    model = transformers.AutoModel.from_pretrained(folder)
    model.resize_token_embeddings(100)
    model.save_pretrained(folder)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (adapter, "is an adapter of some/base; merge the two"),
        (quantised, "is quantised, which no graph of ours can hold"),
        (own_code, "exists only in code that comes with it, which is never run"),
        (no_tokenizer, "has no tokenizer beside its weights"),
        (cut_off, "has damaged weights"),
        (no_numbers, "gives no finite numbers"),
        (few_rows, r"knows 100 tokens and its tokenizer \d+: they are not of one model"),
    ],
)
def test_what_a_folder_lacks_is_said_in_a_sentence_about_it(llama: Path, tmp_path: Path, spoil: Any, said: str) -> None:
    folder = tmp_path / "spoilt"
    shutil.copytree(llama, folder)
    spoil(folder)
    with pytest.raises(TrunkUnavailable, match=f"^trunk '{folder}' {said}"):
        load_trunk(str(folder))


@pytest.mark.parametrize(
    ("heads", "said"),
    [
        (
            {"v_head.summary.weight": (1, 32)},
            r"keeps a head that \w+ does not read, v_head.summary.weight, and score.weight would be random; save",
        ),
        ({"lm_head.weight": (64, 32)}, "has no trained head for texts: score.weight would be random; a model without a head is a trunk"),
        ({}, "has no trained head for texts"),
    ],
)
def test_a_head_that_is_kept_in_another_way_is_not_taken_for_none(
    llama: Path, tmp_path: Path, heads: dict[str, tuple[int, int]], said: str
) -> None:
    folder = tmp_path / "other"
    shutil.copytree(llama, folder)
    weights = {f"model.{name}": each for name, each in load_file(folder / "model.safetensors").items()}
    more = {name: torch.ones(shape) for name, shape in heads.items()}
    save_file(weights | more, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(TrunkUnavailable, match=f"^'{folder}' {said}"):
        load_classifier(str(folder))


@pytest.mark.parametrize(
    ("labels", "why"),
    [
        (["LABEL_0", "LABEL_1"], "the model does not name its 2 outputs: they are called reward_0 to reward_1; --names names them"),
        (["kind", "kind"], "the model calls several of its 2 outputs 'kind': they are called"),
        (["kind", "a\nb"], r"the model calls one of its 2 outputs 'a\nb', which is no name: they"),
    ],
)
def test_labels_that_are_not_taken_are_named(labels: list[str], why: str) -> None:
    found = head_names(labels, ())
    assert found.names == ("reward_0", "reward_1")
    assert found.told[0].startswith(why.replace("\n", "\\n"))
    assert head_names(["kind", "short"], ()) == Named(("kind", "short"))


@pytest.mark.parametrize("labels", [["", "b"], ["a", "a\nb"], ["a", "b" * 101], ["a", "\x00"]])
def test_labels_that_nobody_can_read_are_no_names_of_heads(labels: list[str]) -> None:
    assert head_names(labels, ()).names == ("reward_0", "reward_1")
    with pytest.raises(ImportRefused, match=r"is no name for a head|is empty"):
        head_names(["x", "y"], labels)


@pytest.mark.parametrize(
    ("architecture", "fields", "said"),
    [
        (
            "Longformer",
            SIZES | POSITIONS | {"attention_window": 8},
            "LongformerModel makes a graph that does not read texts of every length",
        ),
        (
            "Mamba",
            {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4, "pad_token_id": 0},
            "MambaModel makes a graph that does not",
        ),
    ],
)
def test_an_architecture_without_a_graph_is_told_as_that(tmp_path: Path, capfd: Any, architecture: str, fields: Any, said: str) -> None:
    trunk = load_trunk(write(tmp_path / "trunk", architecture, encoder=architecture != "Mamba", **fields))
    rows = trunk.encoder.candidates("hello", ["you", "world " * 40, "boil the egg for nine minutes " * 2, "hello " * 3])
    capfd.readouterr()
    with pytest.raises(ExportFailed, match=f"^{said}"):
        export_scorer(ScorerGraph(trunk, []), rows, tmp_path / "scorer.onnx")
    assert capfd.readouterr().err == ""
