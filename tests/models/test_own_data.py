"""From a table to a folder of families and a verdict: who gains is told, who does not is told, and too little is told as well."""

from __future__ import annotations

import errno
import json
import math
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from attune.models.__main__ import app
from attune.models.data.preferences import Comparison, ComparisonInvalid, Comparisons
from attune.models.data.probes import read_probes
from attune.models.data.trunk import load_trunk
from attune.models.data.trunk_file import load_trunk_of
from attune.models.measuring.families.curves import Observed
from attune.models.measuring.families.own_data import OwnData, train_own
from attune.models.measuring.families.own_report import render_own
from attune.models.measuring.families.own_verdict import _doubt, _how_sure, _refused, own_verdict
from attune.models.measuring.families.strangers import curves_of
from attune.models.seam.trust import NEVER
from attune.models.training.additive import told_apart_by
from attune.models.training.family_folder import family_folder
from attune.models.training.heads import load_heads
from attune.models.training.learner import Predicted
from tests.models.tiny_trunk import write_tiny_trunk

SHORT = ["Yes.", "No.", "Boil it.", "Ask someone.", "Not now.", "Go home."]
LONG = [f"{text} Then wait, look again, and if it is not what you wanted, start once more and take more time for it." for text in SHORT]


def told(people: int, each: int, *, opposed: bool, seed: int = 0) -> Comparisons:
    """Returns choices between a short and a long answer; with `opposed` half of the people like short ones, else all do, mostly."""
    rng = np.random.default_rng(seed)
    rows = []
    for person in range(people):
        likes_short = person % 2 == 0 or not opposed
        for _ in range(each):
            short, long = SHORT[rng.integers(6)], LONG[rng.integers(6)]
            right = rng.random() < 0.95
            chosen, rejected = (short, long) if likes_short == right else (long, short)
            prompt = f"What about number {rng.integers(8)}?"
            rows.append(Comparison(prompt=prompt, chosen=chosen, rejected=rejected, user=f"p{person}"))
    return Comparisons.from_records(rows)


@pytest.fixture(scope="module")
def trunk(tmp_path_factory):
    return load_trunk(str(write_tiny_trunk(tmp_path_factory.mktemp("trunk"), "encoder")), layers=(0, 2))


def trained(comparisons, trunk, out, **settings):
    chosen = OwnData(**({"names": ("bradley_terry", "additive"), "folds": 1, "axes": 2} | settings))
    return train_own(comparisons, trunk, out, chosen, cache=None, tell=lambda _line: None)


@pytest.mark.slow
def test_people_who_want_opposite_things_are_personalised_and_the_folder_can_be_packed(trunk, tmp_path):
    found = trained(told(60, 14, opposed=True), trunk, tmp_path)
    assert (found["default"], found["verdict"]["personalise"]) == ("additive", "yes")
    curve = found["curves"]["learners"]["additive"]["gain"]
    assert curve[0]["mean"] == pytest.approx(0.0, abs=0.1)
    assert curve[-1]["low"] > 0.2
    families, default = load_heads(tmp_path)
    assert {one.family.name for one in families} == {"bradley_terry", "additive"}
    assert default == "additive"
    assert load_trunk_of(tmp_path).sha256 == trunk.sha256
    assert len(read_probes(tmp_path)) >= 4
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert report.index("Serve `additive`") < report.index("`length`")
    assert f"- `additive` tells people apart by {told_apart_by(families[-1])}." in report
    assert found["told_apart_by"] == {"additive": told_apart_by(families[-1])}


@pytest.mark.slow
def test_people_who_want_the_same_are_not_personalised(trunk, tmp_path):
    found = trained(told(60, 14, opposed=False), trunk, tmp_path)
    assert (found["default"], found["verdict"]["personalise"]) == ("bradley_terry", "no")
    assert "no gain was found" in found["verdict"]["why"]
    assert found["families"]["additive"]["chosen"] == "never"
    assert found["told_apart_by"] == {}  # nobody is
    assert found["curves"]["learners"]["bradley_terry"]["accuracy"][0]["low"] > 0.8


