"""PALM on rewards that can be traded: planted worlds whose worst case is known, rewards counted by hand, and the whole study small."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from attune.models.alignment.causal import load
from attune.models.portfolio.oracles import BestOfN, Solution
from demo.__main__ import BASE
from studies.palm.aligned import compare_policies
from studies.palm.planned import best_of_n_evidence, measured, plan_best_of_n, proved
from studies.palm.pools import fresh_prompts, pool_scores, search_prompts
from studies.palm.run import PalmStudy, evaluate_palm, over_seeds, traded
from studies.palm.traded import TRADED, traded_rewards, traded_scores


def quarter_circle(prompts: int, seed: int) -> np.ndarray:
    """Pools whose answers lie on a quarter circle around 0, each prompt's of a radius of its own: `[P, 91, 2]`."""
    angles = np.linspace(0.0, np.pi / 2, 91)
    radius = np.random.default_rng(seed).uniform(0.8, 1.0, prompts)
    return radius[:, None, None] * np.column_stack([np.cos(angles), np.sin(angles)])


def test_on_a_quarter_circle_m_members_lose_what_geometry_says_and_no_more_is_certified():
    # Members at the middles of M equal arcs are the best: the farthest user is half an arc away, and gets the cosine of that.
    planned = plan_best_of_n(BestOfN(quarter_circle(50, 0)), (1, 2, 3))
    fresh = quarter_circle(800, 1)
    for size, one in planned.items():
        known = np.cos(np.pi / (4 * size))
        evidence = best_of_n_evidence(one, fresh)
        found = measured(evidence.members.mean(axis=0), BestOfN(fresh))
        few, many = (proved(evidence, ("a", "b"), count)["certified"] for count in (100, 800))
        assert len(one.weights) == size
        assert known - 0.02 <= found["ratio"] <= known + 1e-3
        assert few < many <= found["ratio"]
        assert many >= found["ratio"] - 0.06


@pytest.mark.filterwarnings("error")
def test_a_reward_that_does_not_vary_is_kept_whole_and_correlates_with_nothing():
    rewards = np.tile(np.array([[0.0, 0.5, 0.3], [1.0, 0.5, 0.2]]), (5, 1, 1))
    found = traded(BestOfN(rewards))
    assert found["kept"][1] == 1.0
    assert np.isnan(found["correlation"])[1].all()
    assert np.isfinite(np.array(found["correlation"])[[0, 2]][:, [0, 2]]).all()


def test_rewards_that_exclude_each_other_are_told_from_those_that_can_be_traded():
    excluding = traded(BestOfN(np.tile(np.eye(2), (5, 1, 1))))  # two answers, one for each reward
    assert excluding["kept"] == [1.0, 0.0]
    assert excluding["correlation"][0][1] == pytest.approx(-1.0)
    beaten = np.array([[[1.0, 0.0], [0.0, 1.0], [0.8, 0.7], [0.5, 0.5]]])
    tradable = traded(BestOfN(beaten))
    assert tradable["kept"] == pytest.approx([0.8, 0.7])
    assert tradable["front"] == 0.75  # the last answer is exceeded by the third in both


def test_portfolios_of_trained_policies_give_and_prove_what_was_worked_out_by_hand():
    values = np.array([[1.0, 0.2], [0.2, 1.0], [0.8, 0.8]])
    asked = np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    policies = tuple(
        Solution(weights, value, np.zeros(2), float(weights @ value), str(index))
        for index, (weights, value) in enumerate(zip(asked, values, strict=True))
    )
    fresh = values + np.random.default_rng(0).choice([-0.01, 0.0], (2000, 3, 2)) + 0.005
    fresh = np.clip(fresh, 0.0, 1.0)
    found = compare_policies(policies, fresh, ("a", "b"), (1, 2, 3), (200,))
    one, two, three = found["sizes"]
    assert one["weights"] == [[0.5, 0.5]]  # alone it keeps 0.8 of what either reward's own policy has
    assert one["ratio"] == pytest.approx(0.8, abs=0.01)
    assert [one["members"], two["members"], three["members"]] == [1, 1, 3]  # of two, one reward's user still has 0.8
    # At weights (3/4, 1/4) the members have 0.8, and what was asked allows (1, 0.6), which is 0.9.
    assert three["ratio"] == pytest.approx(0.8 / 0.9, abs=0.01)
    assert [one["trained"], three["trained"]] == pytest.approx([0.8, 1.0], abs=0.01)
    assert found["by_prompts"][0]["certified"] < three["certified"] <= three["ratio"]
    assert three["certified"] > 0.85


