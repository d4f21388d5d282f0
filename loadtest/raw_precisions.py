"""The bundle's graph in every precision that this machine can run, with nothing around it: texts/s by budget, and how far the scores move.

    python -m loadtest.raw_precisions BUNDLE... [--precisions fp32 tf32 fp16]

Skewed texts (`workloads`), sorted by length over all of them and cut at each budget; budgets double until the speed falls. Differences are
in units of an output's greatest answer (`probe_difference`): against fp32 in ONNX Runtime on the CPU, and of each text alone against in one
batch with 63 others. Several bundles may be given, where each carries one precision.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from attune.models.seam.bundle import Bundle, read_bundle
from attune.models.seam.families import Row
from attune.models.seam.precision import PRECISIONS, choose_scorer, probe_difference
from attune.models.seam.text import Encoded
from attune.service.batching.engines import Engine, open_engine
from attune.service.batching.session import CPU, ScorerRefused, ScorerSession
from attune.service.cores import usable_cores
from loadtest.workloads import CLEARLY_FALLING, LEAST_BUDGETS, MOST_BUDGET, make_requests, sorted_batches


def together(rows: Sequence[Row]) -> dict[str, np.ndarray]:
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def by_budget(engine: Engine, texts: list[Encoded], limit_s: float) -> dict[int, float]:
    """Returns texts/s by budget, the better of two passes."""
    found: dict[int, float] = {}
    budget, end_s = LEAST_BUDGETS.get(engine.provider, 128), time.perf_counter() + limit_s
    while budget <= MOST_BUDGET and time.perf_counter() < end_s:
        batches = list(sorted_batches(texts, budget))
        for batch in batches[:3]:
            engine.run(batch)
        taken_s = []
        for _ in range(2):
            started_s = time.perf_counter()
            for batch in batches:
                engine.run(batch)
            taken_s.append(time.perf_counter() - started_s)
        found[budget] = len(texts) / min(taken_s)
        if found[budget] < CLEARLY_FALLING * max(found.values()) or len(batches) == 1:
            break
        budget *= 2
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--texts", type=int, default=8192)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--limit-s", type=float, default=30.0, help="after which no further budget of a precision is tried")
    options = parser.parse_args()
    bundles = [read_bundle(path) for path in options.bundles]
    requests = make_requests(bundles[0].text_encoder(), law="skewed", texts=options.texts, responses=1, seed=1)
    texts = [row for request in requests for row in request.rows]
    exact = exact_answers(bundles, texts[:64])
    print("| precision | engine | texts/s by budget of padded tokens | from fp32 on the CPU | alone against in a batch |")
    print("|---|---|---|---|---|")
    for precision in options.precisions:
        for bundle in bundles:
            try:
                _, file = choose_scorer(bundle.scorers, precision)
                engine = open_engine(bundle.path / file.file, precision, threads=options.threads, require_gpu=False)
            except (ScorerRefused, ValueError) as error:
                print(f"| {precision} | none | {error} | | |")
                continue
            speeds = by_budget(engine, texts, options.limit_s)
            batch = together(engine.run(texts[:64]))
            alone = together([engine.run([text])[0] for text in texts[:64]])
            apart = "not known" if exact is None else f"{probe_difference(alone, exact):.2g}"
            told = ", ".join(f"{budget}: {speed:,.0f}" for budget, speed in speeds.items())
            print(f"| {precision} | {engine.provider} | {told} | {apart} | {probe_difference(batch, alone):.2g} |", flush=True)


def exact_answers(bundles: list[Bundle], texts: list[Encoded]) -> dict[str, np.ndarray] | None:
    """Returns what fp32 on the CPU says of each text alone; None where no bundle has fp32."""
    for bundle in bundles:
        if "fp32" in bundle.scorers:
            session = ScorerSession(bundle.path / bundle.scorers["fp32"].file, (CPU,))
            return together([session.run([text])[0] for text in texts])
    return None


if __name__ == "__main__":
    main()