def test_few_people_give_everybodys_head_unless_somebody_asks(trunk, tmp_path):
    few = told(8, 12, opposed=True)
    found = trained(few, trunk, tmp_path / "one")
    assert found["default"] == "bradley_terry"
    assert "8 people who chose twice or more are fewer than the 30" in found["verdict"]["why"]
    assert [one.family.name for one in load_heads(tmp_path / "one")[0]] == ["bradley_terry"]
    [head] = load_heads(tmp_path / "one")[0]
    assert (found["fitted_again"], head.summary["fitted_again"]) == (["bradley_terry"], True)
    measured = found["families"]["bradley_terry"]["validation_nll"]
    assert measured == head.summary["validation_nll"]
    assert "was fitted once more at the end, with the validation people" in (tmp_path / "one" / "report.md").read_text(encoding="utf-8")
    asked = trained(few, trunk, tmp_path / "two", personalise=True)
    assert asked["default"] == "additive"


def test_a_mixture_of_own_data_never_ends_on_one_head_however_long_somebody_tells(trunk, tmp_path):
    trained(told(40, 8, opposed=True), trunk, tmp_path, names=("bradley_terry", "micro"), personalise=True, steps=20)
    [micro] = [one.family for one in load_heads(tmp_path)[0] if one.family.name == "micro"]
    evidence = np.zeros(micro.evidence_size)
    evidence[:] = 1e4 * np.arange(micro.evidence_size)
    assert math.isfinite(micro.settings.sureness)
    assert np.sort(micro.weights(evidence, None))[-2] > 1e-3


@pytest.mark.parametrize("rows", [1, 2, 6])
def test_one_person_gives_a_head_or_a_sentence(trunk, tmp_path, rows):
    alone = told(1, rows, opposed=False)
    if rows == 1:
        with pytest.raises(ValueError, match="1 comparison is too few"):
            trained(alone, trunk, tmp_path)
        return
    found = trained(alone, trunk, tmp_path)
    assert found["default"] == "bradley_terry"
    assert "too few people" in found["not_measured"]


def test_texts_of_one_length_and_style_are_trained_on_and_nobody_is_told_apart_by_how_they_are_written(trunk, tmp_path):
    words = ["aa", "bb", "cc", "dd", "ee", "ff", "gg", "hh"]
    rng = np.random.default_rng(0)  # everybody's head finds nothing
    rows = [Comparison(f"p{n % 40}", f"q{n % 8}", *rng.choice(words, 2, replace=False).tolist()) for n in range(320)]
    found = trained(Comparisons.from_records(rows), trunk, tmp_path / "chance", personalise=True)
    assert found["told_apart_by"].keys() == {"additive"}
    rows = [Comparison(f"p{n % 40}", "q", *(words[:2] if n % 2 else words[1::-1])) for n in range(240)]
    found = trained(Comparisons.from_records(rows), trunk, tmp_path / "opposed", personalise=True)
    assert found["verdict"]["serve"] == "additive"
    assert "written" not in found["told_apart_by"]["additive"]


def test_what_cannot_be_learned_from_is_said_before_anything_is_done(trunk, tmp_path):
    ties = Comparisons.from_records([Comparison(prompt="p", chosen="a", rejected=f"b{index}", user="u", tie=True) for index in range(5)])
    with pytest.raises(ComparisonInvalid, match="all 5 comparisons are ties: there is nothing to learn"):
        trained(ties, trunk, tmp_path)
    with pytest.raises(ValueError, match="nobody: no such family; there are bradley_terry"):
        trained(told(4, 4, opposed=False), trunk, tmp_path, names=("nobody",))
    with pytest.raises(ValueError, match="an empty name: no such family"):
        trained(told(4, 4, opposed=False), trunk, tmp_path, names=("vrf", ""))
    assert not list(tmp_path.iterdir())


