"""What a chat completion asks beyond text: who is left to answer it, what is passed on to whom, and what is refused or left aside.

    fields and parts ─┬─ must be kept (a format, a picture, a call that is demanded) ──> members that pass them, or a 400 by their names
                      └─ may be used (tools, penalties) ──> members that pass them, or named in `attune.ignored`

Tools that are offered leave the members that pass them, if there are any: a caller that has tools waits for calls. No other wish narrows
the choice; it reaches whoever passes it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from attune.service.api.openai_turns import ReadMessages, has_tool_turns, without_tool_turns
from attune.service.api.promises import STANDS_UNDER, PromisingRequest
from attune.service.api.prompted import not_writable
from attune.service.errors import FieldError
from attune.service.members.passing import PASSES, TOOLS, Passed


@dataclass(frozen=True, slots=True)
class BeyondText:
    """What comes of it.

    Attributes:
        among: the members that can answer; None is all that were asked.
        passed: what is passed on; None is nothing.
        wrong: what must be kept, and no member can keep.
        offered: what may be used and need not be.
        passing: what each of the members passes that may answer.
    """

    among: tuple[str, ...] | None = None
    passed: Passed | None = None
    wrong: tuple[FieldError, ...] = ()
    offered: tuple[str, ...] = ()
    passing: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def ignored(self, members: Collection[str]) -> list[str]:
        """Returns what was offered and not used by one of these members, who answered."""
        return [name for name in self.offered if any(name not in self.passing.get(member, ()) for member in members)]


def beyond_text(body: PromisingRequest, messages: Sequence[Any], read: ReadMessages, passing: Mapping[str, frozenset[str]]) -> BeyondText:
    """Returns who can answer a request as far as it asks for more than text.

    Args:
        body: the request.
        messages: its messages, as they came.
        read: what was read of them.
        passing: what each of the members passes that may answer.
    """
    must = [(STANDS_UNDER.get(one.field, one.field), one) for one in body.not_to_be_kept()] + list(read.contents.items())
    wishes = body.wished
    in_play = any(TOOLS in passes for passes in passing.values()) and (
        wishes.get(TOOLS, False) or any(name == TOOLS for name, _ in must) or has_tool_turns(messages)
    )
    if not (must or wishes or in_play):
        return BeyondText()
    able = [name for name, passes in passing.items() if all(needed in passes for needed, _ in must)]
    if must and not able:
        return BeyondText(wrong=_nobody_passes(must, passing))
    with_tools = [name for name in able if TOOLS in passing[name]] if in_play else []
    left = with_tools or able
    wished = {*(needed for needed, _ in must), *wishes, *([TOOLS] if with_tools else [])}
    fields = {name: given for name in PASSES if name in wished and (given := _given(body, name))}
    as_sent = None
    if read.contents or with_tools:
        as_sent = tuple(map(_telling, messages if with_tools else without_tool_turns(messages, read)))
    fields = {name: given for name, given in fields.items() if any(name in passing[member] for member in left)}
    needed = dict.fromkeys([*(name for name, _ in must), *([TOOLS] if with_tools else [])]) if len(left) < len(passing) else ()
    passed = Passed(fields, as_sent, tuple(needed)) if fields or as_sent else None
    wrong = _unsound(passed)
    offered = tuple(name for name, matters in wishes.items() if matters)
    return BeyondText(None if len(left) == len(passing) else tuple(left), passed, wrong, offered, passing)


def _nobody_passes(must: Sequence[tuple[str, FieldError]], passing: Mapping[str, frozenset[str]]) -> tuple[FieldError, ...]:
    """Returns what no member passes; all of it, where each is passed by some and all of it by none."""
    lacking = [(needed, one) for needed, one in must if not any(needed in passes for passes in passing.values())]
    all_of = f"all of {', '.join(dict.fromkeys(f'`{needed}`' for needed, _ in must))}"
    wrong = []
    for needed, one in lacking or must:
        why = f" (no member passes {f'`{needed}`' if lacking else all_of} to its server)" if needed in PASSES else ""
        wrong.append(FieldError(one.field, f"{one.message}{why}"))
    return tuple(wrong)


def _telling(message: Any) -> Any:
    """Returns a message without fields that are null: they say nothing, some servers refuse them, and an answer comes back with one."""
    if not isinstance(message, Mapping) or None not in message.values():
        return message
    return {name: value for name, value in message.items() if value is not None or name == "content"}


def _given(body: PromisingRequest, name: str) -> dict[str, Any]:
    values = {field: getattr(body, field) for field in PASSES[name]}
    return {field: value for field, value in values.items() if value is not None}


def _unsound(passed: Passed | None) -> tuple[FieldError, ...]:
    """Returns what could not be sent as JSON: half a surrogate pair, say."""
    if passed is None:
        return ()
    return tuple(not_writable({**passed.body(PASSES), **({} if passed.messages is None else {"messages": passed.messages})}))
