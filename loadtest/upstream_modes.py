"""The ways in which servers answer that speak the OpenAI API: whole but odd, unusable, or not at all.

    python -m loadtest.upstream_modes --port 9000 --mode usage-without-choices [--pause 0.1]      until it is stopped

Each is a script for `upstream`; `MODES` has all of them by name.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress

from loadtest.upstream import Script, Turn, running_upstream

WORDS = ("Hello", " there", "!")


def stream_of(*steps: Callable[[Turn], Awaitable[None]], ends: bool = True) -> Script:
    """A stream of these steps, with a proper end of its body."""

    async def script(turn: Turn) -> None:
        await turn.head()
        for step in steps:
            await step(turn)
        if ends:
            await turn.end()

    return script


def says(*texts: str) -> Callable[[Turn], Awaitable[None]]:
    async def step(turn: Turn) -> None:
        for text in texts:
            await turn.text(text)

    return step


def sends(*events: object) -> Callable[[Turn], Awaitable[None]]:
    async def step(turn: Turn) -> None:
        for event in events:
            await turn.event(event)

    return step


def raw(content: bytes) -> Callable[[Turn], Awaitable[None]]:
    async def step(turn: Turn) -> None:
        await turn.send(content)

    return step


def thinks(name: str, *texts: str) -> Callable[[Turn], Awaitable[None]]:
    async def step(turn: Turn) -> None:
        for text in texts:
            await turn.delta(**{name: text})

    return step


def refusing(status: int, body: object = None, **headers: str) -> Script:
    """An answer of this status; names of headers are written with `_`."""

    async def script(turn: Turn) -> None:
        await turn.refuse(status, body if body is not None else {"error": {"message": f"status {status}"}}, **headers)

    return script


async def good(turn: Turn) -> None:
    """Answers well: streamed or whole, as it was asked for."""
    if turn.method == "GET":
        return await turn.refuse(200, {"data": []})
    if not turn.body.get("stream"):
        return await turn.whole("".join(WORDS))
    await turn.head()
    for text in WORDS:
        await turn.text(text)
    return await turn.finish()


async def only_streams(turn: Turn) -> None:
    """Answers in events whatever it is asked for."""
    turn.body["stream"] = True
    await good(turn)


async def never_answers(turn: Turn) -> None:
    await turn.client_left()


async def comments_only(turn: Turn) -> None:
    await turn.head()
    await turn.send(b": still there\n\n")
    await turn.client_left()


async def stalls(turn: Turn) -> None:
    await turn.head()
    await turn.text("Hel")
    await turn.client_left()


async def cut_off(turn: Turn) -> None:
    await turn.head()
    await turn.text("Hel")
    turn.hang_up()


async def hang_up(turn: Turn) -> None:
    turn.hang_up()


def without_end(**delta: str | None) -> Script:
    """The same piece until the client leaves, whatever `max_tokens` says."""

    async def script(turn: Turn) -> None:
        await turn.head()
        with suppress(ConnectionError):
            while not turn.writer.is_closing():
                await turn.delta(**delta)
                await asyncio.sleep(0)
        turn.left.set()

    return script


async def sends_a_page(turn: Turn) -> None:
    await turn.head(200, "text/html")
    await turn.send(b"<html>")
    await turn.end()


async def repeats_the_prompt(turn: Turn) -> None:
    """Repeats its input in an error, as validators do."""
    if turn.method == "GET":
        return await turn.refuse(404, {})
    return await turn.refuse(500, {"error": {"message": f"invalid input: {turn.body['messages'][-1]['content']}"}})


_END = sends({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
_DONE = raw(b"data: [DONE]\n\n")
_USAGE = {"usage": {"prompt_tokens": 7, "completion_tokens": 3}}

COMPLETE: dict[str, Script] = {
    "good": good,
    "only-streams": only_streams,
    "usage-without-choices": stream_of(says(*WORDS), _END, sends(_USAGE), _DONE),
    "usage-with-null-choices": stream_of(says(*WORDS), _END, sends(_USAGE | {"choices": None}), _DONE),
    "pings": stream_of(sends({"type": "ping"}, b"ping", b"", [], 3, "x"), raw(b"event: ping\ndata: {}\n\n"), says(*WORDS), _END, _DONE),
    "empty-deltas": stream_of(
        sends({"choices": [{"index": 0, "delta": {}}]}, {"choices": [{}]}, {"choices": []}), says(*WORDS), _END, _DONE
    ),
    "null-delta": stream_of(sends({"choices": [{"index": 0, "delta": None}]}), says(*WORDS), _END, _DONE),
    "empty-finish-reason": stream_of(
        sends(*({"choices": [{"delta": {"content": word}, "finish_reason": ""}]} for word in WORDS)), _END, _DONE
    ),
    "finish-in-every-chunk": stream_of(
        sends(*({"choices": [{"delta": {"content": word}, "finish_reason": "stop"}]} for word in WORDS)), _DONE
    ),
    "unknown-finish": stream_of(says(*WORDS), sends({"choices": [{"delta": {}, "finish_reason": "load"}]}), _DONE),
    "number-finish": stream_of(says(*WORDS), sends({"choices": [{"delta": {}, "finish_reason": 1}]}), _DONE),
    "no-done": stream_of(says(*WORDS), _END),
    "no-finish": stream_of(says(*WORDS), _DONE),
    "no-end-at-all": stream_of(says(*WORDS)),
    "no-blank-line-at-the-end": stream_of(
        says(*WORDS[:2]), raw(b'data: {"choices": [{"delta": {"content": "!"}, "finish_reason": "stop"}]}')
    ),
    "text-after-finish": stream_of(says(*WORDS[:1]), _END, says(*WORDS[1:]), _DONE),
    "garbage-after-finish": stream_of(says(*WORDS), _END, sends(b"{broken", {"error": {"message": "late"}}), _DONE),
    "garbage-after-done": stream_of(says(*WORDS), _END, _DONE, sends(b"{broken")),
    "parts": stream_of(sends({"choices": [{"delta": {"content": [{"type": "text", "text": word} for word in WORDS]}}]}), _END, _DONE),
    "parts-of-strings": stream_of(sends({"choices": [{"delta": {"content": list(WORDS)}}]}), _END, _DONE),
    "refusal-as-text": stream_of(sends({"choices": [{"delta": {"refusal": "".join(WORDS)}}]}), _END, _DONE),
    "message-in-the-last-chunk": stream_of(
        says(*WORDS), sends({"choices": [{"delta": {}, "message": {"content": "".join(WORDS)}, "finish_reason": "stop"}]}), _DONE
    ),
    "message-alone": stream_of(sends({"choices": [{"message": {"content": "".join(WORDS)}, "finish_reason": "stop"}]}), _DONE),
    "other-choices": stream_of(says(*WORDS), sends({"choices": [{"index": 1, "delta": {"content": "no"}}]}), _END, _DONE),
    "tool-calls-beside": stream_of(says(*WORDS), sends({"choices": [{"delta": {"tool_calls": [{"index": 0}]}}]}), _END, _DONE),
    "odd-types": stream_of(
        sends({"choices": [{"index": [], "delta": {"content": {"type": {}}}}]}, {"object": [], "usage": 3}), says(*WORDS), _END
    ),
    "reasoning-content": stream_of(thinks("reasoning_content", "hm", "hm"), says(*WORDS), _END, _DONE),
    "reasoning": stream_of(thinks("reasoning", "hm", "hm"), says(*WORDS), _END, _DONE),
    "think-tags": stream_of(says("<th", "ink>h", "m</thi", "nk>\n\n", *WORDS), _END, _DONE),
    "one-newline-between-events": stream_of(
        raw(
            b"".join(
                b"data: " + json.dumps({"choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}]}).encode() + b"\n"
                for word in WORDS
            )
        ),
        raw(b'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}\ndata: [DONE]\n'),
    ),
    "empty-error-in-every-chunk": stream_of(
        sends(*({"choices": [{"delta": {"content": word}}], "error": {"code": 0, "message": "", "type": None}} for word in WORDS)),
        _END,
        _DONE,
    ),
    "code-of-success": stream_of(sends({"code": 200, "message": "ok", "choices": []}), says(*WORDS), _END, _DONE),
    "error-event-after-finish": stream_of(says(*WORDS), _END, raw(b"event: error\ndata: too late\n\n")),
    "nan": stream_of(raw(b'data: {"choices": [{"delta": {"content": "Hello there!"}, "logprobs": NaN}]}\n\n'), _END, _DONE),
}
"""Answers that are whole, however they are sent: the text is always `Hello there!`."""

UNUSABLE: dict[str, Script] = {
    "empty": stream_of(_END, _DONE),
    "spaces": stream_of(says(" ", "\n"), _END, _DONE),
    "thoughts-only": stream_of(thinks("reasoning_content", "hm"), _END, _DONE),
    "think-tag-never-closed": stream_of(says("<think>", "hm"), _END, _DONE),
    "tool-calls-only": stream_of(sends({"choices": [{"delta": {"tool_calls": [{"index": 0}]}}]}), _END, _DONE),
    "deep": stream_of(sends(b"[" * 50_000)),
    "deep-object": stream_of(sends(b'{"a":' * 50_000)),
    "broken-json": stream_of(sends(b'{"choices": [')),
    "filtered": stream_of(sends({"choices": [{"delta": {}, "finish_reason": "content_filter"}]}), _DONE),
    "nothing": stream_of(),
}
"""Answers without a text that can be used: that member's failure, and nothing against its server."""

