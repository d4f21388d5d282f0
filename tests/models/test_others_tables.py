"""Tables as others write them: what stands in no first row, names of sides, formats that are saved with the rows."""

from __future__ import annotations

import csv
import gzip
import json
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest

from attune.models.data.adapters import read_comparisons
from attune.models.data.check import survey
from attune.models.data.preferences import ComparisonInvalid
from attune.models.data.table_shapes import Reading
from attune.models.data.tables import TableInvalid
from attune.models.seam.text import conversation_text
from attune.service.api.openai_turns import read_turns

PAIR = {"prompt": "Why?", "chosen": "So.", "rejected": "No."}
VOTE = {"prompt": "Why?", "response_a": "A", "response_b": "B", "winner": "a"}


def lines(path, *rows):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def told(path, reading=None):
    return list(read_comparisons(path, reading).records())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "prompt,response,kind,short\np,a,,3\np,b,2,1\np,c,1,2\n"),
        (
            "a.jsonl",
            (
                '{"prompt":"p","response":"a","kind":null,"short":3}\n{"prompt":"p","response":"b","kind":2,"short":1}\n'
                '{"prompt":"p","response":"c","kind":1,"short":2}'
            ),
        ),
        (
            "a.jsonl",
            (
                '{"prompt":"p","response":"a","short":3}\n{"prompt":"p","response":"b","kind":2,"short":1}\n'
                '{"prompt":"p","response":"c","kind":1,"short":2}'
            ),
        ),
    ],
)
def test_a_score_may_be_missing_in_the_first_row(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    assert {(one.user, one.chosen, one.rejected) for one in told(tmp_path / name)} == {
        ("short", "a", "b"),
        ("short", "a", "c"),
        ("short", "c", "b"),
        ("kind", "b", "c"),
    }


def test_a_text_under_scores_is_still_refused_where_the_first_row_has_none(tmp_path):
    rows = [{"prompt": "p", "response": name, "short": 1, "note": note} for name, note in [("a", None), ("b", "x")]]
    found = survey(lines(tmp_path / "a.jsonl", *rows), Reading())
    assert found.problems == (
        "a.jsonl line 2: note: no such column in a.jsonl line 1, by which the others are read; ignore it by name if it should not be read",
    )


def test_a_named_column_may_be_missing_in_the_first_row_and_not_in_all(tmp_path):
    reading = Reading.from_words("", ["user=judge"], [])
    path = lines(tmp_path / "a.jsonl", VOTE, VOTE | {"judge": "ann"})
    assert read_comparisons(path, reading).anonymous.tolist() == [True, False]
    with pytest.raises(TableInvalid, match=r"there is no column judge; there are prompt, response_a"):
        told(lines(tmp_path / "b.jsonl", VOTE, VOTE), reading)
    # A place inside of a column that is misspelt would make everybody a stranger.
    inside = lines(tmp_path / "c.jsonl", VOTE | {"meta": {}}, VOTE | {"meta": {"judge": "ann"}})
    assert read_comparisons(inside, Reading.from_words("", ["user=meta.judge"], [])).anonymous.tolist() == [True, False]
    with pytest.raises(TableInvalid, match=r"there is no column meta\.jugde"):
        told(inside, Reading.from_words("", ["user=meta.jugde"], []))


@pytest.mark.parametrize(
    ("winner", "chosen", "tie"),
    [
        ("Model B", "B", False),
        ("assistant_a", "A", False),
        ("response-b", "B", False),
        ("both_bad", "A", True),
        ("tie_bothbad", "A", True),
        ("Equal", "A", True),
    ],
)
def test_sides_have_many_names(tmp_path, winner, chosen, tie):
    (one,) = told(lines(tmp_path / "a.jsonl", VOTE | {"winner": winner}))
    assert (one.chosen, one.tie) == (chosen, tie)


def test_flags_that_became_numbers_in_text_are_flags(tmp_path):
    (tmp_path / "a.csv").write_text("prompt,chosen,rejected,tie\np,a,b,1.0\np,a,c,0.0\np,b,c,\n")
    assert [one.tie for one in told(tmp_path / "a.csv")] == [True, False, False]


def test_a_transcript_that_ends_where_the_answer_begins_is_its_question(tmp_path):
    prompts = ["\n\nHuman: Why?\n\nAssistant:", "\r\n\r\nHuman: Why?\r\n\r\nAssistant: ", "Human: Why?"]
    assert {one.prompt for one in told(lines(tmp_path / "a.jsonl", *(PAIR | {"prompt": prompt} for prompt in prompts)))} == {"Why?"}


def test_lines_of_json_are_read_under_a_name_for_json(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(PAIR) + "\n" + json.dumps(PAIR | {"rejected": "Never."}) + "\n")
    assert [one.rejected for one in told(tmp_path / "a.json")] == ["No.", "Never."]
    (tmp_path / "a.json").write_text('[{"prompt": "Why?",')
    with pytest.raises(TableInvalid, match=r"a\.json is not JSON"):
        told(tmp_path / "a.json")


def test_a_name_in_quotes_may_hold_what_separates_others(tmp_path):
    (tmp_path / "a.csv").write_text('"prompt";"chosen";"rejected";"said, freely"\n"Why?";"So.";"No.";"x"\n')
    (one,) = told(tmp_path / "a.csv", Reading.from_words("", [], ["said, freely"]))
    assert one.chosen == "So."


@pytest.mark.parametrize("name", ["clean.jsonl.gz", "clean.v2.JSONL", "clean.ndjson"])
def test_the_clean_copy_is_read_by_its_name(tmp_path, name):
    survey(lines(tmp_path / "a.jsonl", PAIR), Reading(), write=tmp_path / name)
    assert told(tmp_path / name) == told(tmp_path / "a.jsonl")
    assert ((tmp_path / name).read_bytes()[:2] == gzip.compress(b"")[:2]) == name.endswith("gz")


def test_a_clean_copy_under_a_name_by_which_nothing_would_read_it_is_refused(tmp_path):
    with pytest.raises(ComparisonInvalid, match=r"clean\.csv would hold JSON lines; a name that ends in \.jsonl"):
        survey(lines(tmp_path / "a.jsonl", PAIR), Reading(), write=tmp_path / "clean.csv")
    assert not (tmp_path / "clean.csv").exists()


def test_a_clean_copy_never_takes_the_place_of_its_table(tmp_path):
    table = lines(tmp_path / "a.jsonl", PAIR, {"prompt": "Why?"})
    (tmp_path / "b.jsonl").symlink_to(table)
    before = table.read_bytes()
    for name in ("a.jsonl", "b.jsonl"):
        with pytest.raises(TableInvalid, match=f"{name} is the table itself, of which bad rows would be lost; give the copy another name"):
            survey(table, Reading(), write=tmp_path / name)
    assert table.read_bytes() == before


def test_days_and_exact_numbers_of_a_table_with_types_are_times_and_users(tmp_path):
    parquet, pyarrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    columns = {name: [text] for name, text in PAIR.items()} | {"user": [Decimal(7)], "time_s": [date(2027, 1, 15)]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    (one,) = told(tmp_path / "a.parquet")
    assert (one.user, one.time_s) == ("7", datetime(2027, 1, 15, tzinfo=UTC).timestamp())


@pytest.mark.parametrize(("kind", "columns"), [("numpy", None), ("pandas", None), ("numpy", ["weight"])])
def test_a_format_that_is_saved_with_the_rows_changes_nothing(tmp_path, kind, columns):
    datasets = pytest.importorskip("datasets")
    row = PAIR | {"user": 7, "tie": False, "weight": 2.0}
    saved = datasets.Dataset.from_list([row])
    saved.set_format(kind, columns=columns)
    saved.save_to_disk(str(tmp_path / "saved"))
    assert told(tmp_path / "saved") == told(lines(tmp_path / "a.jsonl", row))


def turn(content, role="user", **more):
    return {"role": role, "content": content, **more}


@pytest.mark.parametrize(
    ("prompt", "asked"),
    [
        ([turn([{"type": "text", "text": "Why"}, {"type": "text", "text": "?"}])], "Why?"),
        ([turn("Be brief.", "developer"), turn("Why?")], "system: Be brief.\nuser: Why?"),
        ([turn("Why?"), turn(None, "assistant"), turn("", "assistant"), turn("So?")], "user: Why?\nuser: So?"),
        (
            [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}, {"from": "human", "value": "So?"}],
            "user: Why?\nassistant: So.\nuser: So?",
        ),
        (turn("Why?"), "Why?"),
        ([turn("Why?"), turn("", "assistant")], "Why?"),
    ],
)
def test_messages_are_read_as_others_keep_them(tmp_path, prompt, asked):
    row = {"prompt": prompt, "chosen": {"from": "gpt", "value": "So."}, "rejected": [turn([{"type": "text", "text": "No."}], "assistant")]}
    (one,) = told(lines(tmp_path / "a.jsonl", row))
    assert (one.prompt, one.chosen, one.rejected) == (asked, "So.", "No.")


CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bern"}'}}
CALLED = [
    turn("Will it rain?"),
    turn(None, "assistant", tool_calls=[CALL, CALL | {"id": "c2", "function": {"name": "day", "arguments": {"of": "Bern", "week": 3.5}}}]),
    turn("no", "tool", tool_call_id="c1"),
    turn([{"type": "text", "text": "Tuesday"}], "tool", tool_call_id="c2", name="other"),
]


@pytest.mark.parametrize(
    ("history", "asked"),
    [
        (
            CALLED,
            (
                'user: Will it rain?\nassistant: Called weather with {"city": "Bern"}\nCalled day with {"of": "Bern", "week": 3.5}\n'
                "user: Result of weather: no\nuser: Result of day: Tuesday"
            ),
        ),
        (
            [
                turn("Hm?"),
                turn("Let me see.", "assistant", function_call={"name": "f", "arguments": "{}"}),
                turn("9", "function", name="f"),
            ],
            "user: Hm?\nassistant: Let me see.\nCalled f with {}\nuser: Result of f: 9",
        ),
        (
            [
                turn("Hm?"),
                turn([{"type": "thinking", "thinking": "…"}, {"type": "tool_use", "name": "f", "input": {"a": 1}}], "assistant"),
                turn([{"type": "tool_result", "content": "9"}]),
            ],
            'user: Hm?\nassistant: Called f with {"a": 1}\nuser: Result of the tool: 9',
        ),
        ([turn("Why?"), turn("So.", "assistant"), turn(" ")], "user: Why?\nassistant: So."),
        ([turn("Why?"), turn(None, "assistant", refusal="I will not."), turn("Do!")], "user: Why?\nassistant: I will not.\nuser: Do!"),
    ],
)
def test_stored_conversations_of_agents_are_read_as_the_server_reads_them(tmp_path, history, asked):
    read = read_turns(history)
    assert (read.wrong, conversation_text([(turn.role, turn.content) for turn in read.turns])) == ([], asked)
    row = {"prompt": history, "chosen": "So.", "rejected": "No."}
    assert [one.prompt for one in told(lines(tmp_path / "a.jsonl", row))] == [asked]
    whole = {"chosen": [*history, turn("So.", "assistant")], "rejected": [*history, turn("No.", "assistant")]}
    assert [one.prompt for one in told(lines(tmp_path / "b.jsonl", whole))] == [asked]
    cell = tmp_path / "c.csv"
    with cell.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([[*row], [json.dumps(history), "So.", "No."]])
    assert [one.prompt for one in told(cell)] == [asked]


def test_a_call_may_be_the_answer_and_a_last_turn_that_says_nothing_is_none(tmp_path):
    asked = CALLED[:1]
    row = {"chosen": [*asked, turn(None, "assistant", tool_calls=[CALL])], "rejected": [*asked, turn("Perhaps.", "assistant")]}
    (one,) = told(lines(tmp_path / "a.jsonl", row))
    assert one.chosen == 'Called weather with {"city": "Bern"}'
    row["chosen"] = [turn("Hm?"), turn("So.", "assistant"), *asked, turn(None, "assistant", tool_calls=[])]
    row["rejected"] = [*row["chosen"][:-1], turn("Perhaps.", "assistant")]
    assert survey(lines(tmp_path / "b.jsonl", row), Reading()).problems == ("b.jsonl line 1: chosen: must not be blank",)


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (turn([{"type": "image_url", "image_url": {"url": "x"}}]), ": content[0].type is 'image_url'; only text is read here"),
        (turn("", "assistant", tool_calls=[{"id": "1"}]), ": tool_calls holds a call without a function"),
        (turn("sunny", "weather"), ": role is 'weather'; system, developer, user, assistant, tool, function are understood"),
        (turn(3), ": content is a number; a string, a list of parts or null is needed"),
        ({"role": ["user"], "content": "x"}, ": role is missing or no string; "),
        ("Why?", " is not an object with `role` and `content`"),
    ],
)
def test_messages_of_which_something_would_be_lost_are_bad_rows(tmp_path, message, why):
    found = survey(lines(tmp_path / "a.jsonl", PAIR | {"prompt": [turn("Why?"), message, turn("So?")]}), Reading())
    assert found.problems[0].startswith(f"a.jsonl line 1: prompt: message 2{why}")


