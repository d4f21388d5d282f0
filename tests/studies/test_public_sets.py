from __future__ import annotations

import csv
import gzip
import json

import numpy as np
import pytest
import typer

from attune.models.measuring.families.runs import standard_runs
from studies.families.public_sets import DataSetInvalid, read_jester, read_ukpconvarg
from studies.families.run import evaluate_set, read_set, runs_on

RATINGS = {(0, 0): 5.0, (0, 1): -2.0, (0, 2): 4.5, (1, 0): 1.0, (1, 1): 9.0}


def write_jester(folder, jokes=("one", "two", "three")):
    (folder / "jokes.json").write_text(json.dumps(jokes))
    user, joke = np.array(list(RATINGS), dtype=np.int16).T
    np.savez(folder / "ratings.npz", user=user, joke=joke, rating=np.array(list(RATINGS.values()), dtype=np.float32))


def test_jester_prefers_the_higher_rating_and_leaves_out_close_ones(tmp_path):
    write_jester(tmp_path)
    found = {(one.user, one.chosen, one.rejected) for one in read_jester(tmp_path, per_user=10).records()}
    assert found == {("jester-0", "one", "two"), ("jester-0", "three", "two"), ("jester-1", "two", "one")}


def test_jester_draws_as_many_comparisons_and_users_as_asked_for(tmp_path):
    write_jester(tmp_path)
    assert len(read_jester(tmp_path, per_user=1)) == 2
    assert len(read_jester(tmp_path, per_user=1, users=1).users) == 1


def test_jester_ratings_of_missing_jokes_are_refused(tmp_path):
    write_jester(tmp_path, jokes=("one", "two"))
    with pytest.raises(DataSetInvalid, match=r"rates jokes 0\.\.2; jokes.json has 2"):
        read_jester(tmp_path, per_user=1)


def write_ukp(folder, choices):
    with gzip.open(folder / "arguments.jsonl.gz", "wt") as stream:
        for name in ("a", "b"):
            stream.write(json.dumps({"topic": "ban-cars_yes", "arg": name, "text": f"Argument {name}."}) + "\n")
    with gzip.open(folder / "judgments.csv.gz", "wt", newline="") as stream:
        writer = csv.DictWriter(stream, ["user", "topic", "arg1", "arg2", "choice"])
        writer.writeheader()
        writer.writerows({"user": user, "topic": "ban-cars_yes", "arg1": "a", "arg2": "b", "choice": choice} for user, choice in choices)


def test_ukp_turns_choices_into_comparisons_and_equal_into_ties(tmp_path):
    write_ukp(tmp_path, [("7", "a1"), ("7", "a2"), ("7", "equal"), ("8", "a1")])
    found = list(read_ukpconvarg(tmp_path, least_decided=2).records())
    assert [(one.user, one.prompt, one.chosen, one.tie) for one in found] == [
        ("ukp-7", "ban cars", "Argument a.", False),
        ("ukp-7", "ban cars", "Argument b.", False),
        ("ukp-7", "ban cars", "Argument a.", True),
    ]


@pytest.mark.parametrize("choice", ["a3", ""])
def test_an_unknown_choice_is_refused_by_its_line(tmp_path, choice):
    write_ukp(tmp_path, [("7", "a1"), ("7", choice)])
    with pytest.raises(DataSetInvalid, match="line 3"):
        read_ukpconvarg(tmp_path, least_decided=1)


def test_a_set_is_read_from_its_folder_and_what_is_none_is_refused(tmp_path):
    with pytest.raises(typer.BadParameter, match="jester is not distributed with this project: give the folder"):
        read_set("jester", tmp_path / "none")
    with pytest.raises(typer.BadParameter, match="a file of your own is for `attune measure learners`"):
        read_set("gone.jsonl", tmp_path)


def test_a_learner_that_there_is_not_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(typer.BadParameter, match=r"nobody: no such learner; there are bradley_terry, .*, additive, hierarchical, "):
        evaluate_set("jester", tmp_path, tmp_path / "out", cache=None, seeds=1, users=10, only=(), learners=("additive", "nobody"))
    assert not (tmp_path / "out").exists()


def test_every_set_has_the_standard_runs_and_jester_one_in_which_texts_do_not_recur():
    assert [run.name for run in runs_on("ukpconvarg1")] == [run.name for run in standard_runs()]
    assert any(run.texts_apart for run in runs_on("jester"))
