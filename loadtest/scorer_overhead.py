"""What the scorer's own process costs beside its device: texts/s and CPU time through its socket, where the engine only waits.

    python -m loadtest.scorer_overhead BUNDLE [--text-us 10] [--batch-us 300] [--processes 2] [--waiting 64]

The engine pads its batches, then sleeps for as long as a fast GPU would compute (`--batch-us` and `--text-us`), and gives rows of the
bundle's shapes: what is left is queue, frames and hand-over, which limit a GPU from the side of Python. Requests of 4 and of 32 texts come
from `--processes` processes that keep `--waiting` of them under way together. With `--text-us 0 --batch-us 0` it is the limit itself.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import uvloop
from numpy.typing import NDArray

from attune.models.seam.bundle import read_bundle
from attune.models.seam.families import Row
from attune.models.seam.padding import TokenRow, pad
from attune.service.batching.frames import RowLayout
from attune.service.batching.remote import RemoteBatcher, ScorerLink
from attune.service.batching.session import rows_of
from attune.service.live.opened_scorer import SharedScorer
from attune.service.live.scorer_process import RequestsDoor
from loadtest.workloads import make_requests, roomy_batcher

GENERATION, BUDGET_TOKENS, DEADLINE_S = 1, 65_536, 60.0


class WaitingEngine:
    """An engine that computes nothing: rows of the bundle's shapes after the time that a device would take."""

    provider, at_once, beside = "waiting", 2, None

    def __init__(self, row: Row, batch_us: float, text_us: float) -> None:
        self.outputs = tuple(row)
        self._row = row
        self._batch_us, self._text_us = batch_us, text_us

    def run_arrays(self, items: Sequence[TokenRow]) -> list[NDArray[np.float32]]:
        """Returns zeros, `[N, ...]` for each output."""
        pad(items)
        if wait_us := self._batch_us + self._text_us * len(items):
            time.sleep(1e-6 * wait_us)
        return [np.zeros((len(items), *values.shape), dtype=np.float32) for values in self._row.values()]

    def run(self, items: Sequence[TokenRow]) -> list[Row]:
        """Returns the same row by row."""
        return rows_of(self.outputs, self.run_arrays(items))


class Behind:
    """What `RequestsDoor` asks of its process, without a parent to report to."""

    def __init__(self, scorer: SharedScorer) -> None:
        self._scorer = scorer

    def scorer(self, _: int) -> SharedScorer:
        """Returns the one scorer."""
        return self._scorer


def shaped(bundle: Path) -> Row:
    """Returns a row of the bundle's outputs, as its probes have them."""
    return {name: answers[0].astype(np.float32) for name, answers in read_bundle(bundle).probes.answers.items()}


def serve(bundle: Path, socket: str, batch_us: float, text_us: float) -> None:
    """The scorer's side, until it is ended."""

    async def forever() -> None:
        engine = WaitingEngine(shaped(bundle), batch_us, text_us)
        scorer, batcher = roomy_batcher(engine, max_text_tokens=512, budget_tokens=BUDGET_TOKENS, overhead_tokens=BUDGET_TOKENS / 32)
        batcher.start()
        door: Any = partial(RequestsDoor, Behind(SharedScorer(batcher, engine.provider, BUDGET_TOKENS, scorer.layout)))  # type: ignore[arg-type]
        server = await asyncio.get_running_loop().create_unix_server(door, socket)
        await server.serve_forever()

    uvloop.run(forever())


def ask(work: tuple[Path, str, int, int, float]) -> tuple[int, float]:
    """One process that asks; returns the requests that were answered, and the seconds that it took."""
    bundle, socket, responses, waiting, seconds = work

    async def asking() -> tuple[int, float]:
        link = ScorerLink()
        await link.connect(socket)
        layout = RowLayout.of(shaped(bundle))
        remote = RemoteBatcher(link, generation=GENERATION, layout=layout, max_text_tokens=512, closed=_nothing)
        made = make_requests(read_bundle(bundle).text_encoder(), law="skewed", texts=64 * responses, responses=responses, seed=1)
        answered, started_s = 0, time.perf_counter()

        async def one(place: int) -> None:
            nonlocal answered
            while time.perf_counter() - started_s < seconds:
                await remote.submit(made[place % len(made)].rows, DEADLINE_S)
                answered, place = answered + 1, place + waiting

        await asyncio.gather(*(one(place) for place in range(waiting)))
        elapsed_s = time.perf_counter() - started_s
        link.close()
        return answered, elapsed_s

    return uvloop.run(asking())


async def _nothing() -> None:
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--text-us", type=float, default=10.0, help="time of the device a text, microseconds")
    parser.add_argument("--batch-us", type=float, default=300.0, help="time of the device a batch, microseconds")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--waiting", type=int, default=64, help="requests under way, of all processes together")
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        socket = str(Path(folder) / "scorer")
        server = spawn.Process(target=serve, args=(options.bundle, socket, options.batch_us, options.text_us), daemon=True)
        server.start()
        while not Path(socket).exists():
            if not server.is_alive():
                raise SystemExit(f"the scorer's side ended with {server.exitcode} before it listened")
            time.sleep(0.1)
        process = psutil.Process(server.pid)
        print("| texts a request | requests/s | texts/s | CPU us a text, scorer's process | of a core |\n|--:|--:|--:|--:|--:|")
        with spawn.Pool(options.processes) as pool:
            for responses in (4, 32):
                work = options.bundle, socket, responses, max(1, options.waiting // options.processes)
                pool.map(ask, [(*work, 0.5)] * options.processes)
                before_s = sum(process.cpu_times()[:2])
                found = pool.map(ask, [(*work, options.seconds)] * options.processes)
                used_s, per_s = sum(process.cpu_times()[:2]) - before_s, sum(answered / elapsed_s for answered, elapsed_s in found)
                texts = responses * sum(answered for answered, _ in found)
                share = used_s / max(elapsed_s for _, elapsed_s in found)
                print(f"| {responses} | {per_s:,.0f} | {per_s * responses:,.0f} | {1e6 * used_s / texts:.1f} | {share:.2f} |", flush=True)
        server.terminate()


if __name__ == "__main__":
    main()
