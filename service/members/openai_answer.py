"""One answer of an upstream, from the bytes of its body to text that may be sent, and the end of it.

    bytes ── push ──> events ── chunks ┬─ sound ── thoughts out ── limit ── stop strings ──> text
                                       └─ calls, where tools were passed ── piece() ──> their parts
                                                                   end() ──> last text, Finish

What is decided by a last event is decided when the stream has ended. Synchronous: it knows no connection and no time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from attune.service.members.answer_format import BOM, Format, format_of
from attune.service.members.answer_text import Repeats, SoundText, ThoughtFilter, Thoughts, is_seen, sound_text
from attune.service.members.bounded_text import CHARS_A_TOKEN, BoundedText
from attune.service.members.member import Finish, FinishReason, GenerationRequest, TextPiece
from attune.service.members.openai_wire import DONE, BadAnswer, Chunk, EventReader, read_chunk, read_whole
from attune.service.members.passing import REASONING, TOOLS
from attune.service.members.said import Saying
from attune.service.members.spec import OpenAISpec
from attune.service.members.tool_calls import Part, ToolCalls, joined

MAX_ANSWER_BYTES = 32 << 20
"""Bytes of a body, thoughts and JSON around the text included."""

MAX_WHOLE_BYTES = 4 << 20  # of a body that is read in one piece

THOUGHTS = 2_048
"""Pieces without text, thoughts above all, that an answer may have beside `max_tokens` where the member names no `reasoning_tokens`."""

_BROKEN = ("error", "abort", "cancel", "insufficient")
"""Parts of the words by which servers say that they broke an answer off, as vLLM, SGLang, OpenRouter, DeepSeek and Zhipu do."""

_FILTERED = ("filter", "safety", "sensitive", "recitation", "blocklist", "prohibited", "spii", "refus", "guardrail", "moderation")
"""Parts of the words by which they say that a filter ended it."""

_LENGTH = ("length", "max_tokens", "token_limit")
_STOP_WORDS = frozenset({"stop", "eos", "eos_token", "stop_sequence", "end_turn", "length", "max_tokens", "max_length", "model_length"})
_CALL_WORDS = frozenset({"tool_calls", "tool_use", "function_call"})


class AnswerReader:
    """Reads one answer.

    Args:
        request: what was asked, with every default filled in.
        spec: how the server speaks.
        media_type: what the body says that it is, in lower case.
        note: told each field or word that is left out or not known.
        secrets: no field that holds one of them is passed on.
    """

    def __init__(
        self, request: GenerationRequest, spec: OpenAISpec, media_type: str, note: Callable[[str, str], None], secrets: Sequence[str] = ()
    ) -> None:
        self._request = request
        self._spec = spec
        self._note = note
        self._format: Format = "unknown"
        self._media_type = media_type
        self._body = bytearray()
        self._events = EventReader()
        self._sound = SoundText()
        self._thoughts = ThoughtFilter(spec.thoughts)
        self._text = BoundedText(request.max_tokens, request.stop)
        self._size = self._pieces = 0
        self._repeats = Repeats()
        self._unseen = 0  # pieces that hold something, and nothing for a reader
        self._finish = ""
        self._usage: tuple[int, int] | None = None
        self._whole = ""
        self._index: object = None  # of the choice that is read
        self._thought_tokens = 0
        self._saw: list[str] = []  # what came in place of text
        in_parts = spec.thoughts_as == "parts"
        self._saying = Saying(secrets, thoughts=REASONING in spec.passes, aloud=request.thinks_aloud, in_parts=in_parts)
        self._told = self._thought_aloud = self.begun = False  # the last: whether text for a reader has come
        self._answered = 0  # characters before the first that it says in place of an answer, in the text that was read last
        self.signs = 0
        self._over = False  # whatever else comes is not read
        self.broken: str | None = None
        self._error: BadAnswer | None = None
        self._takes_calls = request.passed is not None and TOOLS in request.passed.fields and TOOLS in spec.passes
        self._calls = ToolCalls()
        self._new_calls: list[Part] = []
        self._whole_calls: tuple[Part, ...] = ()

    @property
    def ended(self) -> bool:
        """Whether there is nothing more to read."""
        return self._over or self._text.cut is not None

    @property
    def finishing(self) -> bool:
        """Whether the server said that the text is complete; what may follow is counts, and sometimes more text after all."""
        return bool(self._finish)

    def said_first(self) -> Mapping[str, Any] | None:
        """Returns what the server has said of the whole answer until now; None if it has said nothing, or that was asked before."""
        self._told, told = True, self._told
        return None if told else self._saying.begun() or None

    def push(self, received: bytes) -> str:
        """Returns the text that can be sent now; empty is common.

        Raises:
            BadAnswer: what came cannot be an answer.
        """
        self._size += len(received)
        if self._size > MAX_ANSWER_BYTES:
            raise BadAnswer("content", f"the answer's body is longer than {MAX_ANSWER_BYTES} bytes")
        if self._format == "unknown":
            self._body += received
            # Spaces keep a connection open until the answer begins.
            self._body = self._body.lstrip().removeprefix(BOM).lstrip()
            self._format = format_of(bytes(self._body[:64]), self._media_type)
            if self._format == "events":
                received, self._body = bytes(self._body), bytearray()
        elif self._format == "whole":
            self._body += received
        if len(self._body) > MAX_WHOLE_BYTES:
            raise BadAnswer("content", f"the answer's body is longer than {MAX_WHOLE_BYTES} bytes")
        text = self._read(self._events.push(received)) if self._format == "events" else ""
        self.begun = self.begun or is_seen(text)
        return text

    def pieces(self, text: str) -> list[TextPiece]:
        """Returns what can be sent now: thoughts, the text, and parts of calls that stood behind it; none where it is nothing.

        Two where the server said something in place of an answer within this text, and an answer before that.
        """
        thoughts, (answered, self._answered) = self._saying.new_thoughts(), (self._answered, 0)
        self._thought_aloud = self._thought_aloud or bool(thoughts)
        if not text and not self._new_calls and not thoughts:
            return []
        calls, self._new_calls = joined(self._new_calls, self._saying.is_sound) if self._new_calls else (), []
        if 0 < answered < len(text):
            return [TextPiece(text[:answered], self.said_first(), (), False, thoughts), TextPiece(text[answered:], None, calls, True)]
        return [TextPiece(text, self.said_first(), calls, self._saying.refuses and not answered, thoughts)]

    def end(self) -> tuple[str, Finish]:
        """Returns the last text and the finish; `broken` says why the body ended before its end, if it did.

        Raises:
            BadAnswer: neither text nor a call came, for another reason than its limit, or it is not complete.
        """
        if self._error is not None:
            raise self._error
        text, broken = "", self.broken
        if broken is not None and self._format == "whole":
            try:
                text = self._read_whole()
            except BadAnswer:
                raise BadAnswer("protocol", broken) from None
            broken = None  # only what stood behind the object is missing
        elif broken is None and not self.ended:
            text = self._read_whole() if self._format != "events" else self._read(self._events.close())
            if self._error is not None:
                raise self._error
        if self._text.cut is None:
            rest = self._sound.close()
            text += self._text.push(self._visible(rest, ends=True))
            if not self._text.chars and self._whole:
                text += self._text.push(self._visible(sound_text(self._whole), ends=True))
            text += self._text.close()
            self._add_calls(() if self._calls else self._whole_calls, apart=True)
        self.begun = self.begun or is_seen(text)
        self._refuse_half(broken)
        return text, self._finished()

    # --- reading ----------------------------------------------------------------------------------------------------

    def _read(self, events: list[bytes]) -> str:
        texts = list[str]()
        for data in events:
            if self.ended:
                break
            if data.strip() == DONE:
                self._over = True
                break
            try:
                chunk = read_chunk(data, self._index)
            except BadAnswer as error:
                self._over = True
                if not self.finishing:  # else the text is complete, and what comes after it is not needed
                    self._error = error  # raised at the end: what came before it stands
                break
            if 0 < chunk.refused < len(chunk.text):
                texts.append(self._add(Chunk(chunk.text[: -chunk.refused])))
                chunk = replace(chunk, text=chunk.text[-chunk.refused :])
            refused = self._saying.refuses
            if chunk.refused and not refused:
                texts.append(self._text.push(self._before_refusal("")))
            text = self._add(chunk)
            if self._saying.refuses and not refused:
                self._answered = sum(map(len, texts))
            texts.append(text)
        return "".join(texts)

    def _read_whole(self) -> str:
        if not self._body.strip():
            raise BadAnswer("content", "the body is empty")
        chunk = read_whole(bytes(self._body))
        self._add_facts(chunk)
        self._finish = chunk.finish
        self._add_calls(chunk.calls, apart=True)
        answer = self._before_refusal(chunk.text[: len(chunk.text) - chunk.refused])
        self._answered = len(answer) if chunk.refused else 0
        visible = answer + self._visible(self._sound.push(chunk.text[len(chunk.text) - chunk.refused :]) + self._sound.close(), ends=True)
        if self._usage is not None and (written := self._usage[1] - self._thought_tokens) > self._request.max_tokens + self._allowance:
            return self._text.push(visible[: len(visible) * self._request.max_tokens // written]) + self._text.cut_here()
        self._pieces = max(1, len(visible) // 4)
        return self._text.push(visible)

    @property
    def _allowance(self) -> int:
        """Tokens that a server counts as written and that no reader sees: thoughts that it does not tell apart, and the end of the text."""
        return 1 + (0 if self._thought_tokens else self._spec.reasoning_tokens)

    def _add_facts(self, chunk: Chunk) -> None:
        self._usage = chunk.usage or self._usage
        self._thought_tokens = chunk.thought_tokens or self._thought_tokens
        self.signs += chunk.alive
        self._index = chunk.index if chunk.alive else self._index
        self._saying.add(*chunk.places)
        if chunk.thought:
            self._saw.append("thoughts")
        for name in chunk.unsupported:
            if self._takes_calls and name.endswith(".tool_calls"):
                continue
            if not self._saying.passes_on(name):
                self._note("field", name)
            self._saw.append(name)

    def _add(self, chunk: Chunk) -> str:
        """Returns what a chunk adds to the text that can be sent."""
        self._add_facts(chunk)
        self._whole, self._whole_calls = chunk.whole or self._whole, chunk.whole_calls or self._whole_calls
        called = bool(chunk.calls) and self._add_calls(chunk.calls)
        if chunk.text or called:
            self._finish = ""  # what is followed by more was no end
        self._finish = chunk.finish or self._finish
        if not chunk.text or self._repeats.whole(chunk.text, last=bool(chunk.finish)):
            return self._without_text() if not called and (chunk.thought or chunk.unsupported) else ""
        visible = self._visible(self._sound.push(chunk.text))
        if not visible or not (self._text.chars or is_seen(visible)):
            self._without_text()
        else:
            if self._pieces >= self._request.max_tokens:
                return self._text.cut_here()
            self._pieces += 1
        return self._text.push(visible)

    def _add_calls(self, parts: tuple[Part, ...], *, apart: bool = False) -> bool:
        """Returns whether there are parts of calls for the caller, after keeping those for which there is room."""
        if not (self._takes_calls and parts):
            return False
        told = self._calls.add(parts, apart=apart)
        if self._text.cut is not None or self._pieces >= (most := self._request.max_tokens) or self._calls.chars > CHARS_A_TOKEN * most:
            self._text.cut = self._text.cut or "length"
            return True
        self._pieces += 1
        self._new_calls += told
        self.begun = self.begun or bool(told)
        return True

    def _without_text(self) -> str:
        """Counts a piece that no reader sees, and ends an answer that has more of them than there is room for.

        Raises:
            BadAnswer: before any text came; after it the answer is cut.
        """
        self._unseen += 1
        room = self._request.max_tokens + (self._spec.reasoning_tokens or THOUGHTS)
        if self._unseen <= room:
            return ""
        if not self._text.chars and not self._calls:
            raise BadAnswer("content", f"more than {room:,} pieces came without text{self._in_place_of_text()}")
        self._finish, self._over = "length", True
        return ""

    def _visible(self, text: str, *, ends: bool = False) -> str:
        """Returns what of a text is for a reader; thoughts in it go where those go that have a field of their own."""
        visible = self._thoughts.push(text) + (self._thoughts.close() if ends else "")
        if thought := self._thoughts.new_thoughts():
            self._saying.add_thought(thought)
        return visible

    def _before_refusal(self, text: str) -> str:
        """Returns what of the text until a refusal is for a reader: a refusal is no part of a thought that has not closed."""
        visible = self._visible(self._sound.push(text) + self._sound.close(), ends=True)
        if self._thoughts.left_out:
            self._saw.append("thoughts")
        self._thoughts = ThoughtFilter(Thoughts(self._spec.thoughts.tags))
        return visible

    def _refuse_half(self, broken: str | None) -> None:
        """Raises BadAnswer where the server said that it broke the answer off, the connection broke before its end, or no text came."""
        if self._text.cut is None and (said := self._is_said_by(_BROKEN)):
            raise BadAnswer("upstream", f"the server ended the answer with {said!r}")
        if broken is not None and not self.ended and not (self._finish and self.begun):
            raise BadAnswer("protocol", broken)
        if self._format == "events" and not (self.ended or self._finish) and self._calls.in_the_middle:
            raise BadAnswer("protocol", "the answer ended in the middle of a call")
        # What its limit ended before any text is an answer without any, where nobody can stand in any more.
        if not (self.begun or (self._is_said_by(_LENGTH) and (self._thought_aloud or not self._request.stand_ins))):
            raise BadAnswer("content", f"no text came{self._in_place_of_text()}")

    # --- the end ----------------------------------------------------------------------------------------------------

    def _finished(self) -> Finish:
        filtered = self._is_said_by(_FILTERED)
        known = _STOP_WORDS | _CALL_WORDS if self._calls else _STOP_WORDS
        if self._finish and not filtered and self._finish.lower() not in known:
            self._note("finish_reason", self._finish)
        ends: FinishReason = "length" if self._is_said_by(_LENGTH) else "content_filter" if filtered else "stop"
        reason = self._text.cut or ends
        if reason == "stop" and self._calls:  # of a call that nobody is told of, its caller would wait in vain
            reason = "tool_calls"
        if self._usage is not None:
            return Finish(reason, *self._usage, said=self._saying.said())
        characters = sum(len(message.content) for message in self._request.messages)
        return Finish(reason, max(1, characters // 4), max(1, self._pieces), "estimated", self._saying.said())

    def _is_said_by(self, parts: tuple[str, ...]) -> str:
        """Returns the first of these that stands in the server's word for the end, empty if none does."""
        word = self._finish.lower()
        return next((part for part in parts if part in word), "") if word else ""

    def _in_place_of_text(self) -> str:
        if self._is_said_by(_FILTERED):
            return ": the server's filter ended the answer"
        kinds = list(dict.fromkeys("thoughts" if self._thoughts.left_out else name for name in self._saw)) or (
            ["thoughts"] if self._thoughts.left_out else []
        )
        return (
            f", only {', '.join('thoughts' if kind == 'thoughts' else 'fields that are left out' for kind in kinds[:1])}" if kinds else ""
        )
