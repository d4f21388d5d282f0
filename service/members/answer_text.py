"""From the pieces of an upstream to text that can be tokenized, stored and sent, and that a reader shall see.

    pieces ── SoundText ──> whole characters ── ThoughtFilter ──> without <think>…</think> ──> StopScanner (writing)

An upstream may cut a text anywhere, in the middle of a character too, so all of this works on the whole answer and holds
back what is not decided yet. Pure functions of what was pushed; one of each for an answer.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

REPLACEMENT = "\ufffd"
_UNSEEN = frozenset({"Cc", "Cf", "Zl", "Zp", "Zs"})
_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_BYTES = re.compile("[\udc80-\udcff]+")
_LONE = re.compile("[\ud800-\udfff]")
# What may become a character with the next piece: the first half of a pair, or up to three bytes of a character.
_UNDECIDED = re.compile("(?:[\ud800-\udbff]|[\udcc2-\udcf4][\udc80-\udcbf]{0,2})$")


LEAST_REPEATED = 12
"""Characters of an answer that may be said again: shorter ones are doubled in earnest, as a year that comes as `2`, `0` and `20`."""


class Repeats:
    """Tells the delta in which some servers say the whole answer again at its end, as others do in a `message` beside it."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._chars = 0

    def whole(self, text: str, *, last: bool) -> bool:
        """Returns whether the last delta says at some length what two or more before it said together; any other is remembered."""
        long = len(text) == self._chars >= LEAST_REPEATED
        if last and long and len(self._texts) > 1 and text == "".join(self._texts):
            return True
        self._texts.append(text)
        self._chars += len(text)
        return False


class SoundText:
    """Makes text sound: pairs of surrogates and split bytes become their characters, whatever is left becomes U+FFFD.

    So does a NUL, which no request may hold: an answer comes back as a turn of its conversation. Bytes that are no UTF-8 stand in the text
    as Python's `surrogateescape` writes them.
    """

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = ""

    def push(self, text: str) -> str:
        """Returns the characters that are complete."""
        text = without_nul(text)
        if self._held:
            text = self._held + text
        elif text.isascii():
            return text
        self._held = ""
        if not _LONE.search(text):
            return text
        text = _paired(text)
        if undecided := _UNDECIDED.search(text):
            self._held, text = undecided[0], text[: undecided.start()]
        return _sound(text)

    def close(self) -> str:
        """Returns what was held back: it makes no character any more."""
        held, self._held = self._held, ""
        return _sound(held)


def sound_text(text: str) -> str:
    """Returns the whole text made sound."""
    text = without_nul(text)
    return text if text.isascii() or not _LONE.search(text) else _sound(_paired(text))


def is_seen(text: str) -> bool:
    """Returns whether a reader sees any of it: more than spaces, controls and signs without width, such as U+200B and a byte-order mark."""
    return any(unicodedata.category(sign) not in _UNSEEN for sign in text)


def without_nul(text: str) -> str:
    """Returns the text with U+FFFD in the place of each NUL."""
    return text.replace("\0", REPLACEMENT) if "\0" in text else text


def _paired(text: str) -> str:
    return _PAIR.sub(lambda pair: pair[0].encode("utf-16", "surrogatepass").decode("utf-16"), text)


def _sound(text: str) -> str:
    text = _BYTES.sub(lambda run: run[0].encode("utf-8", "surrogateescape").decode("utf-8", "replace"), text)
    return _LONE.sub(REPLACEMENT, text)


@dataclass(frozen=True, slots=True)
class Thoughts:
    """How a member tells thoughts from the text for a reader.

    Args:
        tags: names of the tags between which they stand; none lets everything through.
        opened: whether an answer begins inside a thought, because the chat template has opened the tag.
    """

    tags: tuple[str, ...] = ()
    opened: bool = False