def test_rewards_are_those_counted_by_hand():
    # 9 words in 2 sentences, 8 different ones, 3 of them with five letters or more, 13 syllables
    text = "Bake the bread slowly. Serve the soup quite hot."
    brevity, substance, short, readability, variety = traded_scores(text)
    assert brevity == 1.0
    assert substance == pytest.approx(1 - np.exp(-4 / 6))
    assert short == 1.0
    assert readability == 1.0
    assert variety == pytest.approx(8 / 9)
    long = " ".join(["word"] * 75)
    assert traded_scores(long)[TRADED.index("brevity")] == pytest.approx(0.5)
    assert traded_scores(long)[TRADED.index("short_sentences")] == 0.0
    assert not traded_scores("!?").any()
    assert traded_rewards(("variety", "brevity")).of(["q"], [text]).tolist() == [[8 / 9, 1.0]]


def test_prompts_that_certify_are_of_topics_that_nothing_was_planned_on():
    assert not {*search_prompts(3, 10_000)} & {*fresh_prompts(3, 2_000)}
    assert len(set(fresh_prompts(3, 2_000))) > 300
    assert len(fresh_prompts(3, 2_000, ("test",))) == 2_000


def test_an_interval_over_seeds_is_students():
    found = over_seeds([1.0, 2.0, 3.0])
    assert found["mean"] == 2.0
    assert found["high"] == pytest.approx(2.0 + 4.3027 / np.sqrt(3), abs=1e-3)


def test_the_study_is_written_and_goes_on_with_the_pools_that_it_kept(tmp_path):
    study = PalmStudy(search=10, fresh=30, answers=3, sizes=(1, 2), prompts=(15,))
    told: list[str] = []
    first = evaluate_palm(BASE, tmp_path, seeds=(0,), study=study, sets=("three",), progress=told.append)
    assert any("answers" in line for line in told)
    report = (tmp_path / "report.md").read_text("utf-8")
    assert "## three, best of 3: brevity, substance, short_sentences" in report
    assert json.loads((tmp_path / "results.json").read_text("utf-8"))["seeds"] == [0]
    told.clear()
    again = evaluate_palm(BASE, tmp_path, seeds=(0,), study=study, sets=("three",), progress=told.append)
    assert again["best of n"] == first["best of n"]
    assert not any("answers" in line for line in told)
    with pytest.raises(ValueError, match="other pools"):
        evaluate_palm(BASE, tmp_path, seeds=(0,), study=PalmStudy(search=5), sets=("three",), progress=told.append)
    other = _silent_copy(tmp_path / "other")
    with pytest.raises(ValueError, match="other pools"):
        evaluate_palm(other, tmp_path, seeds=(0,), study=study, sets=("three",), progress=told.append)
    with pytest.raises(ValueError, match="no set of rewards is called five"):
        evaluate_palm(BASE, tmp_path, seeds=(0,), study=study, sets=("five",), progress=told.append)


def _silent_copy(folder: Path) -> Path:
    """Returns the demo's base with weights of nothing."""
    shutil.copytree(BASE, folder)
    weights = {name: 0 * tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_pool_that_a_copy_broke_off_is_named_and_none_is_written_in_parts(tmp_path):
    model, file = load(BASE), tmp_path / "pool.npz"
    scores = pool_scores(model, "base", ["How do I make pancakes?"], 2, 0, file, lambda _line: None)
    assert [path.name for path in tmp_path.iterdir()] == ["pool.npz"]
    assert np.array_equal(pool_scores(model, "base", ["How do I make pancakes?"], 2, 0, file, lambda _line: None), scores)
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(ValueError, match=r"pool\.npz cannot be read"):
        pool_scores(model, "base", ["How do I make pancakes?"], 2, 0, file, lambda _line: None)
