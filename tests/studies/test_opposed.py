"""Two groups with opposed tastes: one head for all is at chance, a family that learns from each user is not."""

from __future__ import annotations

import json

import pytest

from attune.models.training.bradley_terry import BradleyTerrySettings
from attune.models.training.features import Subspace
from attune.models.training.micro import MicroSettings
from attune.models.training.vrf import VrfSettings
from demo.heads import DemoSettings, written_pool
from studies.groups.manners import MannersStudy, evaluate_manners
from tests.models.small_world import SHORT, BagOfWords

SPACE = Subspace(8, 0.3)
SMALL = DemoSettings(
    prompts=40,
    answers=2,
    bradley_terry=BradleyTerrySettings(subspace=SPACE, loop=SHORT),
    micro=MicroSettings(heads=6, router=8, subspace=SPACE, loop=SHORT),
    vrf=VrfSettings(heads=6, latent=6, features=8, prompt_features=2, hidden=(16,), subspace=SPACE, loop=SHORT),
)


def test_opposed_groups_leave_one_head_at_chance_and_the_report_says_which_bars_are_met(tmp_path):
    pools = [written_pool(part, SMALL, seed=0) for part in ("train", "validation", "test")]
    trunk = BagOfWords([text for pool in pools for _, text in pool.texts().candidates])
    study = MannersStudy(tastes=("playful or formal",), users=120, test_users=40, demo=SMALL)
    results = evaluate_manners(tmp_path, seed=1, study=study, trunk=trunk)
    assert json.loads((tmp_path / "results.json").read_text()) == json.loads(json.dumps(results))
    [one] = results["opposed"]
    assert one["curves"]["vrf"][-1]["accuracy"]["mean"] > 0.7
    assert one["curves"]["bradley_terry"][-1]["accuracy"]["mean"] == pytest.approx(0.5, abs=0.08)
    report = (tmp_path / "report.md").read_text()
    met = abs(one["curves"]["bradley_terry"][-1]["accuracy"]["mean"] - 0.5) <= 0.03
    assert f"- {'met' if met else 'NOT MET'}: global head 50 ± 3 % (playful or formal, seed 1): 0." in report
