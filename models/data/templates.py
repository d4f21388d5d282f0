"""The text template of a trunk: the pieces around prompt and response, from a chat template or the special tokens; and its limits.

A chat template is rendered once with marks in place of the texts and cut there, so that serving needs neither jinja nor transformers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from attune.models.seam.text import TextTemplate

TemplateKind = Literal["auto", "chat", "pair", "plain"]

PROMPT_MARK, RESPONSE_MARK = "attunepromptmark", "attuneresponsemark"
USUAL_TOKENS = 2048
"""Most tokens of a text where nobody says otherwise and the model could read more: time grows with the square of the length."""


class TemplateUnusable(ValueError):
    """A tokenizer has no chat template, or one that cannot be cut into pieces around a prompt and a response."""


@dataclass(frozen=True, slots=True)
class TextLimits:
    """How long texts may be.

    Attributes:
        max_tokens: of one text with its special pieces; None is the model's own limit, and at most `USUAL_TOKENS`.
        prompt_share: of the room that a prompt keeps beside a response that needs all the rest; within 0 and 1, 1 excluded.
        context_share: of the room that a context keeps beside a prompt; within 0 and `1 - prompt_share`.
    """

    max_tokens: int | None = None
    prompt_share: float = 0.25
    context_share: float = 0.125

    def __post_init__(self) -> None:
        if not (0 <= self.prompt_share < 1 and 0 <= self.context_share < 1) or (self.max_tokens is not None and self.max_tokens < 8):
            raise ValueError(
                f"prompt_share {self.prompt_share} and context_share {self.context_share} must be at least 0 and below 1, "
                f"max_tokens {self.max_tokens} at least 8"
            )

    def within(self, own: int) -> tuple[int, int, int]:
        """Returns most tokens of a text, of a prompt beside a long response, and of a context, for a model that reads `own` tokens.

        Raises:
            ValueError: more tokens are wanted than the model reads.
        """
        if self.max_tokens is not None and self.max_tokens > own:
            raise ValueError(f"a context of {self.max_tokens} tokens is wanted; the model reads {own} at most")
        most = min(own, USUAL_TOKENS) if self.max_tokens is None else self.max_tokens
        return most, int(most * self.prompt_share), int(most * self.context_share)


def text_template(tokenizer: Any, kind: TemplateKind, own_limit: int, limits: TextLimits) -> TextTemplate:
    """Returns the template of a transformers tokenizer.

    Args:
        tokenizer: a fast one.
        kind: `chat` cuts the tokenizer's own chat template, `plain` uses its special tokens, `auto` takes the first where there is one.
            `pair` takes it too, and else what the tokenizer makes of two texts, which is what a reward model without one was trained on.
        own_limit: tokens that the model reads.
        limits: what is wanted of them.

    Raises:
        TemplateUnusable: `chat` was asked for or found, and cannot be cut.
        ValueError: the limits leave no room.
    """
    chat = kind == "chat" or (kind in {"auto", "pair"} and getattr(tokenizer, "chat_template", None))
    pieces = chat_pieces(tokenizer) if chat else plain_pieces(tokenizer, pair=kind == "pair")
    most, prompt, context = limits.within(own_limit)
    prefix, middle, suffix, separator = pieces
    return TextTemplate(prefix, middle, suffix, separator, most, prompt, context)


def plain_pieces(tokenizer: Any, *, pair: bool) -> tuple[tuple[int, ...], ...]:
    """Returns prefix, middle, suffix and separator made of the tokenizer's special tokens; with `pair` as it makes them itself."""

    def special(name: str) -> tuple[int, ...]:
        value = getattr(tokenizer, name, None)
        return () if value is None else (int(value),)

    encoder = bool(special("cls_token_id") and special("sep_token_id"))
    # WordPiece drops newlines, so encoders are separated by their own [SEP]; decoders by the newlines they were trained on.
    separator = special("sep_token_id") if encoder else _ids(tokenizer, "\n\n")
    around = _pair_pieces(tokenizer) if encoder or pair else None
    if around is None and encoder:
        around = special("cls_token_id"), special("sep_token_id"), special("sep_token_id")
    return (*(around or (special("bos_token_id"), _ids(tokenizer, "\n"), ())), separator)


def _pair_pieces(tokenizer: Any) -> tuple[tuple[int, ...], ...] | None:
    """Returns what a tokenizer puts before, between and after two texts: RoBERTa two [SEP] between them, GPT-2 nothing anywhere."""
    first, second = _ids(tokenizer, PROMPT_MARK), _ids(tokenizer, RESPONSE_MARK)
    whole = tuple(map(int, tokenizer(PROMPT_MARK, RESPONSE_MARK)["input_ids"]))
    starts = [at for at in range(len(whole)) if whole[at : at + len(first)] == first]
    ends = [at for at in range(len(whole)) if whole[at : at + len(second)] == second]
    if len(starts) != 1 or len(ends) != 1 or starts[0] + len(first) > ends[0]:
        return None
    return whole[: starts[0]], whole[starts[0] + len(first) : ends[0]], whole[ends[0] + len(second) :]


def chat_pieces(tokenizer: Any) -> tuple[tuple[int, ...], ...]:
    """Returns prefix, middle, suffix and separator of the tokenizer's chat template, for one question and one answer.

    Raises:
        TemplateUnusable: there is none, it cannot be rendered, or it does not hold both texts once and in this order.
    """
    turns = [{"role": "user", "content": PROMPT_MARK}, {"role": "assistant", "content": RESPONSE_MARK}]
    if not getattr(tokenizer, "chat_template", None):
        raise TemplateUnusable("the tokenizer has no chat template; the plain template (its special tokens) does not need one")
    try:
        text = str(tokenizer.apply_chat_template(turns, tokenize=False))
    except Exception as error:  # a template is a program, and raises what it likes
        raise TemplateUnusable(f"the chat template cannot be rendered with one question and one answer: {error}") from error
    if text.count(PROMPT_MARK) != 1 or text.count(RESPONSE_MARK) != 1 or text.index(PROMPT_MARK) > text.index(RESPONSE_MARK):
        raise TemplateUnusable("the chat template does not hold the question and then the answer, each once and unchanged")
    prefix, rest = text.split(PROMPT_MARK)
    middle, suffix = rest.split(RESPONSE_MARK)
    return _ids(tokenizer, prefix), _ids(tokenizer, middle), _ids(tokenizer, suffix), _ids(tokenizer, "\n\n")


def _ids(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(map(int, tokenizer.encode(text, add_special_tokens=False))) if text else ()
