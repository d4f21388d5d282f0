"""Lines of JSON that somebody else wrote: packed, marked, cut, deep, doubled, or not Unicode; each a value or a sentence."""

from __future__ import annotations

import gzip

import pytest

from attune.models.seam.json_lines import JsonInvalid, LinesInvalid, parse_json, read_json_lines


def test_lines_are_numbered_as_editors_do_and_blank_ones_skipped(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\r\n[2]\n')
    assert [(line.number, line.value) for line in read_json_lines(tmp_path / "a.jsonl")] == [(1, {"a": 1}), (3, [2])]


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl"])
def test_gzip_is_known_by_its_content(tmp_path, name):
    (tmp_path / name).write_bytes(gzip.compress(b'{"a": 1}'))
    assert [line.value for line in read_json_lines(tmp_path / name)] == [{"a": 1}]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[" * 100_000, "is nested too deeply"),
        (b'{"a": 1, "a": 2}', "has 'a' twice"),
        (b'{"turns": [{"text": "\\ud800"}]}', r"turns\[0\]\.text: half of a surrogate pair at character 1"),
        (b'{"a": "\xff"}', "is not UTF-8: byte 0xff at position 8"),
        (b'{"a": ' + b"1" * 5000 + b"}", "has a number of more than 300 digits"),
        (b'{"a": [-' + b"1" * 310 + b"]}", "has a number of more than 300 digits"),
        (b"{", "is not JSON"),
    ],
)
def test_a_line_that_says_nothing_is_told_with_its_reason_and_the_others_are_read(tmp_path, content, said):
    (tmp_path / "a.jsonl").write_bytes(b"1\n" + content + b"\n3\n")
    first, broken, last = read_json_lines(tmp_path / "a.jsonl")
    assert (first.value, broken.value, last.value, last.number) == (1, None, 3, 3)
    with pytest.raises(JsonInvalid, match=said):
        parse_json(content)
    assert broken.broken


def test_a_whole_surrogate_pair_is_a_character():
    assert parse_json(b'"\\ud83d\\ude00"') == "\U0001f600"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl.gz", b"not packed", "a.jsonl.gz is cut off or not gzip"),
        ("a.jsonl", gzip.compress(b"1\n" * 10_000, mtime=0)[:40], "a.jsonl is cut off or not gzip"),
        ("a.jsonl", "1\n".encode("utf-16"), "a.jsonl is UTF-16 or UTF-32; save it as UTF-8"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(LinesInvalid, match=said):
        list(read_json_lines(tmp_path / name))
    with pytest.raises(LinesInvalid, match="no such file or directory"):
        list(read_json_lines(tmp_path / "none.jsonl"))
