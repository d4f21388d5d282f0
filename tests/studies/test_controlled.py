"""The controlled set is what it says, cards and shifts are worked out by hand, and the report holds all bars."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from attune.models.data.preferences import Comparison, Comparisons
from attune.models.measuring.expert_cards import expert_cards, weight_shift
from attune.models.measuring.rows import Rows
from attune.models.seam.hedge import HedgeSettings
from attune.models.seam.sparse_moe import SparseMoe
from attune.models.training.bradley_terry import BradleyTerrySettings
from attune.models.training.loop import LoopSettings
from attune.models.training.sparse_moe import SparseMoeSettings
from studies.controlled.controlled import AXES, ControlledSizes, controlled_world
from studies.controlled.run import ControlledStudy, evaluate_controlled
from studies.groups.worlds import WorldSizes
from tests.seam.users import LN3

SMALL = ControlledSizes(world=WorldSizes(users=64, per_user=16, test_users=32, targets=10, answers=4, width=8))


def test_users_who_differ_at_one_axis_only_agree_about_prompts_of_the_other_kinds():
    world = controlled_world(SMALL, seed=0)
    kind = np.repeat(world.prompt_kind, SMALL.world.answers)
    # Users 0 and 1 differ in the first axis alone.
    differ = np.abs(world.utilities[:, 0] - world.utilities[:, 1]) > 1e-9
    assert differ[kind == 0].all()
    assert not differ[kind != 0].any()
    assert world.utilities.shape[1] == 2**AXES


def test_what_all_users_like_together_is_quality_alone():
    world, plain = controlled_world(SMALL, seed=0), controlled_world(replace(SMALL, quality=0.0), seed=0)
    np.testing.assert_allclose(plain.utilities.mean(axis=1), 0.0, atol=1e-12)
    assert np.corrcoef(world.utilities.mean(axis=1), world.utilities[:, 3])[0, 1] > 0.2


def small() -> tuple[SparseMoe, Rows, Comparisons]:
    """A shared expert and two routed ones; the first prompt opens a, the second b, three to one."""
    family = SparseMoe("moe", ("quality", "a", "b"), 1.0, HedgeSettings(), np.log([0.2, 0.4, 0.4]), 2)
    told = Comparisons.from_records([Comparison("u", "first", "x", "y"), Comparison("u", "second", "x", "y")])
    gates = [np.log([0.2, 0.6, 0.2]), np.log([0.2, 0.2, 0.6])]
    rewards = [[1.0, 2.0, -1.0], [0.0, 0.0, 0.0], [1.0, 5.0, 1.0], [0.0, 0.0, 0.0]]
    return family, Rows(tuple({"moe_gate": gate} for gate in gates), tuple({"moe_rewards": np.array(one)} for one in rewards)), told


def test_a_card_shows_where_an_expert_contributed_most_to_what_was_chosen():
    family, rows, told = small()
    quality, a, b = expert_cards(family, rows, told)
    assert [(example.prompt, round(example.contrast, 6)) for example in a.examples] == [("first", 1.2), ("second", 1.0)]
    # By weight alone b would be shown for nothing: it spoke against the choice in the first comparison.
    assert [example.prompt for example in b.examples] == ["second"]
    assert (quality.share, a.share, b.accuracy) == pytest.approx((0.2, 0.4, 0.5))
    assert a.examples[0].chosen == "x"
    assert a.examples[0].rejected == "y"


def test_the_shift_of_weights_is_the_mean_over_the_same_prompts():
    family, rows, _ = small()
    # Three times as likely as a: .2, 1.8, .2 of 2.2 on the first prompt and .2, .6, .6 of 1.4 on the second.
    shift = weight_shift(family, np.array([0.0, -LN3, 0.0]), rows.prompts)
    expected = (np.array([0.2, 1.8, 0.2]) / 2.2 - [0.2, 0.6, 0.2] + np.array([0.2, 0.6, 0.6]) / 1.4 - [0.2, 0.2, 0.6]) / 2
    np.testing.assert_allclose(shift, expected, rtol=1e-12)
    assert shift.sum() == pytest.approx(0.0, abs=1e-12)
    with pytest.raises(ValueError, match="there are none"):
        weight_shift(family, np.zeros(3), [])


def test_the_report_holds_every_bar_for_every_seed(tmp_path):
    loop = LoopSettings(steps=40)
    study = ControlledStudy(2, SMALL, BradleyTerrySettings(loop=loop), SparseMoeSettings(experts=4, hidden=8, loop=loop))
    results = evaluate_controlled(tmp_path, study=study)
    report = (tmp_path / "report.md").read_text()
    assert report.count("effective experts at least 0.7 K") == report.count("within 0.5 of k = 2") == 2
    assert "global accuracy within one point" in report
    assert results["gain"][0]["users"] == 64
    assert 1.0 <= results["monitors"][0]["experts_per_prompt"] <= results["monitors"][0]["effective_experts"] <= 4.0 + 1e-6
