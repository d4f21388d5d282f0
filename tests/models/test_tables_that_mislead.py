"""Tables that are legal and mean something else than they seem to: nothing of them is lost or mixed without a word."""

from __future__ import annotations

import json

import pytest

from attune.models.data.adapters import read_comparisons
from attune.models.data.check import survey
from attune.models.data.preferences import ComparisonInvalid
from attune.models.data.table_shapes import Reading
from attune.models.data.tables import RowsInvalid, TableInvalid


def lines(path, *rows):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def chat(*texts, first="user"):
    roles = ["user", "assistant"] if first == "user" else ["assistant", "user"]
    return [{"role": roles[number % 2], "content": text} for number, text in enumerate(texts)]


def prompts(path):
    return [(one.prompt, one.chosen, one.rejected) for one in read_comparisons(path).records()]


@pytest.mark.parametrize(
    ("prompt", "before", "asked"),
    [
        ("Why?", ["Why?"], "Why?"),
        ("Why? ", [" Why?"], "Why? "),
        ("Hello.", ["Hello.", "Yes?", "Why?"], "user: Hello.\nassistant: Yes?\nuser: Why?"),
        ("Why?", ["Hello.", "Yes?", "Why?"], "user: Hello.\nassistant: Yes?\nuser: Why?"),
        (chat("Hello.", "Yes?", "Why?"), ["Why?"], "user: Hello.\nassistant: Yes?\nuser: Why?"),
    ],
)
def test_what_a_conversation_says_beside_the_prompt_is_kept(tmp_path, prompt, before, asked):
    row = {"prompt": prompt, "chosen": chat(*before, "So."), "rejected": chat(*before, "No.")}
    assert prompts(lines(tmp_path / "a.jsonl", row)) == [(asked, "So.", "No.")]
    said = {"prompt": prompt, "chosen": chat(*before, "So."), "rejected": "No."}
    assert prompts(lines(tmp_path / "b.jsonl", said)) == [(asked, "So.", "No.")]


def test_a_conversation_may_go_on_from_the_prompt(tmp_path):
    row = {
        "prompt": "Hello.",
        **{side: chat("Yes?", "Why?", text, first="assistant") for side, text in (("chosen", "So."), ("rejected", "No."))},
    }
    assert prompts(lines(tmp_path / "a.jsonl", row)) == [("user: Hello.\nassistant: Yes?\nuser: Why?", "So.", "No.")]


@pytest.mark.parametrize(
    ("chosen", "rejected", "said"),
    [
        (chat("When?", "So."), chat("When?", "No."), "chosen: its conversation does not hold the prompt"),
        ("So.", chat("When?", "No."), "rejected: its conversation does not hold the prompt"),
        ("\n\nHuman: When?\n\nAssistant: So.", "No.", "chosen: its conversation does not hold the prompt"),
        (chat("Why?", "So."), chat("When?", "No."), "rejected: its conversation is another than that of the other answer"),
    ],
)
def test_a_conversation_about_something_else_than_the_prompt_is_a_bad_row(tmp_path, chosen, rejected, said):
    path = lines(tmp_path / "a.jsonl", {"prompt": "Why?", "chosen": chosen, "rejected": rejected})
    with pytest.raises(RowsInvalid, match=f"line 1: {said}"):
        read_comparisons(path)


def test_rated_conversations_are_compared_where_they_ask_the_same(tmp_path):
    rows = [{"user": "ann", "response": chat(asked, text), "rating": rating} for asked, text, rating in
            [("Why?", "So.", 5), ("Why?", "No.", 1), ("When?", "Now.", 3)]]  # fmt: skip
    assert prompts(lines(tmp_path / "a.jsonl", *rows)) == [("Why?", "So.", "No.")]
    found = survey(tmp_path / "a.jsonl", Reading())
    assert "1 rating is the only one of its user for a prompt, and makes no comparison" in found.warnings


