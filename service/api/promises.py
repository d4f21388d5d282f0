"""What clients of `/v1/chat/completions` ask of an answer and no member can be held to: each field is refused by its own name.

A field that is not known here is ignored, as these clients expect; one whose neglect would change what the answer must be or hold stands
here. An empty value asks for nothing.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from attune.models.seam.printable import printable
from attune.service.errors import FieldError

_FORMS = (
    *("guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs", "structural_tag"),
    *("grammar", "regex", "ebnf", "json_schema", "format"),
)
_WISHES = (
    *("frequency_penalty", "presence_penalty", "repetition_penalty", "top_k", "min_p", "best_of"),
    *("reasoning_effort", "verbosity", "prediction", "thinking"),
)
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
    "documents": "asks for an answer from documents beside the turns",
    "chat_template": "asks for another template",
    "use_beam_search": "asks for a search over texts",
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

    structural_tag: Any = Field(None, description="anything but null and an empty value is refused: members cannot be held to a form")
    grammar: Any = Field(None, description="anything but null and an empty value is refused: members cannot be held to a form")
    regex: Any = Field(None, description="anything but null and an empty value is refused: members cannot be held to a form")
    ebnf: Any = Field(None, description="anything but null and an empty value is refused: members cannot be held to a form")
    json_schema: Any = Field(None, description="anything but null and an empty value is refused: members cannot be held to a form")
    format: Any = Field(None, description="anything but null and an empty value is refused: members cannot be held to a form")
    documents: Any = Field(None, description="anything but null and an empty list is refused: only the turns are read")
    chat_template: Any = Field(None, description="anything but null and an empty value is refused: a member has its own")
    use_beam_search: Any = Field(None, description="true is refused: members sample")
    frequency_penalty: Any = Field(None, description="read and not used; above or below 0 `attune.ignored` of the answer says so")
    presence_penalty: Any = Field(None, description="as `frequency_penalty`")
    repetition_penalty: Any = Field(None, description="as `frequency_penalty`; 1 is none")
    top_k: Any = Field(None, description="as `frequency_penalty`")
    min_p: Any = Field(None, description="as `frequency_penalty`")
    best_of: Any = Field(None, description="as `frequency_penalty`; 1 is none")
    reasoning_effort: Any = Field(None, description="read and not used, which `attune.ignored` of the answer says: it stands in the roster")
    verbosity: Any = Field(None, description="read and not used, which `attune.ignored` of the answer says")
    prediction: Any = Field(None, description="read and not used, which `attune.ignored` of the answer says")
    thinking: Any = Field(None, description="read and not used, which `attune.ignored` of the answer says: it stands in the roster")

    @property
    def ignored(self) -> list[str]:
        """What was offered and not used: an answer without it is an answer all the same."""
        if self.model_fields_set.isdisjoint(_PROMISES):  # as nearly always
            return []
        neutral: dict[str, float] = {"repetition_penalty": 1, "best_of": 1, "top_k": -1}
        offered = {name: getattr(self, name) for name in ("tools", "functions", *_WISHES)}
        return [name for name, value in offered.items() if value and value != neutral.get(name)]

    def not_to_be_kept(self) -> list[FieldError]:
        """Returns every field whose neglect would change what the answer must be or hold."""
        if self.model_fields_set.isdisjoint(_PROMISES):
            return []
        free = {None, "auto", "none", ""}
        kind = self.response_format.get("type") if isinstance(self.response_format, dict) else self.response_format
        asked = {
            "tool_choice": "asks for a call of a tool" if _word(self.tool_choice) not in free else "",
            "function_call": "asks for a call of a function" if _word(self.function_call) not in free else "",
            "response_format": f"asks for the format {printable(str(kind))!r}" if kind not in (None, "", "text") else "",
            "logprobs": "asks for probabilities of tokens" if self.logprobs else "",
            "top_logprobs": "asks for probabilities of tokens" if self.top_logprobs and not self.logprobs else "",
            "logit_bias": "forbids or favours tokens" if any((self.logit_bias or {}).values()) else "",
            "modalities": "asks for more than text" if set(self.modalities or ()) - {"text"} else "",
            "audio": "asks for sound" if self.audio else "",
            "web_search_options": "asks for a search of the web" if self.web_search_options is not None else "",
        }
        asked |= {name: what if getattr(self, name) else "" for name, what in _OF_TOKENS.items()}
        asked |= {name: "asks for a form" if getattr(self, name) else "" for name in _FORMS}
        return [FieldError(name, f"{what}, which members behind this service cannot be held to") for name, what in asked.items() if what]


_PROMISES = frozenset(PromisingRequest.model_fields)


def _word(choice: Any) -> str | None:
    """Returns the word that a choice is, or that an object of it comes to."""
    if choice is None or isinstance(choice, str):
        return choice
    kind = choice.get("type") if isinstance(choice, dict) else None
    if kind == "allowed_tools":  # a set of tools, of which none must be called unless its mode says so
        allowed = choice.get("allowed_tools", choice)
        kind = allowed.get("mode") if isinstance(allowed, dict) else None
    return kind if kind in ("auto", "none") else "an object"
