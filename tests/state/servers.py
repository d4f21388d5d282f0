"""Real servers for tests: one loop in a thread for the server that a whole session shares, and raw processes for other modes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

from attune.service.state.embedded import EmbeddedRedis
from attune.service.state.written_by import find_server

# Another server to run the same tests on, for instance an older Redis.
BINARY = Path(os.environ["TEST_REDIS_SERVER"]) if "TEST_REDIS_SERVER" in os.environ else find_server()


@contextlib.contextmanager
def embedded_in_a_thread(data_dir: Path) -> Iterator[EmbeddedRedis]:
    """Yields a running embedded server whose supervisor has a loop of its own, so that tests of any loop may use it."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="embedded redis of the tests")
    thread.start()
    server = EmbeddedRedis(data_dir, binary=BINARY, fsync="everysec")
    try:
        asyncio.run_coroutine_threadsafe(server.start(), loop).result()
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(server.aclose(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextlib.contextmanager
def raw_server(directory: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Yields a server started with these arguments, once it has said that it is ready."""
    command = [str(BINARY), *arguments, "--dir", str(directory), "--save", "", "--bind", "127.0.0.1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            assert process.stdout is not None
            said = []
            for line in process.stdout:
                said.append(line)
                if "ready to accept connections" in line.casefold() or "Sentinel ID is" in line:
                    break
            else:
                raise AssertionError("the server did not start: " + "".join(said))
            yield process
        finally:
            process.terminate()
            process.communicate()
