"""Tables as people have them: separated values, votes, times as text, columns inside of columns, and the clean copy of any."""

from __future__ import annotations

import gzip
import json
import os
from decimal import Decimal

import pytest
from typer.testing import CliRunner

from attune.models.__main__ import app
from attune.models.data.adapters import read_comparisons
from attune.models.data.check import survey
from attune.models.data.preferences import Comparison, ComparisonInvalid
from attune.models.data.table_shapes import Reading
from attune.models.data.tables import RowsInvalid, TableInvalid, read_rows
from attune.models.data.values import ValueInvalid, number_of

DAY = 1_800_000_000.0


def told(path, reading=None):
    return list(read_comparisons(path, reading).records())


def test_separated_values_are_read_with_quotes_line_breaks_and_packed(tmp_path):
    text = (
        "user,prompt,chosen,rejected,tie,weight,time_s\n"
        'ann,Why?,"Because, well,\nso.",No idea.,false,2,2027-01-15T08:00:00Z\n'
        "bob,Why?,So.,No.,,,\n"
    )
    (tmp_path / "a.csv").write_bytes(text.encode("utf-8-sig"))
    (tmp_path / "b.tsv.gz").write_bytes(gzip.compress(b"prompt\tchosen\trejected\tuser\nWhy?\tSo.\tNo.\tbob\n"))
    (tmp_path / "c.csv").write_text("prompt;chosen;rejected;user\nWhy?;So.;No.;bob\n")
    long = Comparison("ann", "Why?", "Because, well,\nso.", "No idea.", weight=2.0, time_s=DAY)
    short = Comparison("bob", "Why?", "So.", "No.")
    assert told(tmp_path / "a.csv") == [long, short]
    assert told(tmp_path / "b.tsv.gz") == told(tmp_path / "c.csv") == [short]


def test_a_bad_row_of_separated_values_is_named_by_the_line_where_it_begins(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('prompt,chosen,rejected\nWhy?,"So,\nwell.",No.\nWhy?,So.\n')
    with pytest.raises(RowsInvalid, match=r"a\.csv line 4: has 2 cells; the first line names 3 columns"):
        told(path)
    path.write_bytes(b"prompt,chosen,rejected\nWhy?,\xff,No.\n")
    with pytest.raises(TableInvalid, match=r"a\.csv line 2 is not UTF-8: byte 0xff"):
        told(path)
    path.write_text("prompt,prompt\n")
    with pytest.raises(TableInvalid, match="names a column twice"):
        list(read_rows(path))
    path.write_text("response,user,rating\nx,ann,five\ny,ann,3\n")
    with pytest.raises(RowsInvalid, match="line 2: rating: is 'five'; a finite number"):
        told(path)


def test_an_answer_of_any_length_fits_a_cell(tmp_path):
    (tmp_path / "a.csv").write_text("prompt,chosen,rejected\nWhy?," + "so " * 100_000 + ",No.\n")
    assert len(told(tmp_path / "a.csv")[0].chosen) == 300_000


def test_scores_of_separated_values_are_numbers(tmp_path):
    (tmp_path / "a.csv").write_text("prompt,response,detail\nWhy?,long,5\nWhy?,short,2.5\n")
    assert told(tmp_path / "a.csv") == [Comparison("detail", "Why?", "long", "short")]


@pytest.mark.parametrize(
    ("winner", "chosen", "tie"), [("a", "A", False), ("model_b", "B", False), ("Response_A", "A", False), ("tie (bothbad)", "A", True)]
)
def test_votes_say_who_won(tmp_path, winner, chosen, tie):
    row = {"prompt": "Why?", "response_a": "A", "response_b": "B", "winner": winner, "user": "ann", "time_s": "2027-01-15T09:00:00+01:00"}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    (one,) = told(tmp_path / "a.jsonl")
    assert (one.chosen, one.tie, one.time_s) == (chosen, tie, DAY)


def test_votes_may_be_conversations_and_another_winner_is_refused(tmp_path):
    sides = {
        f"conversation_{side}": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": side.upper()}] for side in ("a", "b")
    }
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({**sides, "winner": "model_b"}))
    reading = Reading(columns={"response_a": "conversation_a", "response_b": "conversation_b"})
    (one,) = told(path, reading)
    assert (one.prompt, one.chosen, one.rejected) == ("Why?", "B", "A")
    path.write_text(json.dumps({"prompt": "Why?", "response_a": "A", "response_b": "B", "winner": "left"}))
    with pytest.raises(RowsInvalid, match="winner: is 'left'; a, b or tie is needed"):
        told(path)