TWO_FOLDS = OwnData(names=("bradley_terry", "additive"), folds=2, axes=2, steps=20)


def families_trained(said):
    return [line.split()[1].rstrip(",") for line in said if line.startswith("  family")]


class Killed(BaseException):
    """What ends a run at any place."""


@pytest.fixture(scope="module")
def whole(trunk, tmp_path_factory):
    """A run that nothing interrupts: its comparisons, folder, cache and what it found."""
    comparisons, folder, said = told(50, 6, opposed=True), tmp_path_factory.mktemp("whole"), []
    found = train_own(comparisons, trunk, folder / "fam", TWO_FOLDS, cache=folder / "cache", tell=said.append)
    assert families_trained(said) == ["bradley_terry", "additive"] * 3
    return comparisons, folder / "fam", folder / "cache", found


def test_a_run_that_is_killed_while_it_trains_goes_on_with_that_family_and_writes_the_same(trunk, tmp_path, whole):
    comparisons, expected, _, found = whole
    said = []

    def until_killed(line):
        said.append(line)
        if families_trained(said) == ["bradley_terry", "additive"] * 2:
            raise Killed

    with pytest.raises(Killed):
        train_own(comparisons, trunk, tmp_path / "fam", TWO_FOLDS, cache=tmp_path / "cache", tell=until_killed)
    assert not (tmp_path / "fam").exists()
    said.clear()
    again = train_own(comparisons, trunk, tmp_path / "fam", TWO_FOLDS, cache=tmp_path / "cache", tell=said.append)
    assert len(families_trained(said)) == 3
    assert "  trained before, and taken as they are: bradley_terry" in said
    assert again == found
    for name in ("heads.json", "heads.safetensors", "report.md", "results.json", "cards.json", "people.json", "trunk.json", "probes.jsonl"):
        assert (tmp_path / "fam" / name).read_bytes() == (expected / name).read_bytes(), name


def test_what_was_half_written_or_of_other_settings_counts_as_not_there(trunk, tmp_path, whole):
    comparisons, _, cache, found = whole
    shutil.copytree(cache, tmp_path / "cache")
    (fold,) = (tmp_path / "cache" / "folds").glob("*-1.json")
    fold.write_bytes(fold.read_bytes()[:-20])
    (heads,) = (tmp_path / "cache" / "folds").glob("*-kept/additive/heads.safetensors")
    heads.write_bytes(heads.read_bytes()[:100])
    (vectors,) = (tmp_path / "cache").glob("vectors-*/*.npy")
    vectors.write_bytes(vectors.read_bytes()[:500])
    said = []
    assert train_own(comparisons, trunk, tmp_path / "fam", TWO_FOLDS, cache=tmp_path / "cache", tell=said.append) == found
    assert families_trained(said) == ["bradley_terry", "additive", "additive"]
    assert [line for line in said if "measured before" in line] == ["fold 1 of 2 was measured before"]
    said.clear()
    train_own(comparisons, trunk, tmp_path / "other", replace(TWO_FOLDS, steps=21), cache=tmp_path / "cache", tell=said.append)
    assert len(families_trained(said)) == 6


@pytest.mark.parametrize(("gain", "serves"), [(-0.01, "bradley_terry"), (0.0009, "bradley_terry"), (0.0011, "additive")])
def test_a_gain_that_rounds_to_nothing_personalises_nobody(whole, gain, serves):
    families = [replace(one, summary={"trust": {"gain_nll": gain}}, trust=0.0) for one in load_heads(whole[1])[0]]
    default, verdict = own_verdict(families, 60, {}, personalise=False, some_left_out=False)
    assert (default, verdict["personalise"]) == (serves, "yes" if serves == "additive" else "no")


