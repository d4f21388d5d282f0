"""A collector that takes what is exported over OTLP and throws it away; `python -m loadtest.collector PORT`."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import uvicorn


async def collect(scope: Mapping[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
    """Answers every request with 200 and nothing, which is an empty ExportTraceServiceResponse."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        continue
    kind = [(b"content-type", b"application/x-protobuf"), (b"content-length", b"0")]
    await send({"type": "http.response.start", "status": 200, "headers": kind})
    await send({"type": "http.response.body", "body": b""})


if __name__ == "__main__":
    uvicorn.run(collect, port=int(sys.argv[1]), log_level="warning")