def test_a_column_may_be_inside_of_another(tmp_path):
    row = {"meta": {"user": {"id": 7}}, "turns": [{"text": "Why?"}], "chosen": "So.", "rejected": "No."}
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(row))
    reading = Reading.from_words("", ["user=meta.user.id", "prompt=turns.0.text"], [])
    assert told(path, reading) == [Comparison("7", "Why?", "So.", "No.")]
    with pytest.raises(TableInvalid, match=r"there is no column about\.user"):
        told(path, Reading(columns={"user": "about.user"}))


def test_the_clean_copy_holds_what_was_read_and_needs_no_options(tmp_path):
    rows = [
        {"q": "Why?", "chosen": "So.", "rejected": "No.", "user": "ann", "time_s": "2027-01-15T08:00:00Z", "id": 1},
        {"q": "Why?", "chosen": "So.", "rejected": "No.", "user": None, "weight": 2, "tie": True, "context": "short", "id": 2},
        {"q": "Why?", "chosen": "", "rejected": "No.", "user": "bob", "id": 3},
    ]
    path, clean = tmp_path / "a.jsonl", tmp_path / "out" / "clean.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    shown = CliRunner().invoke(app, ["data", "check", str(path), "--column", "prompt=q", "--ignore", "id", "--write", str(clean)])
    assert shown.exit_code == 1
    assert f"wrote 2 comparisons to {clean}; 1 bad row is not in it" in shown.stderr
    again = told(clean)
    assert [(one.chosen, one.time_s, one.tie, one.context, one.weight) for one in again] == [
        ("So.", DAY, False, None, 1.0),
        ("So.", None, True, "short", 2.0),
    ]
    assert survey(clean, Reading()).anonymous == 1
    as_json = CliRunner().invoke(app, ["data", "check", str(clean), "--json"])
    assert (as_json.exit_code, json.loads(as_json.stdout)["comparisons"]) == (0, 2)


def test_the_sample_in_the_repository_is_what_its_command_writes(tmp_path):
    from demo.sample import write_sample
    from tests.project.tree import ROOT

    assert write_sample(tmp_path / "sample.jsonl") == 200
    assert (tmp_path / "sample.jsonl").read_bytes() == (ROOT / "examples" / "prefs-sample.jsonl").read_bytes()


