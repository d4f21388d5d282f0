"""Text in pieces, wherever it is cut: characters are whole, and thoughts are left out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attune.service.members.answer_text import SoundText, ThoughtFilter, Thoughts, is_seen, sound_text
from attune.service.members.roster_file import parse_member


@given(st.text(st.characters()), st.lists(st.integers(0, 60), max_size=6))
def test_any_text_cut_anywhere_is_sound_and_the_same_as_whole(text, cuts):
    units = text.encode("utf-16-le", "surrogatepass")
    halves = [units[at : at + 2].decode("utf-16-le", "surrogatepass") for at in range(0, len(units), 2)]
    cuts = sorted(min(cut, len(halves)) for cut in cuts)
    sound = SoundText()
    got = "".join(sound.push("".join(halves[a:b])) for a, b in zip([0, *cuts], [*cuts, len(halves)], strict=True)) + sound.close()
    assert got == sound_text("".join(halves))
    got.encode()  # raises where it is not sound
    assert "\0" not in got


def test_a_nul_which_no_turn_of_a_conversation_may_hold_is_replaced():
    assert SoundText().push("a\0b") == sound_text("a\0b") == "a\ufffdb"


@pytest.mark.parametrize("text", ["a", "\u200ba", "🥞", "\U0010ffff", "\ue000", "\ufffd", "."])
def test_a_sign_that_shows_is_seen_whatever_stands_around_it(text):
    assert is_seen(f"\n{text}\u2060")


@pytest.mark.parametrize("text", ["", " \n\u00a0\u3000\u2028", "\u200b\u200d\u2060\ufeff\u00ad", "\x01\x7f\x85", "\u202e\U000e0041"])
def test_spaces_controls_and_signs_without_width_are_not_seen(text):
    assert not is_seen(text)


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("<think>hm</think>\n\nYes.", "Yes."),
        ("  <think>hm</think>Yes.", "Yes."),
        ("<think></think>Yes.", "Yes."),
        ("\ufeff<think>hm</think>Yes.", "\ufeffYes."),  # nobody sees what stands before the thought
        ("Well, <think>hm</think>yes.", "Well, yes."),
        ("The tag <think> opens a thought.", "The tag <think> opens a thought."),
        ("a < b and <thin", "a < b and <thin"),
        ("<think>never closed", ""),
        ("<think>a</think><think>b</think>c", "c"),
        ("<thinking>hm</thinking>Yes.", "Yes."),
        ("<thinking>a <think>b</think> c</thinking>d", "d"),  # it ends where its own tag closes
        ("<think>a</thinking>b</think>c", "c"),
        ("Well, <thinking>hm</thinking>yes <think>so</think>so.", "Well, yes so."),
        ("a <thinkings> and </thinking>", "a <thinkings> and </thinking>"),
    ],
)
@pytest.mark.parametrize("size", [1, 3, 100])
def test_thoughts_are_left_out_of_the_text_however_they_are_cut(text, seen, size):
    thoughts = ThoughtFilter(Thoughts(("think", "thinking")))
    got = "".join(thoughts.push(text[at : at + size]) for at in range(0, len(text), size)) + thoughts.close()
    assert got.strip() == seen.strip()


def test_what_may_be_a_long_thought_is_looked_through_once():
    """Read anew with each piece, these 30 MB would take minutes, in which nothing else is answered."""
    thoughts, pieces = ThoughtFilter(Thoughts(("think",))), ["x" * 5_000] * 6_000
    assert "".join(thoughts.push(piece) for piece in ["a <think>b", *pieces, "</thi"]) == "a "
    assert thoughts.push("nk>c") == "c"
    assert thoughts.new_thoughts() == "".join(["b", *pieces])


@pytest.mark.parametrize(
    ("tags", "seen"),
    [
        (None, "<think>a</think><thinking>b</thinking><seed:think>c</seed:think>Yes."),
        ([], "<think>a</think><thinking>b</thinking><seed:think>c</seed:think>Yes."),
        ("seed:think", "<think>a</think><thinking>b</thinking>Yes."),
        (["think", "seed:think"], "<thinking>b</thinking>Yes."),
    ],
)
def test_a_roster_says_between_which_tags_thoughts_stand(tags, seen):
    spec = parse_member("m", {"kind": "openai", "base_url": "http://h/v1", "model": "m", "think_tag": tags})
    thoughts = ThoughtFilter(spec.thoughts)
    assert thoughts.push("<think>a</think><thinking>b</thinking><seed:think>c</seed:think>Yes.") + thoughts.close() == seen
