"""A trunk that makes no graph is refused before anything is learned on it, and one that does is not asked twice."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from attune.models.__main__ import app
from attune.models.data.classifier import load_classifier
from attune.models.data.trunk import Trunk, load_demo_trunk, load_trunk
from attune.models.export.onnx import ExportFailed
from attune.models.export.trial import expect_graph
from tests.models.architectures import write_architecture
from tests.models.test_odd_trunks import POSITIONS, SIZES, write

WINDOWS = SIZES | POSITIONS | {"attention_window": 8}


def table(folder: Path) -> str:
    rows = [
        {"user": f"u{user}", "prompt": f"ask {item}", "chosen": "hello " * (1 + item % 3), "rejected": f"boil the egg {item} {user}"}
        for user in range(4)
        for item in range(4)
    ]
    path = folder / "prefs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def asked(trunk: Trunk, cache: Path | None, **more: Any) -> list[str]:
    said: list[str] = []
    expect_graph(trunk, cache, said.append, **more)
    return said


@pytest.mark.parametrize(("command", "labels"), [(["train", "families"], 0), (["import", "reward"], 2)])
def test_commands_refuse_a_model_without_a_graph_before_a_text_is_embedded(tmp_path: Path, command: list[str], labels: int) -> None:
    model, people, kept = write(tmp_path / "model", "Longformer", labels=labels, **WINDOWS), table(tmp_path), tmp_path / "cache"
    given = [model, "--users", people] if labels else [people, "--trunk", model]
    shown = CliRunner().invoke(app, [*command, *given, "--out", str(tmp_path / "fam"), "--cache", str(kept)])
    assert shown.exit_code == 1
    assert "makes a graph that does not read texts of every length, so that it cannot be a trunk" in shown.stderr
    assert not kept.exists()
    assert not (tmp_path / "fam").exists()


def test_a_trunk_that_makes_a_graph_is_tried_once_for_each_configuration(tmp_path: Path) -> None:
    source = write_architecture(tmp_path / "trunk", "Qwen3")
    trunk, kept = load_trunk(str(source), layers=(0, 2)), tmp_path / "cache"
    said = asked(trunk, kept)
    assert "Qwen3Model can be packed: tried on all of it in" in said[-1]
    assert asked(trunk, kept) == []
    assert len(asked(trunk, None)) == len(said)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}}))
    assert len(asked(load_trunk(str(source), layers=(0, 2)), kept)) == len(said)


DEEP = SIZES | {"num_hidden_layers": 6, "max_position_embeddings": 96, "pad_token_id": 0}


@pytest.mark.parametrize(
    ("architecture", "fields"),
    [
        ("Qwen3", DEEP | {"num_key_value_heads": 1, "head_dim": 16}),
        ("Gemma3Text", DEEP | {"num_key_value_heads": 1, "head_dim": 16, "sliding_window": 16}),
        ("ModernBert", DEEP | {"local_attention": 16, "cls_token_id": 1, "sep_token_id": 2}),
        ("GPT2", {"n_embd": 32, "n_layer": 6, "n_head": 2, "n_positions": 96, "pad_token_id": 0}),
    ],
)
def test_a_large_trunk_is_tried_on_two_layers_of_its_configuration(tmp_path: Path, architecture: str, fields: dict[str, Any]) -> None:
    trunk = load_trunk(write(tmp_path / "trunk", architecture, encoder=architecture == "ModernBert", **fields), layers=(0, 3, 6))
    said = asked(trunk, tmp_path / "cache", most_bytes=1)
    assert "can be packed: tried on 2 layers with random weights in" in said[-1]
    assert trunk.model.config.num_hidden_layers == 6
    assert asked(trunk, tmp_path / "cache", most_bytes=1) == []


def test_tokens_of_a_large_vocabulary_are_read_by_a_small_one() -> None:
    trunk = load_demo_trunk()
    assert "BertModel can be packed: tried on 2 layers" in asked(trunk, None, most_bytes=1)[-1]
    assert len(trunk.model.state_dict()["embeddings.word_embeddings.weight"]) == 30_522


def test_a_large_trunk_that_makes_no_graph_is_refused_by_two_layers_of_it(tmp_path: Path) -> None:
    trunk = load_trunk(write(tmp_path / "trunk", "Longformer", **WINDOWS | {"num_hidden_layers": 6}))
    with pytest.raises(ExportFailed, match=r"^LongformerModel makes a graph that does not read texts of every length"):
        asked(trunk, tmp_path / "cache", most_bytes=1)


def test_a_large_reward_model_is_tried_as_one(tmp_path: Path) -> None:
    fields = DEEP | {"num_key_value_heads": 1}
    model = load_classifier(write(tmp_path / "model", "Llama", encoder=False, labels=2, **fields))
    assert "LlamaForSequenceClassification can be packed: tried on 2 layers" in asked(model, None, most_bytes=1)[-1]


def test_a_large_trunk_that_cannot_be_cut_is_passed_and_told_as_not_tried(tmp_path: Path) -> None:
    trunk = load_trunk(str(write_architecture(tmp_path / "trunk", "Llama")))
    said = asked(trunk, tmp_path / "cache", most_bytes=1)
    assert said[-1].startswith("not tried: LlamaModel has 0.0 GB of weights and cannot be cut to 2 layers: it would be as large")
    assert not (tmp_path / "cache").exists()


def test_a_graph_that_fails_is_not_printed_where_results_are(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fields = SIZES | {"max_position_embeddings": 96, "pad_token_id": 0}
    trunk = load_trunk(write(tmp_path / "trunk", "Tapas", **fields))
    with pytest.raises(ExportFailed, match=r"^TapasModel cannot be written as a graph"):
        asked(trunk, None)
    os.write(1, b"a result\n")
    assert capfd.readouterr().out == "a result\n"