def test_numbers_that_lost_their_kind_are_users_and_too_large_ones_are_bad_rows(tmp_path):
    row = {"prompt": "Why?", "chosen": "So.", "rejected": "No."}
    rows = [row | {"user": 7.0}, row | {"user": float("nan")}, row | {"user": 7}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert [one.user for one in told(tmp_path / "a.jsonl")] == ["7", "anonymous:1", "7"]
    (tmp_path / "b.jsonl").write_text("\n".join(json.dumps(row | {name: 10**400}) for name in ("weight", "time_s")))
    with pytest.raises(RowsInvalid, match="2 of 2 rows are bad") as found:
        told(tmp_path / "b.jsonl")
    assert len(str(found.value)) < 400


def test_a_table_that_is_no_file_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(TableInvalid, match="a pipe or a device; write it to a file first"):
        told(tmp_path / "pipe.jsonl")


def test_a_parquet_table_that_names_a_column_twice_is_refused(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="the extra `datasets` brings it")
    parquet = pytest.importorskip("pyarrow.parquet")
    names = ["prompt", "prompt", "chosen", "rejected"]
    parquet.write_table(pyarrow.table([pyarrow.array([name]) for name in "pqxy"], names=names), tmp_path / "a.parquet")
    with pytest.raises(TableInvalid, match=r"names a column twice: prompt$"):
        told(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "a.csv",
            b'chosen,rejected\na,b\nc,"never closed\nd,e\n',
            "a.csv line 3 and what follows it .*: a quote is opened and never closed",
        ),
        ("a.csv", "chosen,rejected\na,b\nc,é\n".encode("latin-1"), "a.csv line 3 is not UTF-8: byte 0xe9 at position 3; save it as UTF-8"),
        ("a.csv", "chosen,rejected\na,b\n".encode("utf-16"), "a.csv is UTF-16 or UTF-32; save it as UTF-8"),
        ("a.json", "[]".encode("utf-16"), "a.json is UTF-16 or UTF-32; save it as UTF-8"),
        ("a.jsonl", "{}".encode("utf-32"), "a.jsonl is UTF-16 or UTF-32"),
        ("a.csv", "chosen,rejected\n".encode("utf-16-be"), "a.csv is UTF-16 or UTF-32"),
        ("a.jsonl", b"PK\x03\x04{}\n", "a.jsonl is a zip archive; unpack it"),
        ("a.csv", b"BZh91", "a.csv is packed by bzip2; unpack it"),
        (
            "a.csv",
            ",".join(f"c{number}" for number in range(10_000)).encode() + b"\n" + b"1," * 9_999 + b"1\n",
            "c0, .* and 9,988 more make no known",
        ),
        ("a.csv", b"a,b,a,c,b\n", "a.csv line 1 names a column twice: a, b$"),
        (
            "a.jsonl",
            b'null\n"text"\n[1]\ntrue\n3\n',
            "line 1: is null; an .*line 2: is a text; .*line 3: is a list; .*line 4: is true or false; .*line 5: is a",
        ),
        ("a.json", b"3", "a.json holds a number; a list of objects is needed"),
        ("a.csv", b"chosen,rejected\n", "^a.csv: the table has no rows: there is nothing in it, or column names alone"),
        ("a.jsonl", b"\n\n", "^a.jsonl: the table has no rows"),
        ("a.csv", b"question,answer\nx,y\n", "^a.csv: the columns answer, question make no known shape"),
        ("a.jsonl", b'{"chosen": ' + b"9" * 5000 + b"}", "a.jsonl line 1: has a number of more than 300 digits$"),
        (
            "a.csv",
            b"user,prompt,response,rating\nu,p,a,3\nu,p,b,3\n",
            "a.csv: there is no comparison: the one possible pair is of equal scores or texts",
        ),
        ("a.csv", b"chosen,,rejected\na,b,c\n", r"line 2: nothing reads the column \(without a name\); .*, --ignore ''"),
        (
            "a.csv",
            b"chosen,rejected,my id,b\na,b,c,d\n",
            r"the columns my id, b; .*Say of each .*OURS='my id', .*, --ignore 'my id' --ignore b$",
        ),
        ("a.jsonl", b'\xef\xbb\xbf[{"chosen": "a", "rejected": "b"}]\n', "a.jsonl begins with a list, .* that ends in .json$"),
        ("a.jsonl", b'\n[\n{"chosen": "a", "rejected": "b"}\n]\n', "a.jsonl begins with a list"),
        ("a.jsonl", b'{\n "chosen": "a",\n "rejected": "b"\n}\n', "a.jsonl has an object over several lines, .* as `jq -c .` writes them$"),
        ("a.jsonl", b'{"chosen": "a\n', r"a.jsonl line 1: is not JSON: Unterminated string starting at: column 12 \(char 11\)$"),
        ("a.jsonl", b'{"chosen": "a", "rejected": "b", "id": 1}', "nothing reads the column id; .*, --column OURS=id, or .*, --ignore id"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_line_and_with_what_to_do(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ComparisonInvalid, match=f"(?s){said}"):
        read_comparisons(tmp_path / name)


def test_a_folder_in_place_of_a_file_is_named_as_one(tmp_path):
    pytest.importorskip("datasets")
    (tmp_path / "a.jsonl").mkdir()
    with pytest.raises(TableInvalid, match=r"a\.jsonl is a folder, and none that the library `datasets` saved; name a file in it"):
        read_comparisons(tmp_path / "a.jsonl")


def test_a_column_without_a_name_can_be_ignored(tmp_path):
    (tmp_path / "a.csv").write_text("prompt,chosen,,rejected\np,a,b,c\n")
    assert len(read_comparisons(tmp_path / "a.csv", Reading.from_words("", [], [""]))) == 1


@pytest.mark.parametrize("header", ["user, chosen , rejected", "user\tchosen\trejected", "user;chosen;rejected"])
def test_blanks_around_names_and_other_separators_are_no_part_of_a_column(tmp_path, header):
    mark = next(one for one in ",;\t" if one in header)
    (tmp_path / "a.csv").write_text(f"prompt{mark}{header}\n" + mark.join(["Why?", "ann", "So.", "No."]) + "\n")
    assert told(tmp_path / "a.csv") == [Comparison("ann", "Why?", "So.", "No.")]


def test_flags_and_numbers_of_any_kind_are_read(tmp_path):
    rows = [{"prompt": "Why?", "chosen": "So.", "rejected": "No.", "tie": tie} for tie in (1, 0.0, "0", True)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert [one.tie for one in told(tmp_path / "a.jsonl")] == [True, False, False, True]
    assert number_of(Decimal("2.5"), "weight") == 2.5
    with pytest.raises(ValueInvalid, match="weight: is '1_000'"):
        number_of("1_000", "weight")


@pytest.mark.parametrize("name", ["", "../x", "a/b/c"])
def test_what_can_be_no_data_set_of_the_hub_is_told_as_that(name):
    pytest.importorskip("datasets")
    with pytest.raises(TableInvalid, match=f"'{name}' is no id of a data set on the hub"):
        read_comparisons(f"hf:{name}")
