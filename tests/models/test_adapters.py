from __future__ import annotations

import gzip
import json
import sys

import pytest

from attune.models.data.adapters import read_comparisons
from attune.models.data.check import survey
from attune.models.data.preferences import ANONYMOUS, Comparison
from attune.models.data.splits import SplitInvalid, split
from attune.models.data.table_shapes import Reading, shape_of
from attune.models.data.tables import RowsInvalid, TableInvalid, read_rows


def write_lines(path, rows):
    content = "".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in rows).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def records(source, reading=None):
    return list(read_comparisons(source, reading).records())


FIRST = f"{ANONYMOUS}1"
PAIR = {"prompt": "Why?", "chosen": "Because.", "rejected": "No idea."}


# --- shapes ---------------------------------------------------------------------------------------------------------


def test_rows_without_a_user_are_never_one_persons(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", [PAIR | {"user": None}, PAIR | {"user": None}, PAIR | {"user": "u1"}])
    told = read_comparisons(path)
    assert told.users == (FIRST, f"{ANONYMOUS}2", "u1")
    assert told.anonymous.tolist() == [True, True, False]
    found = survey(path, Reading())
    assert (found.users, found.anonymous, found.per_user) == (1, 2, (1, 1.0, 1))
    assert "2 rows have no user: they tell what everybody likes, and nothing of a person" in found.warnings
    with pytest.raises(RowsInvalid, match="names that begin with 'anonymous:' stand for rows without a user"):
        read_comparisons(write_lines(tmp_path / "b.jsonl", [PAIR | {"user": "anonymous:7"}]))


def test_every_optional_column_of_a_pair_is_read(tmp_path):
    row = PAIR | {"user": 7, "tie": True, "context": "short", "weight": 2, "time_s": 1.5}
    found = records(write_lines(tmp_path / "a.jsonl.gz", [row]))
    assert found == [Comparison("7", "Why?", "Because.", "No idea.", tie=True, context="short", weight=2.0, time_s=1.5)]


def test_a_transcript_becomes_the_prompt_that_the_service_makes_of_its_messages(tmp_path):
    start = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Why?\n\nAssistant: "
    found = records(write_lines(tmp_path / "a.jsonl", [{"chosen": start + "Because.", "rejected": start + "No idea."}]))
    assert found == [Comparison(FIRST, "user: Hi\nassistant: Hello.\nuser: Why?", "Because.", "No idea.")]


def test_messages_of_one_question_are_the_question_itself(tmp_path):
    asked = [{"role": "user", "content": "Why?"}]
    row = {
        "chosen": [*asked, {"role": "assistant", "content": "Because."}],
        "rejected": [*asked, {"role": "assistant", "content": "No idea."}],
    }
    assert records(write_lines(tmp_path / "a.jsonl", [row])) == [Comparison(FIRST, "Why?", "Because.", "No idea.")]
    row = {"prompt": asked, "chosen": row["chosen"][1:], "rejected": "No idea."}
    assert records(write_lines(tmp_path / "b.jsonl", [row])) == [Comparison(FIRST, "Why?", "Because.", "No idea.")]


def test_each_attribute_is_a_user_who_prefers_the_higher_score(tmp_path):
    rows = [
        {"prompt": "Why?", "response": "long", "detail": 5, "brevity": 1.0},
        {"prompt": "Why?", "response": "short", "detail": 2, "brevity": 4.0},
        {"prompt": "Who?", "response": "me", "detail": 3, "brevity": 3.0},
    ]
    found = records(write_lines(tmp_path / "a.jsonl", rows))
    assert found == [Comparison("detail", "Why?", "long", "short"), Comparison("brevity", "Why?", "short", "long")]


def test_ratings_of_one_user_and_prompt_are_compared_beyond_the_gap(tmp_path):
    rows = [
        {"user": "ann", "response": text, "rating": rating, "time_s": time}
        for text, rating, time in [("a", 1, 10), ("b", 5, 20), ("c", 4.5, 30)]
    ]
    rows.append({"user": "bob", "response": "a", "rating": 3, "time_s": 1})
    found = read_comparisons(write_lines(tmp_path / "a.jsonl", rows), Reading(least_gap=1.0))
    assert [(one.user, one.chosen, one.rejected, one.time_s) for one in found.records()] == [
        ("ann", "b", "a", 20.0),
        ("ann", "c", "a", 30.0),
    ]


def test_pairs_of_one_prompt_are_limited(tmp_path):
    rows = [{"user": "ann", "response": f"r{n}", "rating": n} for n in range(10)]
    assert len(read_comparisons(write_lines(tmp_path / "a.jsonl", rows), Reading(most_pairs=7))) == 7


def test_columns_may_have_other_names(tmp_path):
    row = {"instruction": "Why?", "better": "Because.", "worse": "No idea.", "id": 1}
    reading = Reading(columns={"prompt": "instruction", "chosen": "better", "rejected": "worse"}, ignore=frozenset({"id"}))
    assert records(write_lines(tmp_path / "a.jsonl", [row]), reading) == [Comparison(FIRST, "Why?", "Because.", "No idea.")]


def test_columns_of_no_shape_are_refused_with_what_each_needs():
    with pytest.raises(
        TableInvalid, match=r"question make no known shape. Needed: pairs: chosen, rejected; votes: response_a, response_b, winner; ratings"
    ):
        shape_of(["question"])


# --- bad input ------------------------------------------------------------------------------------------------------


def test_an_unknown_column_is_refused_by_name_before_everybody_becomes_one_person(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", [PAIR | {"usr": "ann"}])
    with pytest.raises(TableInvalid, match=r"a\.jsonl line 1: nothing reads the column usr"):
        read_comparisons(path)
    assert len(read_comparisons(path, Reading(ignore=frozenset({"usr"})))) == 1


@pytest.mark.parametrize(
    ("row", "reading"),
    [
        (PAIR | {"id": 3}, Reading(ignore=frozenset({"id", "usr"}))),
        (PAIR, Reading(columns={"user": "usr"})),
        ({"prompt": "Why?", "response": "Because.", "kind": 2, "id": 3}, Reading(attributes=("kind", "usr"), ignore=frozenset({"id"}))),
    ],
)
def test_a_column_that_an_option_names_and_no_row_has_is_refused_with_those_there_are(tmp_path, row, reading):
    with pytest.raises(TableInvalid, match=rf"there is no column usr; there are {', '.join(sorted(row))}"):
        read_comparisons(write_lines(tmp_path / "a.jsonl", [row]), reading)


def test_a_column_to_ignore_may_stand_in_a_later_row_alone(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", [PAIR, {**PAIR, "prompt": "", "id": 3}, PAIR])
    assert survey(path, Reading(ignore=frozenset({"id"}))).bad == 1


def test_an_ignored_column_that_could_be_read_is_not(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", [PAIR | {"user": "ann", "who": "bob", "weight": "heavy"}])
    assert records(path, Reading(ignore=frozenset({"user", "who", "weight"}))) == [Comparison(FIRST, *PAIR.values())]
    other = Reading(columns={"user": "who"}, ignore=frozenset({"user", "weight"}))
    assert records(path, other) == [Comparison("bob", *PAIR.values())]
    with pytest.raises(TableInvalid, match="pairs needs chosen"):
        read_comparisons(path, Reading(shape="pairs", ignore=frozenset({"chosen", "who"})))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chosen": "  "}, "chosen: must not be blank"),
        ({"prompt": ""}, "prompt: must not be blank"),
        ({"rejected": "Because."}, "chosen: is the same text as the other answer"),
        ({"rejected": None}, "rejected: is None"),
        ({"rejected": [{"role": "robot", "content": "No."}]}, "rejected: message 1: role is 'robot'; system, developer,"),
        ({"rejected": [{"role": "user", "content": "No."}]}, "rejected: ends with a turn of the user"),
        ({"weight": 0}, "weight: is 0; it must be above 0"),
        ({"weight": float("nan")}, "weight: is nan; a finite number"),
        ({"weight": 1e308}, "weight: is 1e.308; it must be above 0 and at most 1,000,000"),
        ({"user": " "}, "user: is ' '; a name or a number"),
        ({"prompt": "\ud800 x"}, "prompt: half of a surrogate pair at character 1"),
        ({"time_s": "yesterday"}, "time_s: is 'yesterday'; a time is needed, as RFC 3339 or Unix seconds"),
        ({"time_s": 1_800_000_000_000}, "time_s: is 1800000000000; a time in seconds is needed, and this looks like milliseconds"),
        ({"time_s": -9e10}, "time_s: is -90000000000.0; a time of the year 1 or later is needed"),
        ({"tie": "yes"}, "tie: is 'yes'; true or false"),
        ({"late": 1}, "late: no such column in prefs.jsonl line 1, by which the others are read"),
    ],
)
def test_a_bad_row_is_named_by_file_line_and_column(tmp_path, change, message):
    path = write_lines(tmp_path / "prefs.jsonl", [PAIR, "\n", PAIR | change])
    with pytest.raises(RowsInvalid, match=f"1 of 2 rows is bad:\n  prefs.jsonl line 3: {message}"):
        read_comparisons(path)


def test_the_other_answer_is_not_called_by_a_name_that_the_table_does_not_have(tmp_path):
    path = write_lines(tmp_path / "prefs.jsonl", [{"prompt": "Why?", "left": "Because.", "right": "Because.", "winner": "a"}])
    with pytest.raises(RowsInvalid, match=r"line 1: left: is the same text as the other answer \('Because.'\)"):
        read_comparisons(path, Reading(columns={"response_a": "left", "response_b": "right"}))


SCORED = {"prompt": "Why?", "response": "Because.", "kind": 2, "short": 1}
VOTED = {"prompt": "Why?", "response_a": "Because.", "response_b": "No idea.", "winner": "a"}
RATED = {"prompt": "Why?", "response": "Because.", "rating": 2, "user": "ann"}


@pytest.mark.parametrize(
    ("row", "lacks", "message"),
    [
        (PAIR, ["rejected"], "rejected: is None; a text or a list of messages is needed"),
        (PAIR, [*PAIR], "chosen: is None; a text or a list of messages is needed"),
        (VOTED, ["winner"], "winner: is None; a, b or tie is needed"),
        (RATED, ["rating"], "rating: is None; a finite number is needed"),
        (SCORED, ["prompt"], "prompt: is None; a text or a list of messages is needed"),
        (SCORED, ["kind", "short"], "kind, short: there is no score"),
    ],
)
@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_row_that_lacks_a_column_is_bad_wherever_it_stands(tmp_path, row, lacks, message, at):
    rows = [row, row]
    rows.insert(at, {name: value for name, value in row.items() if name not in lacks})
    path = write_lines(tmp_path / "prefs.jsonl", rows)
    with pytest.raises(RowsInvalid, match=f"1 of 3 rows is bad:\n  prefs.jsonl line {at + 1}: {message}"):
        read_comparisons(path)


def test_a_first_row_of_another_kind_is_a_bad_row_and_a_table_of_such_is_refused(tmp_path):
    told = {"exported": "2026-01-31"}
    with pytest.raises(
        RowsInvalid, match=r"prefs.jsonl line 1: exported: no such column in prefs.jsonl line 2, by which the others are read"
    ):
        read_comparisons(write_lines(tmp_path / "prefs.jsonl", [told, PAIR, PAIR]))
    with pytest.raises(TableInvalid, match="the columns exported make no known shape"):
        read_comparisons(write_lines(tmp_path / "prefs.jsonl", [told] * 40 + [PAIR] * 40))


def test_the_column_of_a_bad_row_is_named_as_the_table_calls_it(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", [{"prompt": "Why?", "better": "", "rejected": "No."}])
    with pytest.raises(RowsInvalid, match="line 1: better: must not be blank"):
        read_comparisons(path, Reading(columns={"chosen": "better"}))


def test_conversations_that_differ_before_the_answer_are_no_pair(tmp_path):
    row = {"chosen": "\n\nHuman: Why?\n\nAssistant: Because.", "rejected": "\n\nHuman: Who?\n\nAssistant: Me."}
    with pytest.raises(RowsInvalid, match="rejected: its conversation is another"):
        read_comparisons(write_lines(tmp_path / "a.jsonl", [row]))


def test_answers_without_a_question_are_refused(tmp_path):
    with pytest.raises(RowsInvalid, match="chosen: is a plain answer, and there is no prompt"):
        read_comparisons(write_lines(tmp_path / "a.jsonl", [{"chosen": "Because.", "rejected": "No idea."}]))


def test_broken_lines_are_named_and_only_the_first_are_shown(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", [PAIR, "{not json\n", "[1]\n", *[PAIR | {"chosen": ""}] * 20])
    with pytest.raises(RowsInvalid) as caught:
        read_comparisons(path, Reading(shown=3))
    text = str(caught.value)
    assert text.startswith("22 of 23 rows are bad:\n  a.jsonl line 2: is not JSON")
    assert "line 3: is a list; an object is needed" in text
    assert "\n  and 19 more\n" in text
    assert text.endswith("--write good.jsonl` writes the others into a file that can be used")
    assert len(caught.value.problems) == 3


def test_a_file_cut_off_by_gzip_a_missing_one_and_an_unknown_format_are_refused(tmp_path):
    whole = write_lines(tmp_path / "a.jsonl.gz", [PAIR] * 1000).read_bytes()
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TableInvalid, match=r"cut\.jsonl\.gz is cut off"):
        read_comparisons(tmp_path / "cut.jsonl.gz")
    with pytest.raises(TableInvalid, match="is not there: there is no such file or folder"):
        read_comparisons(tmp_path / "absent.jsonl")
    (tmp_path / "a.xlsx").write_bytes(b"")
    with pytest.raises(TableInvalid, match=r"a\.xlsx is of no known format"):
        read_comparisons(tmp_path / "a.xlsx")


def test_an_empty_table_is_refused(tmp_path):
    with pytest.raises(TableInvalid, match="has no rows"):
        read_comparisons(write_lines(tmp_path / "a.jsonl", []))


def test_one_user_cannot_be_split_by_user_and_the_check_says_so(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", [PAIR | {"user": "ann"}, PAIR | {"user": "ann", "chosen": "So."}])
    with pytest.raises(SplitInvalid, match="1 user is too few"):
        split(read_comparisons(path), "user", (0.5, 0.25, 0.25), seed=0)
    assert any(text.startswith("one user only") for text in survey(path, Reading()).warnings)


# --- other formats --------------------------------------------------------------------------------------------------


def test_parquet_and_saved_datasets_give_the_rows_of_json_lines(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="the datasets extra is not installed")
    datasets = pytest.importorskip("datasets", reason="the datasets extra is not installed")
    from pyarrow import parquet

    rows = [PAIR | {"user": "ann"}, PAIR | {"user": "bob", "chosen": ""}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
    write_lines(tmp_path / "a.jsonl", rows)
    for source, where in ((tmp_path / "a.parquet", "a.parquet row 2"), (tmp_path / "saved", "saved row 2")):
        assert [row.values for row in read_rows(source)] == [row.values for row in read_rows(tmp_path / "a.jsonl")]
        with pytest.raises(RowsInvalid, match=f"{where}: chosen: must not be blank"):
            read_comparisons(source)


def test_a_damaged_parquet_file_is_refused(tmp_path):
    pytest.importorskip("pyarrow", reason="the datasets extra is not installed")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(TableInvalid, match=r"a\.parquet cannot be read as Parquet"):
        list(read_rows(tmp_path / "a.parquet"))


def test_without_the_extra_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "datasets", None)
    (tmp_path / "a.parquet").write_bytes(b"")
    for source in (tmp_path / "a.parquet", "hf:somebody/something"):
        with pytest.raises(TableInvalid, match="the extra `datasets` installs"):
            list(read_rows(source))


# --- the check ------------------------------------------------------------------------------------------------------


def test_the_check_counts_what_would_be_learned_and_leaves_out_bad_rows(tmp_path):
    rows = [PAIR | {"user": f"u{n % 2}"} for n in range(3)] + [{**PAIR, "user": "u1", "chosen": "No idea.", "rejected": "Because."}]
    found = survey(write_lines(tmp_path / "a.jsonl", [*rows, PAIR | {"user": ""}]), Reading())
    assert (found.rows, found.bad, found.comparisons, found.users, found.prompts, found.candidates) == (5, 1, 4, 2, 1, 2)
    assert found.per_user == (2, 2.0, 2)
    assert found.problems == ("a.jsonl line 5: user: is ''; a name or a number is needed, or null where the user is not known",)
    assert "1 comparison repeats another of the same user" in found.warnings
    assert "1 pair was decided both ways by the same user" in found.warnings
    assert len(found.sha256) == 64


def test_equal_ratings_leave_nothing_and_the_check_says_why(tmp_path):
    rows = [{"user": "ann", "response": text, "rating": 3} for text in "abc"]
    found = survey(write_lines(tmp_path / "a.jsonl", rows), Reading())
    assert found.comparisons == 0
    assert found.warnings == ("there is no comparison: all 3 possible pairs are of equal scores or texts",)


def test_the_command_prints_the_survey_and_fails_on_bad_rows(tmp_path):
    from typer.testing import CliRunner

    from attune.models.__main__ import app

    path = write_lines(tmp_path / "a.jsonl", [{"q": "Why?", "chosen": "Because.", "rejected": "No idea.", "id": 3}])
    options = ["data", "check", str(path), "--column", "prompt=q", "--ignore", "id"]
    found = CliRunner().invoke(app, options)
    assert (found.exit_code, "comparisons  1, 0 of them ties" in found.stdout) == (0, True)
    for broken, message in ((options[:-2], "nothing reads the column id"), ([*options, "--shape", "odd"], "shape 'odd' is not one of")):
        refused = CliRunner().invoke(app, broken)
        assert refused.exit_code == 1
        assert message in refused.stderr
    write_lines(path, [{"q": "", "chosen": "Because.", "rejected": "No idea."}, {"q": "a", "chosen": "b", "rejected": "c"}])
    found = CliRunner().invoke(app, options[:-2])
    assert (found.exit_code, "bad: a.jsonl line 1: q: must not be blank" in found.stdout) == (1, True)
