"""How a prompt and a response become tokens: the one text template of training and serving.

A candidate is `prefix prompt middle response suffix` and its pooled tokens are the response's (none, if it is empty); a
prompt alone is `prefix [context separator] prompt suffix` and its pooled tokens are all between prefix and suffix. The ids
of the special pieces come from the trunk's tokenizer (or its chat template, cut at the texts) and travel in the bundle, so any encoder
or decoder works unchanged; a text that spells a special piece is read as plain text. Texts of any length have a row, here as in
training: what does not fit is cut, and counted. This module knows nothing of padding, batches or graphs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer


@dataclass(frozen=True, slots=True)
class Encoded:
    """One text for the trunk: its token ids, the span that is pooled, and what did not fit.

    `pool_start <= pool_stop` index `input_ids`; `of_prompt` says that it is a prompt's own row, whose pooled vector is read by value heads;
    dropped counts are tokens that were cut to respect the template's limits, and unknown ones those of the kept tokens that stand for
    something that the tokenizer has no token for.
    """

    input_ids: tuple[int, ...]
    pool_start: int
    pool_stop: int
    dropped_prompt_tokens: int = 0
    dropped_response_tokens: int = 0
    unknown_prompt_tokens: int = 0
    unknown_response_tokens: int = 0
    of_prompt: bool = False

    @property
    def dropped_tokens(self) -> int:
        """How many tokens of the prompt and the response were cut."""
        return self.dropped_prompt_tokens + self.dropped_response_tokens

    def __len__(self) -> int:
        return len(self.input_ids)


@dataclass(frozen=True, slots=True)
class TextTemplate:
    """Special pieces and limits, all in tokens.

    Attributes:
        prefix: ids before everything (`[CLS]`, `<s>`).
        middle: ids between prompt and response (`[SEP]`, a newline).
        suffix: ids after everything (`[SEP]`, `</s>`).
        separator: ids between a context and the prompt it is prepended to.
        max_tokens: the trunk's limit for one text, specials included.
        max_prompt_tokens: how much of a prompt's **end** stays in a candidate whose response needs all the rest; the end is what the
            response answers. Room that a short response leaves goes to the prompt, and room that a short prompt leaves to the response;
            0 leaves the prompt out whatever the room.
        max_context_tokens: how much of a context's **start** stays.
    """

    prefix: tuple[int, ...]
    middle: tuple[int, ...]
    suffix: tuple[int, ...]
    separator: tuple[int, ...]
    max_tokens: int = 512
    max_prompt_tokens: int = 128
    max_context_tokens: int = 64

    def __post_init__(self) -> None:
        if self.max_prompt_tokens < 0 or self.max_context_tokens < 0:
            raise ValueError(f"max_prompt_tokens {self.max_prompt_tokens} and max_context_tokens {self.max_context_tokens} are below 0")
        specials = len(self.prefix) + len(self.middle) + len(self.suffix) + len(self.separator)
        room = self.max_tokens - specials - max(self.max_prompt_tokens, self.max_context_tokens)
        if room < 1:
            raise ValueError(
                f"max_tokens {self.max_tokens} leaves {room} tokens for a response after {specials} special, "
                f"{self.max_prompt_tokens} prompt and {self.max_context_tokens} context tokens; at least 1 is needed"
            )

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON data that `from_json` reads back."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TextTemplate:
        """Returns the template that `to_json` wrote.

        Raises:
            TypeError: a field is missing or unknown.
            ValueError: the limits leave no room for a response.
        """
        fields: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in data.items()}
        return cls(**fields)


class TextEncoder:
    """Turns texts into `Encoded` with one tokenizer and one template; safe to share between threads."""

    def __init__(self, tokenizer: Tokenizer, template: TextTemplate) -> None:
        # A tokenizer.json may carry truncation and padding of its former life; both would silently change scores.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        # A response that says "[SEP]" must not end itself: what a text spells stays text, and specials come from the template.
        tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer
        self._unknown = _unknown_id(tokenizer)
        self.template = template

    @classmethod
    def from_file(cls, path: Path, template: TextTemplate) -> TextEncoder:
        """Returns an encoder for the `tokenizer.json` at `path`.

        Raises:
            ValueError: there is no such file, or it is not a tokenizer.
        """
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing narrower
            raise ValueError(f"{path.name} cannot be read as a tokenizer: {error}") from error
        return cls(tokenizer, template)

    def prompt(self, prompt: str, context: str | None = None) -> Encoded:
        """Returns the row of a prompt alone, with the context (SCIENCE §2) prepended to it where there is one."""
        template = self.template
        head = self._ids(context)[: template.max_context_tokens] if context else []
        if head:  # a context of blanks has no tokens, and is none
            head = [*head, *template.separator]
        tokens = self._ids(prompt)
        room = template.max_tokens - len(template.prefix) - len(template.suffix) - len(head)
        kept = _tail(tokens, room)
        start = len(template.prefix)
        stop = start + len(head) + len(kept)
        ids = (*template.prefix, *head, *kept, *template.suffix)
        return Encoded(ids, start, stop, len(tokens) - len(kept), unknown_prompt_tokens=self._unknown_in(kept), of_prompt=True)

    def candidates(self, prompt: str, responses: Sequence[str]) -> list[Encoded]:
        """Returns one row per response, in order; the prompt is tokenized once.

        A row depends on its own prompt and response alone. What does not fit is cut: of the prompt its start, of the response its end.
        """
        tokens = self._ids(prompt)
        encodings = self._tokenizer.encode_batch_fast(list(responses), add_special_tokens=False)
        return [self._candidate(tokens, encoding.ids) for encoding in encodings]

    def _candidate(self, tokens: Sequence[int], response: Sequence[int]) -> Encoded:
        template = self.template
        room = template.max_tokens - len(template.prefix) - len(template.middle) - len(template.suffix)
        prompt_room = max(template.max_prompt_tokens, room - len(response)) if template.max_prompt_tokens else 0
        kept = _tail(tokens, prompt_room)
        head = (*template.prefix, *kept, *template.middle)
        answer = response[: room - len(kept)]
        return Encoded(
            (*head, *answer, *template.suffix),
            len(head),
            len(head) + len(answer),
            len(tokens) - len(kept),
            len(response) - len(answer),
            self._unknown_in(kept),
            self._unknown_in(answer),
        )

    def _unknown_in(self, ids: Sequence[int]) -> int:
        return 0 if self._unknown is None else ids.count(self._unknown)

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids


def _unknown_id(tokenizer: Tokenizer) -> int | None:
    """Returns the id that stands for what the tokenizer does not know; None where it knows everything, as byte-level ones do."""
    model = tokenizer.model
    if hasattr(model, "unk_token"):
        return None if model.unk_token is None else tokenizer.token_to_id(model.unk_token)
    # A unigram model shows its unknown id nowhere but in its file.
    unknown = json.loads(tokenizer.to_str())["model"].get("unk_id")
    return None if unknown is None else int(unknown)


def conversation_text(messages: Sequence[tuple[str, str]]) -> str:
    """Returns the prompt text of a conversation of `(role, content)` turns.

    A single user turn is its content, so that `prompt` and a one-message conversation score alike.
    """
    if len(messages) == 1 and messages[0][0] == "user":
        return messages[0][1]
    return "\n".join(f"{role}: {content}" for role, content in messages)


def _tail(tokens: Sequence[int], room: int) -> Sequence[int]:
    return tokens[max(0, len(tokens) - room) :]
