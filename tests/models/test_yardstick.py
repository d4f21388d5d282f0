"""What is worse than a simple head before the first comparison is found out, told, and not packed unless somebody insists."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from attune.models.data.trunk import load_trunk
from attune.models.export.pack import NotWorthServing, pack
from attune.models.seam.trust import NEVER
from attune.models.training.bradley_terry import BradleyTerrySettings, train_bradley_terry
from attune.models.training.features import Subspace
from attune.models.training.first_head import fit_in_turns
from attune.models.training.heads import TrainedFamily, load_heads, save_heads
from attune.models.training.loop import TrainingData
from attune.models.training.yardstick import Yardstick, below, made_up, with_standing
from tests.models.small_world import small_world
from tests.models.test_pack import global_family, write_families_folder
from tests.models.tiny_trunk import write_tiny_trunk


def turned_round(trained: TrainedFamily) -> TrainedFamily:
    """Returns the family with the opposite taste."""
    with torch.no_grad():
        for parameter in trained.heads.parameters():
            parameter.neg_()
    return trained


def test_everybodys_head_stands_above_the_simple_heads_and_the_opposite_one_below():
    data, _ = small_world(users=60)
    asked = Yardstick.of(data)
    trained = train_bradley_terry(data, BradleyTerrySettings(subspace=Subspace(5, everybody=True)), 0)
    found = with_standing(trained, data, asked)
    assert below(found) == ""
    assert found.summary["at_first"]["nll"] == pytest.approx(trained.summary["validation_nll"], abs=1e-4)
    worse = with_standing(turned_round(trained), data, asked)
    assert "bradley_terry loses" in below(worse)
    assert worse.summary["at_first"]["behind_nll"] > 0


@pytest.mark.parametrize(
    ("trust", "margin", "unsure", "is_below"),
    [(0.0, 0.05, 0.04, False), (0.0, 0.05, 0.06, True), (0.0, -0.05, 0.0, True), (NEVER, 0.05, 0.0, True)],
)
def test_what_people_surely_gain_as_they_are_known_makes_up_for_a_family_that_is_behind_at_first(trust, margin, unsure, is_below):
    data, _ = small_world(users=60)
    asked = Yardstick.of(data)
    worse = turned_round(train_bradley_terry(data, BradleyTerrySettings(subspace=Subspace(5, everybody=True)), 0))
    behind = with_standing(worse, data, asked).summary["at_first"]["behind_nll"]
    told = {"gain_nll": behind + margin, "gain_nll_standard_error": unsure}
    found = with_standing(replace(worse, trust=trust, summary={"trust": told}), data, asked)
    assert found.summary["at_first"]["behind_nll"] == behind
    assert bool(below(found)) is is_below
    assert ("which makes up for it" in made_up(found)) is not is_below


def test_the_few_who_judge_do_not_choose_how_strongly_the_simple_heads_are_held_back():
    data, _ = small_world(users=40)
    few = data.validation.take(np.isin(data.validation.user, np.unique(data.validation.user)[:3]))
    data = TrainingData(data.train, few, data.vectors)
    inputs = data.vectors.candidates
    in_turns = inputs.astype(np.float64) @ fit_in_turns(inputs, data.train, data.validation)
    chosen_by_them = inputs.astype(np.float64) @ data.ridge().weights
    told = Yardstick.of(data)
    lost = told.losses["ridge"]
    np.testing.assert_allclose(lost, np.logaddexp(0.0, in_turns[told.comparisons.rejected] - in_turns[told.comparisons.chosen]), atol=1e-9)
    flattered = np.logaddexp(0.0, chosen_by_them[told.comparisons.rejected] - chosen_by_them[told.comparisons.chosen])
    assert lost.mean() > flattered.mean()


def test_a_family_that_was_never_compared_is_taken_as_it_is():
    assert below(global_family(3)) == ""


def test_a_family_below_the_simple_heads_is_packed_only_if_somebody_insists(tmp_path):
    trunk = load_trunk(str(write_tiny_trunk(tmp_path / "trunk", "encoder")))
    folder = write_families_folder(tmp_path / "families", trunk)
    [family], default = load_heads(folder)
    report = {"nll": 0.71, "best_simple": "length", "best_simple_nll": 0.65, "below": True}
    save_heads(folder, [replace(family, summary={"at_first": report})], default)
    with pytest.raises(NotWorthServing, match=r"quality loses 0\.710 .* length alone 0\.650: nothing was packed.*--serve-anyway"):
        pack(folder, tmp_path / "out", "mine", trunk=trunk)
    assert not (tmp_path / "out").exists()
    done = pack(folder, tmp_path / "out", "mine", trunk=trunk, serve_anyway=True)
    assert "below a simple head: quality loses" in done.told[0]
