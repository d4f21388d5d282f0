"""What clients of `/v1/chat/completions` ask of an answer and no member can be held to: each field is refused by its own name.

A field that is not known here is ignored, as these clients expect; one whose neglect would change what the answer must be or hold stands
here. An empty value asks for nothing.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

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
    """The fields of a chat completion that ask for more than text."""

    tools: list[Any] | None = Field(
        None, description="read and not used: members answer with text, and `attune.ignored` of the answer says so"
    )
    tool_choice: Any = Field(None, description="`auto` and `none` are taken; anything that demands a call is refused")
    functions: list[Any] | None = Field(None, description="as `tools`, in OpenAI's older form")
    function_call: Any = Field(None, description="as `tool_choice`, in OpenAI's older form")
    response_format: Any = Field(None, description="`text` is taken; formats that no member can be held to are refused")
    logprobs: bool | None = Field(None, description="true is refused: members' probabilities are not passed on")
    top_logprobs: int | None = Field(None, description="anything above 0 is refused, as `logprobs`")
    logit_bias: dict[str, Any] | None = Field(None, description="anything but an empty object is refused: tokens are the member's own")
    modalities: list[str] | None = Field(None, description="`text` is taken, anything else refused")
    audio: Any = Field(None, description="refused: answers are text")
    web_search_options: Any = Field(None, description="refused: members do not search the web")
    guided_json: Any = Field(None, description="anything but null and an empty value is refused: members cannot be held to a form")
    guided_regex: Any = Field(None, description="anything but null and an empty value is refused: members cannot be held to a form")
    guided_choice: Any = Field(None, description="anything but null and an empty value is refused: members cannot be held to a form")
    guided_grammar: Any = Field(None, description="anything but null and an empty value is refused: members cannot be held to a form")
    structured_outputs: Any = Field(None, description="anything but null and an empty value is refused: members cannot be held to a form")
    min_tokens: Any = Field(None, description="above 0 is refused: a member ends its text itself")
    ignore_eos: Any = Field(None, description="true is refused: a member ends its text itself")
    stop_token_ids: Any = Field(None, description="refused: `stop` names texts, tokens are the member's own")
    allowed_token_ids: Any = Field(None, description="refused: tokens are the member's own")
    bad_words: Any = Field(None, description="refused: words cannot be forbidden")
    include_stop_str_in_output: Any = Field(None, description="true is refused: a text ends before its stop string")
    continue_final_message: Any = Field(None, description="true is refused: a member answers with a turn of its own")
    echo: Any = Field(None, description="true is refused: an answer holds the answer alone")
    prompt_logprobs: Any = Field(None, description="above 0 is refused, as `logprobs`")
    return_token_ids: Any = Field(None, description="true is refused: tokens are the member's own")

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
