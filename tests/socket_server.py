"""An application on a real socket, for what a transport in memory cannot show: programs of others, browsers, readers who leave."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import uvicorn
from fastapi import FastAPI


@contextlib.asynccontextmanager
async def on_socket(app: FastAPI, *, leave_s: int = 1) -> AsyncIterator[tuple[str, uvicorn.Server]]:
    """Serves an application whose lifespan is running on a free port of this loop, and gives its URL and the server.

    Args:
        app: what is served.
        leave_s: how long its end waits for connections that are still open.
    """
    listener = socket.create_server(("127.0.0.1", 0))  # callers may connect from here on; they wait until it serves
    config = uvicorn.Config(app, lifespan="off", log_config=None, http="httptools", timeout_graceful_shutdown=leave_s)
    server = uvicorn.Server(config)
    serving = asyncio.ensure_future(server.serve(sockets=[listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", server
    finally:
        server.should_exit = True
        await serving
