"""Foreign words inside our own sentences: keys never, and nothing of a conversation.

    an upstream's, a template's or a library's message ── without_secrets, without_request ──> what a log may hold
    a code or a name that an upstream chose            ── told_word                        ──> what a caller may see

A message of somebody else may repeat what it was sent. Pure functions; they know no member and no log.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from urllib.parse import quote

from attune.service.members.member import GenerationRequest

CUT = "…"
MAX_WORDS_CHARS = 300
LEAST_WORD_CHARS = 3
_SECRET = re.compile(r"(?i)\b(bearer\s+|sk-|key-)[^\s\"',}]+")
_WORD = re.compile(r"\w+")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.\-]{0,47}")


def without_secrets(text: str, secrets: Sequence[str]) -> str:
    """Returns the text without the given secrets, as they are and as a URL spells them, and without anything that looks like an API key."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "[redacted]").replace(quote(secret, safe=""), "[redacted]")
    return _SECRET.sub("[redacted]", text)


def without_request(text: str, request: GenerationRequest) -> str:
    """Returns the text on one line, at most 300 characters, with every word cut out that the conversation holds too.

    A word of the text is cut if it is part of the conversation, or if it contains a word of the conversation of three or more
    characters: so neither a truncated nor a lengthened piece of it stays.
    """
    said = request_text(request)
    words = {word for word in _WORD.findall(said) if len(word) >= LEAST_WORD_CHARS}

    def cut(found: re.Match[str]) -> str:
        word = found[0].casefold()
        return CUT if word in said or any(piece in words for piece in _pieces(word)) else found[0]

    return _WORD.sub(cut, " ".join(text.split())[: 2 * MAX_WORDS_CHARS])[:MAX_WORDS_CHARS]


def _pieces(word: str) -> Iterator[str]:
    """Yields what may be a word inside of a word: there are far fewer than words in a conversation with pictures."""
    for begin in range(len(word) - LEAST_WORD_CHARS + 1):
        for end in range(begin + LEAST_WORD_CHARS, len(word) + 1):
            yield word[begin:end]


def told_word(word: object, request: GenerationRequest | None = None, secrets: Sequence[str] = ()) -> str | None:
    """Returns a code, name or number that somebody else chose if it holds no secret and nothing of the conversation, else None."""
    if isinstance(word, int) and not isinstance(word, bool) and 0 <= word < 10_000:
        return str(word)
    if not isinstance(word, str) or not _NAME.fullmatch(word) or without_secrets(word, secrets) != word:
        return None
    return None if request is not None and word.casefold() in request_text(request) else word


def request_text(request: GenerationRequest) -> str:
    """Returns all that the conversation says, stop strings included, with case folded."""
    return "\n".join(_said(request)).casefold()


def _said(request: GenerationRequest) -> Iterable[str]:
    yield from (message.content for message in request.messages)
    yield from request.stop
    if request.passed:
        yield from request.passed.texts()