AWAY: dict[str, Script] = {
    "hangs": never_answers,
    "comments-only": comments_only,
    "cut-off": cut_off,
    "hang-up": hang_up,
    "page": sends_a_page,
    "500": refusing(500),
    "503-later": refusing(503, retry_after="8"),
    "429-later": refusing(429, retry_after="8"),
    "no-credit-under-200": refusing(200, {"error": {"message": "Insufficient credits", "code": 402}}),
    "repeats-the-prompt": repeats_the_prompt,
}
"""Servers that do not answer, or not now."""

endless = without_end(content="w ")
ENDLESS: dict[str, Script] = {"endless": endless, "endless-thoughts": without_end(reasoning="hm ")}
"""Servers that do not hold `max_tokens`."""

MODES: dict[str, Script] = {**COMPLETE, **UNUSABLE, **AWAY, "stalls": stalls, **ENDLESS}


async def _serve(port: int, mode: str, pause_s: float) -> None:
    async with running_upstream(port) as upstream:
        upstream.answers(MODES[mode])
        upstream.pause_s = pause_s
        print(f"{mode} on {upstream.base_url}", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--mode", choices=sorted(MODES), default="good")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds after each event")
    told = parser.parse_args()
    with suppress(KeyboardInterrupt):
        asyncio.run(_serve(told.port, told.mode, told.pause))