def test_a_gain_that_too_few_people_were_trained_for_is_told_as_that(whole):
    found = {"training_people": 27, "validation_people": 4, "gain_nll": 0.55, "gain_nll_standard_error": 0.01}
    families = [replace(one, summary={"trust": found}, trust=NEVER) for one in load_heads(whole[1])[0]]
    default, verdict = own_verdict(families, 31, {}, personalise=False, some_left_out=False)
    assert (default, verdict["personalise"]) == ("bradley_terry", "no")
    assert verdict["why"] == (
        "Do not personalise: of 31 people who chose twice or more 27 are trained on, fewer than the 30 from which on it can be learned how "
        "people differ. A gain of 0.5500 of log-loss was found on 4; --personalise serves it."
    )


def test_a_verdict_says_that_a_family_was_left_out_whose_gain_is_too_little(whole):
    kept = [one for one in load_heads(whole[1])[0] if one.family.name == "bradley_terry"]
    default, verdict = own_verdict(kept, 60, {}, personalise=False, some_left_out=True)
    assert (default, verdict["personalise"]) == ("bradley_terry", "no")
    assert verdict["why"] == (
        "Do not personalise: no gain was found on validation people that makes up for what is lost to a simple head at first."
    )
    assert (
        own_verdict(kept, 60, {}, personalise=False, some_left_out=False)[1]["why"]
        == "Do not personalise: no gain was found on validation people."
    )


def test_a_verdict_says_where_people_whom_training_never_met_lost_or_did_not_clearly_gain():
    def curves(mean: float, low: float, high: float):
        return {"counts": [0, 10], "learners": {"vrf": {"gain": [{}, {"mean": mean, "low": low, "high": high}]}}}

    assert _doubt("vrf", curves(-0.033, -0.061, -0.007)).startswith(
        " But people whom training never met lost by it: -3.3 [-6.1, -0.7] points of accuracy after 10 comparisons."
    )
    assert _doubt("vrf", curves(-0.004, -0.020, 0.011)).startswith(
        " But people whom training never met did not clearly gain by it: -0.4 [-2.0, +1.1] points of accuracy after 10 comparisons."
    )
    assert not _doubt("vrf", curves(0.033, 0.007, 0.061))
    nobody = " Nobody whom training never met confirms it: too few people could be kept apart."
    assert _doubt("additive", curves(0.033, 0.007, 0.061)) == _doubt("vrf", {}) == nobody


def test_strangers_of_several_cuts_are_counted_together_and_nothing_is_trained_where_they_are_too_few(trunk, tmp_path):
    few = told(35, 14, opposed=True)  # seven of them are strangers in each cut
    found = trained(few, trunk, tmp_path / "cut", names=("bradley_terry",), folds=3)
    assert found["curves"]["people"] >= 8
    said: list[str] = []
    wanted = OwnData(names=("bradley_terry",), folds=1)
    alone = train_own(few, trunk, tmp_path / "once", wanted, cache=None, tell=said.append)
    assert alone["not_measured"] == "fewer than 8 people who were kept apart told enough to be predicted"
    assert not [line for line in said if line.startswith("fold")]


def test_a_head_that_says_one_half_of_every_pair_is_as_sure_of_people_who_were_not_asked():
    half = [Predicted(np.full(4, 0.5), np.zeros(4)) for _ in range(2)]
    wide = [Predicted(np.full(4, 0.9), np.zeros(4)) for _ in range(2)]
    people = tuple(f"p{number}" for number in range(9))
    curves = curves_of([Observed((0, 1), people, {"none": [half] * 9, "some": [wide] * 9}, 0)], "none")["learners"]
    assert curves["none"]["nll"][0] == pytest.approx({"mean": math.log(2), "low": math.log(2), "high": math.log(2)})
    assert curves["none"]["accuracy"][0] == {"mean": 0.5, "low": 0.5, "high": 0.5}
    assert curves["some"]["nll"][0]["high"] > 5  # what is sure of itself may be wrong about others