class ThoughtFilter:
    """Parts thoughts that stand inside the text between two tags from it; whoever wants to tell them asks for them (`new_thoughts`).

    What begins the answer is a thought until its tag closes, and all of it is one if it never does. Where the tag opens in
    the middle of a text, what follows is held back: without a closing tag it was text about the tag. A thought ends where
    the tag closes that opened it, whatever other tags it holds.
    """

    __slots__ = ("_begun", "_closes", "_held", "_inside", "_later", "_opens", "_tags", "_tail", "_thought", "left_out")

    def __init__(self, thoughts: Thoughts) -> None:
        self._tags = thoughts.tags
        self._opens = tuple(f"<{tag}>" for tag in thoughts.tags)
        self._closes = tuple(f"</{tag}>" for tag in thoughts.tags)  # any of which ends the thought that is being read
        self._inside = thoughts.opened and bool(thoughts.tags)
        self._held = ""
        self._later: list[str] = []  # behind what is held, in the middle of the text: joined once its tag closes, however long that takes
        self._tail = ""  # the end of it, in which the closing tag may begin
        self._begun = False  # whether text came before: decides what an unclosed tag is
        self._thought: list[str] = []
        self.left_out = False

    def push(self, text: str) -> str:
        """Returns the text that is certainly no part of a thought."""
        if not self._tags:
            return text
        if not self._held and not self._inside and "<" not in text:
            return self._seen(text)
        if self._inside and self._begun and not self._closes_in(text):
            return ""
        self._held += "".join(self._later) + text
        self._later.clear()
        seen = []
        while self._held:
            if self._inside:
                at, tag = _first(self._held, self._closes)
                if not tag:
                    if not self._begun:  # all of it is a thought: only what may begin the closing tag is needed
                        keep = max(_beginning(self._held, tag) for tag in self._closes)
                        self._leave_out(self._held[: len(self._held) - keep])
                        self._held = self._held[len(self._held) - keep :]
                    self._tail = self._held[1 - len(self._closes[0]) :]
                    break
                self._leave_out(self._held[:at].partition(">")[2] if self._begun else self._held[:at])
                self._held = self._held[at + len(tag) :]
                self._inside = False
            else:
                at, tag = _first(self._held, self._opens)
                if not tag:
                    keep = max(_beginning(self._held, tag) for tag in self._opens)
                    seen.append(self._seen(self._held[: len(self._held) - keep]))
                    self._held = self._held[len(self._held) - keep :]
                    break
                seen.append(self._seen(self._held[:at]))
                # The tag itself is kept where text came before: it may turn out to be text.
                self._held = self._held[at if self._begun else at + len(tag) :]
                self._inside, self._closes = True, (f"</{tag[1:]}",)
        return "".join(seen)

    def close(self) -> str:
        """Returns what was held back and is text after all."""
        held, self._held = self._held + "".join(self._later), ""
        if self._inside and not self._begun:
            self._leave_out(held)
            return ""
        return held if self._inside else self._seen(held)

    def _closes_in(self, text: str) -> bool:
        """Returns whether the tag closes in the next characters; those in which it does not are looked through once, and kept."""
        if _first(self._tail + text, self._closes)[1]:
            return True
        self._later.append(text)
        self._tail = (self._tail + text)[1 - len(self._closes[0]) :]
        return False

    def new_thoughts(self) -> str:
        """Returns the characters of thoughts that were left out since it was asked last."""
        thought = "".join(self._thought)
        self._thought.clear()
        return thought

    def _leave_out(self, thought: str) -> None:
        self._thought.append(thought)
        self.left_out = True

    def _seen(self, text: str) -> str:
        if not self._begun:
            if self.left_out:
                text = text.lstrip()
            self._begun = is_seen(text)
        return text


def _first(text: str, tags: tuple[str, ...]) -> tuple[int, str]:
    """Returns where the first of these tags stands in the text, and which it is; an empty one where there is none."""
    return min(((at, tag) for tag in tags if (at := text.find(tag)) >= 0), default=(-1, ""))


def _beginning(text: str, tag: str) -> int:
    """Returns how many characters at the end of `text` may be the beginning of the tag."""
    for length in range(min(len(tag) - 1, len(text)), 0, -1):
        if text.endswith(tag[:length]):
            return length
    return 0
