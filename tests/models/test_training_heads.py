from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from attune.models.seam.bradley_terry import BradleyTerry
from attune.models.training.bradley_terry import BradleyTerrySettings, train_bradley_terry
from attune.models.training.features import Subspace
from attune.models.training.heads import (
    Heads,
    HeadsInvalid,
    TrainedFamily,
    compute_outputs,
    load_heads,
    save_heads,
)
from attune.models.training.micro import MicroSettings, train_micro
from attune.models.training.vrf import VrfSettings, train_vrf
from tests.models.small_world import SHORT, small_world


@pytest.fixture(scope="module")
def trained():
    data, _ = small_world()
    space = Subspace(4)
    return data, [
        train_bradley_terry(data, BradleyTerrySettings(subspace=space, loop=SHORT), 0),
        train_micro(data, MicroSettings(heads=3, subspace=space, loop=SHORT), 0),
        train_vrf(data, VrfSettings(heads=3, latent=4, features=4, prompt_features=2, hidden=(8, 8), subspace=space, loop=SHORT), 0),
    ]


def test_saved_families_compute_what_the_trained_ones_did(trained, tmp_path):
    data, families = trained
    save_heads(tmp_path, families, "vrf")
    loaded, default = load_heads(tmp_path)
    assert default == "vrf"
    assert [one.family.name for one in loaded] == ["bradley_terry", "micro", "vrf"]
    before, after = compute_outputs(families, data.vectors.candidates), compute_outputs(loaded, data.vectors.candidates)
    assert set(before) == {
        "bradley_terry_rewards",
        "micro_rewards",
        "micro_gate",
        "vrf_rewards",
        "vrf_features",
        "vrf_prompt_features",
    }
    assert all(np.array_equal(before[name], after[name]) for name in before)
    rows = [{name: value[index] for name, value in after.items()} for index in range(3)]
    for mine, theirs in zip(families, loaded, strict=True):
        assert np.array_equal(mine.family.learn(*rows, tie=False), theirs.family.learn(*rows, tie=False))
        assert mine.family.predict(np.zeros(mine.family.evidence_size), *rows) == theirs.family.predict(
            np.zeros(theirs.family.evidence_size), *rows
        )
        assert mine.summary["validation_nll"] == theirs.summary["validation_nll"]


def test_equal_families_are_equal_bytes(trained, tmp_path):
    _, families = trained
    for name in ("one", "two"):
        save_heads(tmp_path / name, families, "vrf")
    for file in ("heads.json", "heads.safetensors"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_every_row_gives_every_output_with_the_row_as_the_leading_axis(trained):
    data, families = trained
    outputs = compute_outputs(families, data.vectors.prompts)
    assert {len(value) for value in outputs.values()} == {30}
    assert np.allclose(np.exp(outputs["micro_gate"]).sum(axis=1), 1.0, atol=1e-5)


def test_a_head_that_reads_prompts_gets_the_prompts_vector():
    heads = Heads(
        {"gate": nn.Sequential(nn.Identity()), "rewards": nn.Sequential(nn.Identity())}, {"gate": "prompt", "rewards": "candidate"}
    )
    h, e = torch.zeros(2, 3), torch.ones(2, 3)
    assert heads(h, e)["gate"] is e
    assert heads(h, e)["rewards"] is h


def test_weights_that_do_not_fit_their_description_are_refused_by_family(trained, tmp_path):
    _, families = trained
    save_heads(tmp_path, families, "vrf")
    text = (tmp_path / "heads.json").read_text().replace('"inputs": 9', '"inputs": 8')
    (tmp_path / "heads.json").write_text(text)
    with pytest.raises(HeadsInvalid, match="bradley_terry"):
        load_heads(tmp_path)


def test_a_layer_without_a_file_format_is_refused_before_it_is_lost(tmp_path):
    heads = Heads({"odd_rewards": nn.Sequential(nn.Tanh())}, {"odd_rewards": "candidate"})
    with pytest.raises(HeadsInvalid, match="Tanh"):
        save_heads(tmp_path, [TrainedFamily(BradleyTerry("odd", ("quality",), 1.0), heads)], "odd")
