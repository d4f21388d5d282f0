"""Tokens become text: whole characters, and nothing of a stop string."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attune.service.members.answer_text import Thoughts
from attune.service.members.text_of_tokens import Detokenizer, StopScanner, Writer


def decode_bytes(ids):
    """A tokenizer of which every token is one byte."""
    return bytes(ids).decode("utf-8", "replace")


def decode_words(ids):
    """A tokenizer that drops the space before the first word, as SentencePiece does."""
    return "".join(f" {'abcdefgh'[index]}" for index in ids).removeprefix(" ")


@given(st.text(st.characters(exclude_characters="\ufffd", exclude_categories=["Cs"])))
def test_every_character_comes_out_once_and_whole(text):
    detokenizer = Detokenizer(decode_bytes)
    pieces = [detokenizer.push(byte) for byte in text.encode()]
    assert not any("\ufffd" in piece for piece in pieces)
    assert "".join(pieces) == text
    assert detokenizer.close() == ""


def test_a_character_of_four_bytes_comes_out_with_its_last_byte():
    detokenizer = Detokenizer(decode_bytes)
    assert [detokenizer.push(byte) for byte in "🙂".encode()] == ["", "", "", "🙂"]


def test_half_a_character_at_the_end_is_left_out():
    detokenizer = Detokenizer(decode_bytes)
    pieces = [detokenizer.push(byte) for byte in "a🙂".encode()[:-1]]
    assert "".join(pieces) + detokenizer.close() == "a"


def test_spaces_between_words_survive_a_tokenizer_that_trims_the_first():
    detokenizer = Detokenizer(decode_words)
    assert [detokenizer.push(token) for token in (0, 1, 2)] == ["a", " b", " c"]


def test_bytes_that_never_make_a_character_do_not_hold_text_back_for_ever():
    detokenizer = Detokenizer(decode_bytes)
    pieces = [detokenizer.push(0xFF) for _ in range(40)]
    assert sum(map(bool, pieces)) >= 3


def test_a_nul_that_a_model_writes_is_replaced():
    writer = Writer(decode_bytes, (), Thoughts())
    assert "".join(writer.push(byte) for byte in b"a\0b") + writer.close() == "a\ufffdb"


@pytest.mark.parametrize(
    ("stops", "chunks", "expected"),
    [
        (["END"], ["a", "E", "N", "D", "b"], "a"),
        (["END"], ["aEN", "Ob"], "aENOb"),
        (["aab"], ["a", "a", "a", "b"], "a"),  # the held back end is itself a new beginning
        (["\n\n", "###"], ["one\n", "two#", "##"], "one\ntwo"),
        (["abcd", "bc"], ["ab", "cd"], "a"),
        (["abcd", "bc"], ["abcd"], "a"),
        (["日本"], ["今日", "日", "本"], "今日"),
    ],
)
def test_text_ends_before_the_first_stop_string_wherever_the_pieces_are_cut(stops, chunks, expected):
    scanner = StopScanner(stops)
    out = ""
    for chunk in chunks:
        out += scanner.push(chunk)
        if scanner.stopped:
            break
    assert out + scanner.close() == expected


@given(st.text(alphabet="ab", max_size=40), st.lists(st.text(alphabet="ab", min_size=1, max_size=4), min_size=1, max_size=3), st.data())
def test_where_the_text_is_cut_into_pieces_changes_nothing(text, stops, data):
    def run(chunks):
        scanner, out = StopScanner(stops), ""
        for chunk in chunks:
            sent = scanner.push(chunk)
            out += sent
            if scanner.stopped:
                return out, True
        return out + scanner.close(), False

    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    chunks = [text[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    out, stopped = run(chunks)
    assert (out, stopped) == run([text])
    assert not any(stop in out for stop in stops)
    assert stopped == any(stop in text for stop in stops)


def test_what_was_held_back_for_a_stop_string_comes_out_at_the_end():
    writer = Writer(decode_bytes, ["stop"], Thoughts())
    sent = "".join(writer.push(byte) for byte in b"do not sto")
    assert sent == "do not "
    assert writer.close() == "sto"


def test_a_stop_string_completed_by_the_last_characters_is_found_on_closing():
    writer = Writer(decode_words, ["c"], Thoughts())
    assert writer.push(0) == "a"
    assert writer.push(2) == " "
    assert writer.stopped


def test_a_local_model_s_thoughts_are_neither_sent_nor_searched_for_stop_strings():
    writer = Writer(decode_bytes, ["stop"], Thoughts(("think",)))
    sent = "".join(writer.push(byte) for byte in b"<think>stop or go</think>\nGo, and ")
    assert (sent + writer.close(), writer.stopped) == ("Go, and ", False)
