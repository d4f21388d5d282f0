"""The last stage of an answer's text: none of a stop string, no more than the limit has room for, and spaces only before text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from attune.service.members.answer_text import is_seen
from attune.service.members.text_of_tokens import StopScanner

CHARS_A_TOKEN = 16
"""More characters a token than any text has on average; beyond it an upstream does not hold `max_tokens`."""


class BoundedText:
    """Lets text through to its end.

    Args:
        max_tokens: of the answer.
        stops: the stop strings, none of them empty.

    Attributes:
        chars: of the text that came; what nobody sees in front of it counts once text follows.
        cut: why nothing follows, though more may come; None while it may.
    """

    def __init__(self, max_tokens: int, stops: Sequence[str]) -> None:
        self._most_chars = CHARS_A_TOKEN * max_tokens
        self._scanner = StopScanner(stops)
        self._lead = ""  # spaces and the like in front of the text
        self.chars = 0
        self.cut: Literal["stop", "length"] | None = None

    def push(self, text: str) -> str:
        """Returns what can be sent now; nothing once the text was cut."""
        if self.cut is not None:
            return ""
        if not self.chars:  # what nobody sees is no answer, so they wait for what they stand before
            text = self._lead = self._lead + text
            if not is_seen(text):
                return ""
        room = self._most_chars - self.chars
        over = len(text) > room
        self.chars += min(len(text), room)
        sent = self._scanner.push(text[:room])
        if self._scanner.stopped:
            self.cut = "stop"
        elif over:
            sent += self.cut_here()
        return sent

    def cut_here(self) -> str:
        """Ends the text for its length, unless it has ended, and returns what was held back of it."""
        self.cut = self.cut or "length"
        return self._scanner.close()

    def close(self) -> str:
        """Returns what was held back at the end of the answer."""
        return self._scanner.close()
