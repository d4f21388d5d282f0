"""What frames carry between a process that takes requests and the engine's process, which has the local members.

    GENERATE   JSON: generation, member, seconds left, the conversation and how it is to be answered
    PIECE      the next characters, UTF-8                 FINISH   JSON: reason, tokens read, tokens written
    FAILED     as everywhere, and of a member's failure its id, reason and whether it lasts

`service.framing` has the frames themselves.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, get_args

from attune.service.errors import AttuneError
from attune.service.framing import FrameKind, pack_error, unpack_error
from attune.service.members.member import ChatTurn, Event, Finish, GenerationRequest, OneMemberFailed, Reason, TextPiece

# A character that no encoding has may stand in what a person wrote or a model spells; it crosses as it is.
_ERRORS = "surrogatepass"


@dataclass(frozen=True, slots=True)
class AskedOfEngine:
    """The payload of GENERATE.

    Args:
        generation: which loaded roster over there.
        member: id of the member that is to answer.
        request: as the caller asked; the member's own defaults are applied over there.
        left_s: seconds until the caller gives up.
    """

    generation: int
    member: str
    request: GenerationRequest
    left_s: float

    def pack(self) -> bytes:
        """Returns the payload."""
        asked = self.request
        return json.dumps(
            {
                "generation": self.generation,
                "member": self.member,
                "left_s": self.left_s,
                "messages": [[turn.role, turn.content] for turn in asked.messages],
                "max_tokens": asked.max_tokens,
                "temperature": asked.temperature,
                "top_p": asked.top_p,
                "stop": asked.stop,
                "seed": asked.seed,
                "streamed": asked.streamed,
            },
            ensure_ascii=False,  # escapes would make six bytes of a letter, and a request that may come larger than a frame may be
        ).encode("utf-8", _ERRORS)

    @classmethod
    def unpack(cls, payload: memoryview) -> AskedOfEngine:
        """Returns what `pack` packed."""
        body = json.loads(bytes(payload))
        request = GenerationRequest(
            messages=tuple(ChatTurn(role, content) for role, content in body["messages"]),
            max_tokens=body["max_tokens"],
            temperature=body["temperature"],
            top_p=body["top_p"],
            stop=tuple(body["stop"]),
            seed=body["seed"],
            streamed=body["streamed"],
        )
        return cls(int(body["generation"]), str(body["member"]), request, float(body["left_s"]))


def pack_event(event: Event | BaseException) -> tuple[FrameKind, bytes]:
    """Returns kind and payload of the frame that tells of an event, or of the failure that ends the answer."""
    if isinstance(event, TextPiece):
        return FrameKind.PIECE, event.text.encode("utf-8", _ERRORS)
    if isinstance(event, Finish):
        return FrameKind.FINISH, json.dumps([event.reason, event.prompt_tokens, event.completion_tokens]).encode()
    if isinstance(event, OneMemberFailed):
        body = {"member": event.member, "reason": event.reason, "detail": event.attempts[event.member], "lasting": event.lasting}
        return FrameKind.FAILED, json.dumps(body).encode()
    return FrameKind.FAILED, pack_error(event)


def unpack_event(kind: FrameKind, payload: memoryview) -> Event | AttuneError:
    """Returns what `pack_event` packed."""
    if kind is FrameKind.PIECE:
        return TextPiece(str(payload, "utf-8", _ERRORS))
    body: Any = json.loads(bytes(payload))
    if kind is FrameKind.FINISH:
        reason, prompt_tokens, completion_tokens = body
        return Finish("stop" if reason == "stop" else "length", int(prompt_tokens), int(completion_tokens))
    if "member" in body:
        reason_told: Reason = next(reason for reason in get_args(Reason) if reason == body["reason"])
        return OneMemberFailed(str(body["member"]), reason_told, str(body["detail"]), lasting=bool(body["lasting"]))
    return unpack_error(body)
