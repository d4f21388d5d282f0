"""The way of one request through Attune's own code: files, functions, calls and changes of file; counts, not times.

    python -m loadtest.request_path [--files]

`POST /score` (three responses), `/generate` (two candidates) and `/feedback` (by their ids) run in this process, over the tiny bundle of
the tests, an embedded store and members that answer at once. A frame counts if its file lies under `service/` or `models/` and it runs in
the request's own context: what the process does beside it (health checks, the watch on the loop, the scorer's thread) is left out, and no
garbage is collected meanwhile. Each request is sent twice before it is counted, so that caches are warm.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
import tempfile
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import httpx

from attune.service.app import create_app
from attune.service.settings import Settings
from tests.endpoints.voices import voices
from tests.tiny_bundle import write_tiny_bundle

ROOT = Path(__file__).resolve().parents[1]
PROMPT = "how do i boil an egg ?"
RESPONSES = ["yes .", "put it in water for six minutes", "lovely friend , glad dear"]


@dataclass
class Way:
    """What was called, in order of first calls."""

    files: dict[str, int] = field(default_factory=dict)
    functions: set[tuple[str, str, int]] = field(default_factory=set)
    calls: int = 0
    changes: int = 0
    _last: str = ""

    def see(self, frame: FrameType, event: str, _argument: Any) -> None:
        """Counts a call of one of our functions; a coroutine or generator counts each time that it goes on."""
        if event != "call" or not FOLLOWED.get():
            return
        code = frame.f_code
        name = own_file(code.co_filename)
        if name is None:
            return
        self.files[name] = self.files.get(name, 0) + 1
        self.functions.add((name, code.co_qualname, code.co_firstlineno))
        self.calls += 1
        self.changes += name != self._last
        self._last = name


FOLLOWED: ContextVar[bool] = ContextVar("FOLLOWED", default=False)
"""Whether this is the request that is counted, or a task that it began."""

KNOWN: dict[str, str | None] = {}


def own_file(name: str) -> str | None:
    """Returns the path of one of our files from the repository's root; None for everybody else's."""
    if name not in KNOWN:
        path = Path(name).resolve() if not name.startswith("<") else None
        own = path is not None and path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in {"service", "models"}
        KNOWN[name] = str(path.relative_to(ROOT)) if own and path else None
    return KNOWN[name]


async def followed(client: httpx.AsyncClient, path: str, body: Callable[[], dict[str, Any]]) -> tuple[Way, dict[str, Any]]:
    """Returns the way of the third of three requests, and its answer."""
    for _ in range(2):
        (await client.post(path, json=body())).raise_for_status()
    way, content = Way(), body()
    gc.disable()
    followed_since = FOLLOWED.set(True)
    sys.setprofile(way.see)
    try:
        answer = await client.post(path, json=content)
    finally:
        sys.setprofile(None)
        FOLLOWED.reset(followed_since)
        gc.enable()
    answer.raise_for_status()
    return way, answer.json()


async def ways(folder: Path) -> dict[str, Way]:
    """Returns the ways of the three requests."""
    bundle = write_tiny_bundle(folder)
    settings = Settings(data_dir=folder / "data", bundle=str(bundle), batch_budget_tokens=256, threads=1, log_level="warning")
    app = create_app(settings, members=voices())
    found: dict[str, Way] = {}
    async with (
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client,
        app.router.lifespan_context(app),
    ):
        ask: dict[str, Any] = {"user": "u1", "prompt": PROMPT}
        found["/score"], _ = await followed(client, "/score", lambda: ask | {"responses": RESPONSES})
        found["/generate"], answer = await followed(client, "/generate", lambda: ask | {"candidates": 2})
        first, second = (candidate["candidate_id"] for candidate in answer["candidates"])
        found["/feedback"], _ = await followed(client, "/feedback", lambda: {"user": "u1", "chosen": first, "rejected": second})
    return found


def main() -> None:
    """Prints the table, and with `--files` the files of each request with their calls."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", action="store_true", help="list each request's files with their calls")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="attune-way-") as folder:
        found = asyncio.run(ways(Path(folder)))
    print("| request | files | functions | calls | changes of file |\n|---|--:|--:|--:|--:|")
    for path, way in found.items():
        print(f"| `POST {path}` | {len(way.files)} | {len(way.functions)} | {way.calls} | {way.changes} |")
    for path, way in found.items() if arguments.files else ():
        print(f"\n{path}")
        for name, calls in way.files.items():
            print(f"    {calls:4}  {name}")


if __name__ == "__main__":
    main()
