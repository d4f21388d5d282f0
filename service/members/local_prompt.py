"""From a conversation to token ids: the signs of the chat template are signs, and what people wrote is text.

    messages ── template ──> text ── tokenizer ──> ids, as transformers would have them
                   └─ if the conversation spells a sign: template around marks, contents tokenized apart, with no sign in them

A sign is a token that the tokenizer holds beside its vocabulary: turns, roles, end of text. On no path does a content give
one. Knows no model and no sampling.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from attune.service.errors import FieldError, InvalidRequest
from attune.service.members.member import GenerationRequest
from attune.service.members.redaction import without_request

_MARK = re.compile("\ue000(\\d+)\ue001")
NEUTRAL = "x"


def prompt_ids(tokenizer: Any, member: str, request: GenerationRequest) -> list[int]:
    """Returns the conversation as token ids, in the tokenizer's chat template or, without one, as `role: content` lines.

    Raises:
        InvalidRequest: the chat template refuses the conversation, or it has no tokens.
    """
    contents = [message.content for message in request.messages]
    signs = {*tokenizer.get_added_vocab().values(), *tokenizer.all_special_ids}

    def written(texts: Sequence[str]) -> str:
        return _rendered(tokenizer, member, request, texts)

    ids = _ids(tokenizer, written(contents))
    # Whatever the contents are, the template writes the same signs: one more comes from what somebody wrote.
    if _signs_of(ids, signs) != _signs_of(_ids(tokenizer, written([NEUTRAL] * len(contents))), signs):
        ids = _apart(tokenizer, written([f"\ue000{index}\ue001" for index in range(len(contents))]), contents, signs)
    if not ids:
        raise InvalidRequest("the conversation has no tokens", [FieldError("messages", "has no tokens")])
    return ids


def _rendered(tokenizer: Any, member: str, request: GenerationRequest, texts: Sequence[str]) -> str:
    """Returns the conversation with these contents as the model shall read it."""
    messages = [{"role": message.role, "content": text} for message, text in zip(request.messages, texts, strict=True)]
    if not tokenizer.chat_template:
        return "".join(f"{message['role']}: {message['content']}\n" for message in messages) + "assistant:"
    from jinja2 import TemplateError

    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    except (TemplateError, TypeError, ValueError) as error:
        said = without_request(f"{type(error).__name__}: {error}", request)
        message = f"the chat template of member {member!r} refuses the conversation: {said}"
        raise InvalidRequest(message, [FieldError("messages", message)]) from error


def _ids(tokenizer: Any, text: str, *, split: bool = False) -> list[int]:
    """Returns the ids of a text; with `split`, what spells a special token is text, and nothing is put around it."""
    if split:
        found: list[int] = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    else:  # a template writes the special tokens itself
        found = tokenizer(text, add_special_tokens=not tokenizer.chat_template)["input_ids"]
    return found


def _signs_of(ids: Sequence[int], signs: set[int]) -> list[int]:
    return [token for token in ids if token in signs]


def _apart(tokenizer: Any, around: str, contents: Sequence[str], signs: set[int]) -> list[int]:
    """Returns the ids of a rendered conversation whose contents are marks, with each content in the place of its mark."""
    before, after = _put_around(tokenizer)
    pieces = _MARK.split(around)  # template, number, template, number, …, template
    ids = list(before)
    for index, piece in enumerate(pieces):
        if index % 2:
            ids += _text_ids(tokenizer, contents[int(piece)], signs)
        elif piece:
            ids += tokenizer(piece, add_special_tokens=False)["input_ids"]
    return ids + list(after)


def _put_around(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Returns the ids that the tokenizer itself puts before and after a text; none where a template writes them."""
    if tokenizer.chat_template:
        return [], []
    bare = tokenizer(NEUTRAL, add_special_tokens=False)["input_ids"]
    whole = tokenizer(NEUTRAL, add_special_tokens=True)["input_ids"]
    at = next((at for at in range(len(whole)) if whole[at : at + len(bare)] == bare), len(whole))
    return whole[:at], whole[at + len(bare) :]


def _text_ids(tokenizer: Any, text: str, signs: set[int]) -> list[int]:
    """Returns the ids of a text none of which is a sign: halved where it spells one, down to single characters."""
    ids = _ids(tokenizer, text, split=True)
    if not _signs_of(ids, signs):
        return ids
    if len(text) < 2:
        return [token for token in ids if token not in signs]
    middle = len(text) // 2
    return _text_ids(tokenizer, text[:middle], signs) + _text_ids(tokenizer, text[middle:], signs)