@pytest.mark.parametrize(
    ("columns", "ignore", "said"),
    [
        (["prompt=q", "prompt=z"], [], "--column says of prompt more than once which column it is"),
        (["prompt=q"], ["id", "q"], "--column reads q and --ignore has it read by nothing; say one of the two"),
    ],
)
def test_options_that_contradict_each_other_are_refused(columns, ignore, said):
    with pytest.raises(TableInvalid, match=said):
        Reading.from_words("", columns, ignore)
    assert Reading.from_words("", ["prompt=q", "prompt=q"], ["id"]).columns == {"prompt": "q"}


def test_messages_in_a_cell_are_messages_and_other_json_is_text(tmp_path):
    asked, said = [turn("Be brief.", "system"), turn("Why?")], [turn("So.", "assistant")]
    with (tmp_path / "a.csv").open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["prompt", "chosen", "rejected"])
        rows.writerow([json.dumps(asked), json.dumps(said), '[{"name": "x"}]'])
        rows.writerow(["Why?", "[{not json", "No."])
    first, second = told(tmp_path / "a.csv")
    assert (first.prompt, first.chosen, first.rejected) == ("system: Be brief.\nuser: Why?", "So.", '[{"name": "x"}]')
    assert second.chosen == "[{not json"


def test_the_separator_is_what_the_first_line_has_most_of(tmp_path):
    (tmp_path / "a.csv").write_text("prompt\tchosen\trejected\tsaid, freely\nWhy?\tSo.\tNo.\tx\n")
    (one,) = told(tmp_path / "a.csv", Reading.from_words("", [], ["said, freely"]))
    assert one.chosen == "So."
