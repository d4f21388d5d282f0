"""From tokens to text that may be sent: whole characters only, and nothing of a stop string.

    token ids ── Detokenizer ──> characters ── ThoughtFilter ──> without thoughts ── StopScanner ──> text that can no longer change

Pure functions of what was pushed; one pair for each answer. Knows no model: the tokenizer is a function from ids to
text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from attune.service.members.answer_text import REPLACEMENT, ThoughtFilter, Thoughts, without_nul

# A character has at most four bytes and a token at least one, so more held tokens are no character in the making; twice
# that leaves room for tokenizers that decode a whole run of bytes together.
MAX_HELD_TOKENS = 8


class Detokenizer:
    """Turns token ids into text as they come, holding back bytes that do not make a character yet.

    The text of a token depends on the token before it (leading spaces, bytes of one character), so each call decodes
    the last piece together with what is new and keeps the difference.

    Args:
        decode: text of a sequence of ids, without special tokens.
    """

    __slots__ = ("_decode", "_ids", "_known", "_known_text")

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []  # the last piece that was returned, then what is held back
        self._known = 0  # how many of `_ids` are returned already
        self._known_text = ""

    def push(self, token: int) -> str:
        """Returns the characters that this token completes; empty while a character is incomplete."""
        self._ids.append(token)
        text = self._decode(self._ids)
        held = len(self._ids) - self._known
        if text.endswith(REPLACEMENT) and held <= MAX_HELD_TOKENS:
            return ""
        new = text[len(self._known_text) :]
        if new:
            self._ids = self._ids[self._known :]
            self._known = len(self._ids)
            self._known_text = self._decode(self._ids)
        return new

    def close(self) -> str:
        """Returns what was held back at the end of the answer, without the bytes that make no character."""
        return self._decode(self._ids)[len(self._known_text) :].rstrip(REPLACEMENT)


class StopScanner:
    """Lets text through up to the first stop string, and holds back an end that may turn out to be one.

    Args:
        stops: the stop strings, none of them empty.
    """

    __slots__ = ("_held", "_stops", "stopped")

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """Returns the text that is certainly no part of a stop string; sets `stopped` where one was found."""
        if not self._stops:
            return text
        text = self._held + text
        # The one complete first wins, not the one that begins first: so the cut does not depend on how the text arrived.
        found = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.stopped = True
            self._held = ""
            return text[: min(found)[1]]
        keep = max(_overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def close(self) -> str:
        """Returns what was held back; the answer ended, so it was no stop string."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Returns how many characters at the end of `text` are the beginning of `stop`, short of all of it."""
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0


class Writer:
    """One answer's way from tokens to text."""

    __slots__ = ("_characters", "_scanner", "_thoughts")

    def __init__(self, decode: Callable[[Sequence[int]], str], stops: Sequence[str], thoughts: Thoughts) -> None:
        self._characters = Detokenizer(decode)
        self._thoughts = ThoughtFilter(thoughts)
        self._scanner = StopScanner(stops)

    @property
    def stopped(self) -> bool:
        """Whether a stop string was reached."""
        return self._scanner.stopped

    def push(self, token: int) -> str:
        """Returns the text that may be sent after this token; empty is common."""
        text = self._thoughts.push(without_nul(self._characters.push(token)))
        return self._scanner.push(text) if text else ""

    def close(self) -> str:
        """Returns the rest at the end of an answer that no stop string ended."""
        text = self._scanner.push(self._thoughts.push(without_nul(self._characters.close())) + self._thoughts.close())
        return text if self._scanner.stopped else text + self._scanner.close()
