"""The upstream of gateways under test: an OpenAI-compatible server that answers twenty fixed tokens at once.

    python loadtest/peers/fixed_upstream.py PORT

It is one bare asyncio protocol, so that its own CPU (some 0.02 ms a request) does not blur the comparison.
"""

from __future__ import annotations

import asyncio
import json
import sys

TEXT = " ".join(f"word{number}" for number in range(20))
WHOLE = json.dumps(
    {
        "id": "fixed",
        "object": "chat.completion",
        "created": 0,
        "model": "fixed",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": TEXT}}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30},
    }
).encode()


def _chunk(delta: dict[str, str], finish: str | None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    body = {"id": "fixed", "object": "chat.completion.chunk", "created": 0, "model": "fixed", "choices": [choice]}
    return b"data: " + json.dumps(body).encode() + b"\n\n"


STREAM = b"".join(_chunk({"content": word + " "}, None) for word in TEXT.split()) + _chunk({}, "stop") + b"data: [DONE]\n\n"


def _response(body: bytes, kind: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: " + kind + b"\r\ncontent-length: " + str(len(body)).encode() + b"\r\n\r\n" + body


ANSWERS = {False: _response(WHOLE, b"application/json"), True: _response(STREAM, b"text/event-stream")}


class UpstreamConnection(asyncio.Protocol):
    """One connection: reads a head and a body, answers, and waits for the next."""

    def __init__(self) -> None:
        self._read = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._read += data
        while (end := self._read.find(b"\r\n\r\n")) >= 0:
            head = self._read[:end].lower()
            length = next((int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"content-length:")), 0)
            if len(self._read) < end + 4 + length:
                return
            body, self._read = self._read[end + 4 : end + 4 + length], self._read[end + 4 + length :]
            assert self._transport is not None
            self._transport.write(ANSWERS[b'"stream":true' in body.replace(b" ", b"")])


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(UpstreamConnection, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
