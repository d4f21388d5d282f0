"""What clients of `/v1/chat/completions` ask of an answer beyond text: fields to be kept, and fields that may be used.

A field that is not known here is ignored, as these clients expect; one whose neglect would change what the answer must be or hold stands
here. An empty value asks for nothing. Whether a member can keep it is `beyond_text`'s business.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from attune.models.seam.printable import printable
from attune.service.errors import FieldError
from attune.service.members.passing import TOOLS

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


_PASSED = "goes to members that pass it to their server as it is (`passes` of the roster); where none does"
_FORM = f"{_PASSED}, anything but null and an empty value is refused"
_WISH = f"{_PASSED}, it is read and not used, which `attune.ignored` of the answer says"


class OpenRequest(BaseModel):
    """Base of compatible requests: unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, hide_input_in_errors=True)


class PromisingRequest(OpenRequest):
    """The fields of a chat completion that ask for more than text."""

    tools: list[Any] | None = Field(
        None,
        description="members that pass tools call them; where none does they are left aside, and `attune.ignored` of the answer says so",
    )
    tool_choice: Any = Field(
        None, description="passed on with `tools`; where no member passes them, anything that demands a call is refused"
    )
    functions: list[Any] | None = Field(
        None, description="read and not used, which `attune.ignored` of the answer says: OpenAI's older form of `tools`"
    )
    parallel_tool_calls: bool | None = Field(None, description="passed on with `tools`")
    function_call: Any = Field(None, description="anything that demands a call is refused: OpenAI's older form of `tool_choice`")
    response_format: Any = Field(
        None, description="`text` is taken; another format goes to members that pass it, and is refused where none does"
    )
    logprobs: bool | None = Field(None, description="true is refused: members' probabilities are not passed on")
    top_logprobs: int | None = Field(None, description="anything above 0 is refused, as `logprobs`")
    logit_bias: dict[str, Any] | None = Field(None, description=f"{_PASSED}, anything but an empty object is refused")
    modalities: list[str] | None = Field(None, description="`text` is taken, anything else refused")
    audio: Any = Field(None, description="refused: answers are text")
    web_search_options: Any = Field(None, description=f"{_PASSED}, it is refused")
    guided_json: Any = Field(None, description=_FORM)
    guided_regex: Any = Field(None, description=_FORM)
    guided_choice: Any = Field(None, description=_FORM)
    guided_grammar: Any = Field(None, description=_FORM)
    structured_outputs: Any = Field(None, description=_FORM)
    min_tokens: Any = Field(None, description=f"{_PASSED}, above 0 is refused")
    ignore_eos: Any = Field(None, description=f"{_PASSED}, true is refused")
    stop_token_ids: Any = Field(None, description=f"{_PASSED}, it is refused; `stop` names texts")
    allowed_token_ids: Any = Field(None, description=f"{_PASSED}, it is refused")
    bad_words: Any = Field(None, description=f"{_PASSED}, it is refused")
    include_stop_str_in_output: Any = Field(None, description="true is refused: a text ends before its stop string")
    continue_final_message: Any = Field(None, description="true is refused: a member answers with a turn of its own")
    echo: Any = Field(None, description="true is refused: an answer holds the answer alone")
    prompt_logprobs: Any = Field(None, description="above 0 is refused, as `logprobs`")
    return_token_ids: Any = Field(None, description="true is refused: tokens are the member's own")

    structural_tag: Any = Field(None, description=_FORM)
    grammar: Any = Field(None, description=_FORM)
    regex: Any = Field(None, description=_FORM)
    ebnf: Any = Field(None, description=_FORM)
    json_schema: Any = Field(None, description=_FORM)
    format: Any = Field(None, description=_FORM)
    documents: Any = Field(None, description=f"{_PASSED}, anything but null and an empty list is refused")
    chat_template: Any = Field(None, description="anything but null and an empty value is refused: a member has its own")
    use_beam_search: Any = Field(None, description="true is refused: members sample")
    frequency_penalty: Any = Field(None, description=_WISH)
    presence_penalty: Any = Field(None, description=_WISH)
    repetition_penalty: Any = Field(None, description=f"{_WISH}; 1 is none")
    top_k: Any = Field(None, description=_WISH)
    min_p: Any = Field(None, description=_WISH)
    best_of: Any = Field(None, description="read and not used, which `attune.ignored` of the answer says; 1 is none")
    reasoning_effort: Any = Field(None, description=f"{_WISH}; a member's own stands in the roster")
    verbosity: Any = Field(None, description=_WISH)
    prediction: Any = Field(None, description=_WISH)
    thinking: Any = Field(None, description=f"{_WISH}; a member's own stands in the roster")

    @property
    def wished(self) -> dict[str, bool]:
        """What may be used and need not be, and whether its neglect changes anything: a penalty of 0 is a wish too, and usually none."""
        if self.model_fields_set.isdisjoint(_PROMISES):  # as nearly always
            return {}
        neutral: dict[str, float] = {"repetition_penalty": 1, "best_of": 1, "top_k": -1}
        wished = {name: getattr(self, name) for name in ("tools", "functions", *_WISHES)}
        return {name: bool(value) and value != neutral.get(name) for name, value in wished.items() if value or _is_zero(value)}

    def not_to_be_kept(self) -> list[FieldError]:
        """Returns every field whose neglect would change what the answer must be or hold, as an error for where nobody passes it on."""
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
        return [_refused(name, what) for name, what in asked.items() if what]


STANDS_UNDER = {"tool_choice": TOOLS, "audio": "modalities"}
"""Fields that are asked for under another name than their own: what members pass as `audio` is what the conversation holds."""


def _refused(name: str, what: str) -> FieldError:
    return FieldError(name, f"{what}, which members behind this service cannot be held to")


_PROMISES = frozenset(PromisingRequest.model_fields)


def _is_zero(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == 0


def _word(choice: Any) -> str | None:
    """Returns the word that a choice is, or that an object of it comes to."""
    if choice is None or isinstance(choice, str):
        return choice
    kind = choice.get("type") if isinstance(choice, dict) else None
    if kind == "allowed_tools":  # a set of tools, of which none must be called unless its mode says so
        allowed = choice.get("allowed_tools", choice)
        kind = allowed.get("mode") if isinstance(allowed, dict) else None
    return kind if kind in ("auto", "none") else "an object"