def test_ratings_that_can_be_compared_with_nothing_are_counted(tmp_path):
    rows = [{"user": f"u{number}", "prompt": "Why?", "response": "So.", "rating": number} for number in range(4)]
    path = lines(tmp_path / "a.jsonl", *rows)
    assert survey(path, Reading()).warnings == ("there is no comparison: 4 ratings are the only one of their user for a prompt",)
    with pytest.raises(ComparisonInvalid, match=r"a\.jsonl: there is no comparison: 4 ratings are the only one of their user"):
        read_comparisons(path)


def test_ratings_of_nobody_who_is_named_say_so(tmp_path):
    rows = [{"user": None, "prompt": "Why?", "response": f"{number}.", "rating": number} for number in range(2)]
    with pytest.raises(ComparisonInvalid, match="there is no comparison: all 2 rows have no user"):
        read_comparisons(lines(tmp_path / "a.jsonl", *rows))


def test_ratings_whose_people_stand_under_another_name_are_no_scores_of_one_person(tmp_path):
    rows = [
        {"annotator": who, "prompt": "Why?", "response": f"{number}.", "rating": (number + who) % 3}
        for who in (1, 2)
        for number in range(3)
    ]
    path = lines(tmp_path / "a.jsonl", *rows)
    with pytest.raises(TableInvalid, match=r"a\.jsonl: there are ratings, and no column says whose; --column user=THEIRS"):
        read_comparisons(path)
    assert read_comparisons(path, Reading.from_words("", ["user=annotator"], [])).users == ("1", "2")
    found = survey(path, Reading.from_words("scores", [], []))
    assert any(
        text.startswith("6 scores are of an answer that has one of the same attribute before; where several") for text in found.warnings
    )


def test_numbers_of_rows_among_the_scores_are_pointed_out(tmp_path):
    rows = [{"id": number, "prompt": "Why?", "response": f"{number}.", "short": number % 3} for number in range(10)]
    warnings = survey(lines(tmp_path / "a.jsonl", *rows), Reading()).warnings
    assert [text for text in warnings if text.startswith("read as an attribute, and another whole number in every row: id; ")]
    ignoring = survey(tmp_path / "a.jsonl", Reading(ignore=frozenset({"id"}))).warnings
    assert not [text for text in ignoring if "whole number" in text]


@pytest.mark.parametrize("name", ["NA", "nan", "None", " null ", "<NA>"])
def test_what_stands_for_nothing_is_no_name_of_a_user(tmp_path, name):
    (tmp_path / "a.csv").write_text(f"user,prompt,chosen,rejected\nann,Why?,So.,No.\n{name},Why?,So.,No.\n")
    with pytest.raises(RowsInvalid, match=f"a.csv line 3: user: is '{name}', which stands for nothing at all; leave it empty"):
        read_comparisons(tmp_path / "a.csv")


def test_names_that_look_alike_are_pointed_out(tmp_path):
    rows = [{"user": name, "prompt": "Why?", "chosen": "So.", "rejected": "No."} for name in ("ann", "Ann ", "e\u0301", "\u00e9", "bob")]
    warnings = survey(lines(tmp_path / "a.jsonl", *rows), Reading()).warnings
    assert [text for text in warnings if text.startswith("4 names of users differ") and "as 'ann' from 'Ann '" in text]


def test_sides_that_are_numbered_are_refused_with_the_reason(tmp_path):
    row = {"prompt": "Why?", "response_a": "So.", "response_b": "No.", "winner": 1}
    with pytest.raises(RowsInvalid, match="winner: is 1; a, b or tie is needed; of numbers nobody can tell whether they begin with 0 or 1"):
        read_comparisons(lines(tmp_path / "a.jsonl", row))


@pytest.mark.parametrize("mark", [",", ";"])
def test_blank_lines_before_the_names_of_columns_do_not_count(tmp_path, mark):
    content = "\n\n" + mark.join(["prompt", "chosen", "rejected"]) + "\n\n" + mark.join(["Why?", "So.", ""]) + "\n"
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(RowsInvalid, match=r"a\.csv line 5: rejected: is None; a text"):
        read_comparisons(tmp_path / "a.csv")
