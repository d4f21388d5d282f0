from __future__ import annotations

import gzip
import json

import pytest

from attune.models.data.preferences import Comparison
from studies.families.public_sets import DataSetInvalid
from studies.sparserm.labelled_sets import ATTRIBUTES, read_hidden_context, read_summeval_op


def write_hh(folder, rows):
    with gzip.open(folder / "helpful_test.jsonl.gz", "wt") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)


ROW = {"prompt": "Human: Hi\n\nAssistant: Hello.\n\nHuman: Why?", "responses": ["Because.", "No idea."], "label": 1, "objective": "helpful"}


def test_the_label_names_the_answer_that_the_objective_prefers(tmp_path):
    write_hh(tmp_path, [ROW])
    found = list(read_hidden_context(tmp_path, ["helpful"]).records())
    assert found == [Comparison("hh-helpful", "user: Hi\nassistant: Hello.\nuser: Why?", "No idea.", "Because.")]


def test_rows_without_two_answers_are_left_out(tmp_path):
    write_hh(tmp_path, [ROW, ROW | {"responses": ["Same.", "Same."]}, ROW | {"responses": ["", "Something."]}])
    assert len(read_hidden_context(tmp_path, ["helpful"])) == 1


def test_a_label_that_names_no_answer_is_refused_with_its_line(tmp_path):
    write_hh(tmp_path, [ROW, ROW | {"label": 2}])
    with pytest.raises(DataSetInvalid, match=r"helpful_test\.jsonl\.gz line 2: label is 2"):
        read_hidden_context(tmp_path, ["helpful"])


def summeval(**changes):
    ratings = {column: [[3, 3, 3], [5, 4, 1]] for column in ATTRIBUTES}
    return {"reviews": ["good", "bad"], "summaries": ["mixed", "fine"]} | ratings | changes


def test_the_mean_of_the_raters_decides_per_attribute(tmp_path):
    (tmp_path / "summeval-op-detailed.jsonl").write_text(json.dumps(summeval(fl=[[1, 1, 1], [1, 1, 1]])) + "\n")
    found = list(read_summeval_op(tmp_path).records())
    assert {one.user for one in found} == set(ATTRIBUTES.values()) - {"fluency"}
    assert {(one.prompt, one.chosen) for one in found} == {("Summarise these reviews.\n\ngood\n\nbad", "fine")}


def test_raters_are_users_of_their_own_if_asked(tmp_path):
    (tmp_path / "summeval-op-detailed.jsonl").write_text(json.dumps(summeval()) + "\n")
    found = {(one.user, one.chosen) for one in read_summeval_op(tmp_path, raters=True).records()}
    assert ("coherence rater 1", "fine") in found
    assert ("coherence rater 3", "mixed") in found
    assert len(found) == 21


def test_ratings_of_another_number_than_summaries_are_refused(tmp_path):
    (tmp_path / "summeval-op-detailed.jsonl").write_text(json.dumps(summeval(co=[[1, 1, 1]])) + "\n")
    with pytest.raises(DataSetInvalid, match=r"line 1: 2 summaries have \{'coherence': 1\} ratings"):
        read_summeval_op(tmp_path)


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"summeval-op-detailed\.jsonl"):
        read_summeval_op(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"harmless_test\.jsonl\.gz"):
        read_hidden_context(tmp_path, ["harmless"])
