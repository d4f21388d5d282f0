"""Everything that may go wrong, under load, with exact counts: one row a fault.

    python -m loadtest.chaos --bundle FOLDER                               all of it, some minutes
    python -m loadtest.chaos … --seconds 4 --only kill                     what has `kill` in its name, four seconds each

Every server, store and upstream is started here, on free ports of loopback and on folders that are thrown away. The exit code is 1 if
anything acknowledged is lost, counts twice, or anything else that was promised did not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

from loadtest.chaos import callers, stores
from loadtest.chaos.stores import Scene
from loadtest.chaos.table_row import FaultRow, Skipped
from loadtest.upstream import running_upstream
from loadtest.upstream_modes import MODES

FAULTS: dict[str, Callable[[Scene], Awaitable[FaultRow]]] = {
    "kill-server": stores.server_killed,
    "kill-store": stores.store_killed,
    "pause-store": stores.store_paused,
    "full-disk": stores.disk_full,
    "memory-of-store": stores.store_out_of_memory,
    "read-only-store": stores.store_read_only,
    "upstreams": callers.upstreams_misbehave,
    "slow-callers": callers.slow_callers,
    "overload": callers.overload,
}
MOST_S = 300.0
"""What one fault may take beyond the time that clients send: starts, settling, comparing."""


async def run(names: list[str], bundle: Path, seconds: float, clients: int = 16) -> list[FaultRow]:
    """Makes the named faults one after another and prints a row for each as it ends."""
    rows = []
    print(f"{'':7}{'fault':26}{'took':>8}{'slowest':>9}  answers | must be 0; must be so", flush=True)
    for name in names:
        with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
            began_s = time.perf_counter()
            try:
                async with asyncio.timeout(MOST_S + 4 * seconds), AsyncExitStack() as stack:
                    upstream = await stack.enter_async_context(running_upstream())
                    upstream.answers(MODES["good"])
                    roster = Path(folder) / "roster.json"
                    described = {"kind": "openai", "model": "good", "base_url": upstream.base_url}
                    roster.write_text(json.dumps({"one": described, "two": described}), encoding="utf-8")
                    settings = {"ATTUNE_BUNDLE": str(bundle), "ATTUNE_ROSTER": str(roster), "ATTUNE_BATCH_BUDGET_TOKENS": "256"}
                    row = await FAULTS[name](Scene(Path(folder), settings, seconds, clients))
            except Skipped as reason:
                print(f"{'skipped':7} {name}: {reason}", flush=True)
                continue
            except TimeoutError:
                row = FaultRow(name, {}, {"not over in time": 1}, 0.0, ok=False)
            rows.append(replace(row, took_s=time.perf_counter() - began_s))
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Parses arguments, makes the faults, and ends with 1 if something did not hold."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--bundle", type=Path, required=True)
    options.add_argument("--seconds", type=float, default=12.0, help="how long clients send, each fault")
    options.add_argument("--clients", type=int, default=16)
    options.add_argument("--only", default="", help=f"faults whose name has this in it: {', '.join(FAULTS)}")
    given = options.parse_args()
    names = [name for name in FAULTS if given.only in name]
    rows = asyncio.run(run(names, given.bundle.resolve(), given.seconds, given.clients))
    sys.exit(0 if rows and all(row.ok for row in rows) else 1)


if __name__ == "__main__":
    main()
