"""What clients of `/v1/chat/completions` ask of an answer and no member can be held to: each field is refused by its own name.

A field that is not known here is ignored, as these clients expect; one whose neglect would change what the answer must be or hold stands
here. An empty value asks for nothing.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from attune.service.errors import FieldError, printable

_FORMS = ("guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs")
_OF_TOKENS = {
    "min_tokens": "asks for a least length",
    "ignore_eos": "asks for text beyond the end of the answer",
    "stop_token_ids": "names tokens that end the answer",
    "allowed_token_ids": "forbids tokens",
    "bad_words": "forbids words",
    "include_stop_str_in_output": "asks for the stop string in the text",
    "continue_final_message": "asks for a turn to be continued",
    "echo": "asks for the prompt in the text",
    "prompt_logprobs": "asks for probabilities of tokens",
    "return_token_ids": "asks for ids of tokens",
}


class OpenRequest(BaseModel):
    """Base of compatible requests: unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, hide_input_in_errors=True)


class PromisingRequest(OpenRequest):
    """The fields of a chat completion that ask for more than text.

    Attributes:
        tools: read and not used: members answer with text, and `attune.ignored` of the answer says so
        tool_choice: `auto` and `none` are taken; anything that demands a call is refused
        functions: as `tools`, in OpenAI's older form
        function_call: as `tool_choice`, in OpenAI's older form
        response_format: `text` is taken; formats that no member can be held to are refused
        logprobs: true is refused: members' probabilities are not passed on
        top_logprobs: anything above 0 is refused, as `logprobs`
        logit_bias: anything but an empty object is refused: tokens are the member's own
        modalities: `text` is taken, anything else refused
        audio: refused: answers are text
        web_search_options: refused: members do not search the web
        min_tokens: anything above 0 is refused, as are the fields below that are not null, false or empty: a member ends its text itself
    """

    tools: list[Any] | None = None
    tool_choice: Any = None
    functions: list[Any] | None = None
    function_call: Any = None
    response_format: Any = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    logit_bias: dict[str, Any] | None = None
    modalities: list[str] | None = None
    audio: Any = None
    web_search_options: Any = None
    guided_json: Any = None  # from here on as vLLM's clients send them
    guided_regex: Any = None
    guided_choice: Any = None
    guided_grammar: Any = None
    structured_outputs: Any = None
    min_tokens: Any = None
    ignore_eos: Any = None
    stop_token_ids: Any = None
    allowed_token_ids: Any = None
    bad_words: Any = None
    include_stop_str_in_output: Any = None
    continue_final_message: Any = None
    echo: Any = None
    prompt_logprobs: Any = None
    return_token_ids: Any = None

    @property
    def ignored(self) -> list[str]:
        """What was offered and not used: an answer without it is an answer all the same."""
        return [name for name in ("tools", "functions") if getattr(self, name)]

    def not_to_be_kept(self) -> list[FieldError]:
        """Returns every field whose neglect would change what the answer must be or hold."""
        free = {None, "auto", "none", ""}
        kind = self.response_format.get("type") if isinstance(self.response_format, dict) else self.response_format
        asked = {
            "tool_choice": "asks for a call of a tool" if _word(self.tool_choice) not in free else "",
            "function_call": "asks for a call of a function" if _word(self.function_call) not in free else "",
            "response_format": f"asks for the format {printable(str(kind))!r}" if kind not in (None, "", "text") else "",
            "logprobs": "asks for probabilities of tokens" if self.logprobs or self.top_logprobs else "",
            "logit_bias": "forbids or favours tokens" if self.logit_bias else "",
            "modalities": "asks for more than text" if set(self.modalities or ()) - {"text"} else "",
            "audio": "asks for sound" if self.audio else "",
            "web_search_options": "asks for a search of the web" if self.web_search_options is not None else "",
        }
        asked |= {name: what if getattr(self, name) else "" for name, what in _OF_TOKENS.items()}
        asked |= {name: "asks for a form" if getattr(self, name) else "" for name in _FORMS}
        return [FieldError(name, f"{what}, which members behind this service cannot be held to") for name, what in asked.items() if what]


def _word(choice: Any) -> str | None:
    return choice if choice is None or isinstance(choice, str) else "an object"