def test_a_report_says_why_the_curve_of_a_family_is_flat_and_the_verdict_that_what_serves_is_not_packed(whole):
    results = json.loads((whole[1] / "results.json").read_text(encoding="utf-8"))
    results["curves"]["counts"] = [0, 1]
    for learner in results["curves"]["learners"].values():
        learner |= {name: [*learner[name], dict(learner[name][0])] for name in ("accuracy", "nll", "gain")}
    flat = "`additive`: the same after any number of comparisons: validation people of no cut clearly gained by being known, so nobody was."
    assert flat in render_own(results)
    results["curves"]["learners"]["additive"]["nll"][-1]["mean"] -= 0.01
    assert flat not in render_own(results)
    assert "not here" not in render_own(results)
    del results["curves"]["learners"]["additive"]
    assert "`additive`: not here: with strangers kept apart, too few people are left to train on." in render_own(results)
    assert _refused("") == ""
    assert _refused("length is better") == " `attune bundle build` refuses it unless `--serve-anyway` is said: length is better."


def test_rows_of_nobody_named_are_no_people_in_the_first_line(tmp_path):
    row = {"prompt": "Why?", "chosen": "Because.", "rejected": "No."}
    rows = [row | {"user": "ann"}, row, row | {"rejected": "Never."}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    (tmp_path / "empty").mkdir()  # which ends the command before anything is trained
    done = CliRunner().invoke(
        app, ["train", "families", str(tmp_path / "a.jsonl"), "--out", str(tmp_path / "o"), "--beside", str(tmp_path / "empty")]
    )
    assert done.exit_code == 1
    assert "3 comparisons of 1 person and 2 of nobody named" in done.output


def test_a_verdict_says_of_how_many_people_a_gain_is_the_mean():
    told = {"validation_people": 9, "gain_nll": 0.01, "gain_nll_standard_error": 0.0098}
    assert _how_sure({"trust": told}) == " (Standard error 0.0098, 9 people.)"
    assert _how_sure({"trust": told | {"validation_people": 0}}) == ""
    assert _how_sure({}) == ""


def test_people_who_chose_once_each_get_everybodys_head(trunk, tmp_path):
    found = trained(told(40, 1, opposed=False), trunk, tmp_path, names=())
    assert (found["default"], found["verdict"]["personalise"]) == ("bradley_terry", "no")
    assert "0 people who chose twice or more are fewer than the 30" in found["verdict"]["why"]


def test_a_folder_that_cannot_be_written_to_is_refused_before_the_work(trunk, tmp_path):
    said = []
    (tmp_path / "file").write_text("")
    for out, cache in ((tmp_path / "file" / "fam", None), (tmp_path / "fam", tmp_path / "file" / "cache")):
        with pytest.raises(OSError, match="file"):
            train_own(told(8, 6, opposed=False), trunk, out, TWO_FOLDS, cache=cache, tell=said.append)
    assert not said


def test_an_older_training_stays_whole_until_a_newer_one_is_and_leaves_nothing_then(tmp_path):
    for name in ("heads.json", "provenance.json"):
        (tmp_path / name).write_text("old")

    def fills_the_disk():
        with family_folder(tmp_path) as staging:
            (staging / "heads.json").write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match=re.escape(f"{tmp_path}'")):
        fills_the_disk()
    assert {one.name: one.read_text() for one in tmp_path.iterdir()} == {"heads.json": "old", "provenance.json": "old"}
    with family_folder(tmp_path) as staging:
        (staging / "heads.json").write_text("new")
    assert {one.name: one.read_text() for one in tmp_path.iterdir()} == {"heads.json": "new"}


def test_a_family_that_there_is_not_is_said_before_the_table_is_read(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"no table")
    done = CliRunner().invoke(app, ["train", "families", str(tmp_path / "a.jsonl"), "--out", str(tmp_path / "o"), "--families", "vrf,nope"])
    assert done.exit_code == 2
    assert "nope: no such family; there are bradley_terry" in " ".join(done.output.replace("│", " ").split())
    assert not (tmp_path / "o").exists()
