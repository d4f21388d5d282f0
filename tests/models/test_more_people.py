"""Heads that are trained already, on people whom training never met: the curves of training, a verdict, and no training of them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from attune.models.__main__ import app
from attune.models.data.check import write_pairs
from attune.models.data.trunk import load_trunk
from attune.models.measuring.families.own_data import OwnData, train_own
from attune.models.measuring.families.own_report import render_more
from tests.models.architectures import write_classifier
from tests.models.test_own_data import told
from tests.models.tiny_trunk import write_tiny_trunk


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder of families of people who want opposite things, told by 36 of them."""
    root = tmp_path_factory.mktemp("world")
    trunk = load_trunk(str(write_tiny_trunk(root / "trunk", "encoder")), layers=(0, 2))
    settings = OwnData(names=("bradley_terry", "additive"), folds=1, axes=2, steps=60)
    train_own(told(36, 14, opposed=True), trunk, root / "fam", settings, cache=root / "cache", tell=lambda _line: None)
    return root


def measured(world, comparisons, name="more", *, folder="fam", **options):
    table = world / f"{name}.jsonl"
    write_pairs(comparisons.records(), table)
    words = [word for key, value in options.items() for word in (f"--{key}", value)]
    done = CliRunner().invoke(
        app, ["measure", "families", str(world / folder), str(table), "--json", "--cache", str(world / "cache"), *words]
    )
    return done, json.loads(done.stdout) if done.exit_code == 0 else {}


def strangers(people=10):
    comparisons = told(people, 14, opposed=True, seed=5)
    return replace(comparisons, users=tuple(f"new {name}" for name in comparisons.users))


def test_strangers_are_predicted_better_the_more_they_told_and_nothing_of_the_heads_changes(world):
    before = (world / "fam" / "heads.safetensors").read_bytes()
    done, found = measured(world, strangers())
    assert done.exit_code == 0, done.output
    curve = found["curves"]["learners"]["additive"]
    assert found["curves"]["counts"] == [0, 1, 3, 5]
    assert curve["accuracy"][0]["mean"] < 0.7 < 0.8 < curve["accuracy"][-1]["low"]
    assert (found["verdict"]["serve"], found["verdict"]["personalise"], found["met"]) == ("additive", "yes", 0)
    assert {"length", "style", "ridge", "bradley_terry"} <= set(found["curves"]["learners"])
    assert (world / "fam" / "heads.safetensors").read_bytes() == before
    assert json.loads((world / "fam" / "measured" / "results.json").read_text()) == found
    assert "Serve `additive`" in (world / "fam" / "measured" / "report.md").read_text()


def test_where_people_choose_by_a_coin_no_gain_is_found(world):
    ours = strangers()
    coin = np.arange(len(ours)) % 2 == 0
    turned = replace(ours, chosen=np.where(coin, ours.chosen, ours.rejected), rejected=np.where(coin, ours.rejected, ours.chosen))
    _, found = measured(world, turned, "coin")
    assert (found["verdict"]["serve"], found["verdict"]["personalise"]) == ("bradley_terry", "no")


def test_people_whom_training_met_are_left_out_or_the_verdict_says_that_it_is_flattered(world):
    ours = told(10, 14, opposed=True)
    _, found = measured(world, ours, "met")
    assert (found["met"], found["left_out"]) == (10, 0)
    assert found["verdict"]["why"].startswith("These people were in training")
    report = (world / "fam" / "measured" / "report.md").read_text()
    assert "\n## People, 10 of whom training met\n" in report
    assert "never met" not in report
    both = [*ours.records(), *strangers().records()]
    _, found = measured(world, type(ours).from_records(both), "both")
    assert (found["met"], found["left_out"], found["curves"]["people"]) == (10, 10, 10)
    report = (world / "fam" / "measured" / "report.md").read_text()
    assert "\n## People whom training never met\n" in report
    assert "of whom training met" not in report


def test_an_interval_about_a_gain_of_nobody_is_explained_where_there_is_one(world):
    """Before the first comparison `additive` is everybody's head: ten equal numbers, and 1 - 0.025^(1/10) of others may be unseen."""
    _, found = measured(world, strangers(), "alike")
    at_first = found["curves"]["learners"]["additive"]["gain"][0]
    assert (at_first["mean"], at_first["high"], at_first["low"]) == pytest.approx((0.0, 0.3085, -0.3085), abs=1e-4)
    assert "as could have stayed unseen" in " ".join((world / "fam" / "measured" / "report.md").read_text().split())
    changed = {"mean": 0.1, "low": 0.0, "high": 0.2}
    for learner in found["curves"]["learners"].values():
        learner["gain"] = [changed] * len(learner["gain"])
    assert "stayed unseen" not in render_more(found)


def test_too_few_people_are_a_sentence(world, tmp_path):
    done, _ = measured(world, strangers(5), "few", out=str(tmp_path / "none"))
    assert done.exit_code == 1
    assert "few.jsonl: fewer than 8 people" in done.stderr
    assert "predicting" not in done.stderr, "said before texts are embedded and simple heads fitted"
    assert not (tmp_path / "none").exists()


def test_an_imported_reward_model_is_measured_over_its_own_heads(world):
    model = write_classifier(world / "model", "Llama", 3, names={0: "helpful", 1: "short", 2: "kind"})
    made = CliRunner().invoke(app, ["import", "reward", str(model), "--out", str(world / "imported")])
    assert made.exit_code == 0, made.output
    done, found = measured(world, strangers(), "imported", folder="imported")
    assert done.exit_code == 0, done.output
    assert (found["baseline"], set(found["families"])) == ("everybody", {"imported"})
    first = [found["curves"]["learners"][name]["accuracy"][0]["mean"] for name in ("imported", "everybody")]
    assert first[0] == first[1]
