"""What a running server delivers to several load generators: /score of 4 and of 32 candidates, and /route; texts/s, latency, CPU time.

    python -m loadtest.through_http BUNDLE --url http://127.0.0.1:8000 [--clients 64] [--generators 4]

The generators are processes of their own, with prepared bytes and no parsing, so that one Python process is not what is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import re
import time
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from attune.models.seam.bundle import read_bundle
from attune.models.seam.text import TextEncoder
from loadtest.raw_http import http, run_block
from loadtest.reaching import reaching
from loadtest.workloads import make_requests


def server_cpu_s(url: str) -> float:
    """Returns the CPU time of all of the server's processes, seconds."""
    with urllib.request.urlopen(f"{url}/metrics") as answer:
        found = re.search(r"^process_cpu_seconds_total (\S+)", answer.read().decode(), re.MULTILINE)
    return float(found[1]) if found else float("nan")


def generate(work: tuple[str, int, list[bytes], int, float]) -> tuple[list[float], float]:
    """Returns the latencies of one generator and how long it took until the last answer, seconds."""
    host, port, requests, clients, seconds = work
    started_s = time.perf_counter()
    latencies_s = asyncio.run(run_block(port, requests, clients, seconds, host=host))
    return latencies_s, time.perf_counter() - started_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--url", required=True)
    parser.add_argument("--clients", type=int, default=64, help="of all generators together")
    parser.add_argument("--generators", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=8.0)
    options = parser.parse_args()
    encoder = read_bundle(options.bundle).text_encoder()
    with reaching(options.url):
        measure_server(encoder, options)


def measure_server(encoder: TextEncoder, options: argparse.Namespace) -> None:
    """Prints one row for each kind of request."""
    host, port = urlsplit(options.url).hostname or "", urlsplit(options.url).port or 80
    print("| request | clients | requests/s | texts/s | p50 ms | p99 ms | CPU ms a request, all processes |\n|---|---|---|---|---|---|---|")
    for name, responses in (("score of 4", 4), ("score of 32", 32), ("route", 0)):
        made = make_requests(encoder, law="skewed", texts=max(64, 64 * responses), responses=max(1, responses), seed=1)
        requests = [
            http("/route", {"user": f"load-{number}", "prompt": each.prompt})
            if name == "route"
            else http("/score", {"user": f"load-{number}", "prompt": each.prompt, "responses": each.responses})
            for number, each in enumerate(made)
        ]
        work = (host, port, requests, max(1, options.clients // options.generators), options.seconds)
        before_s = server_cpu_s(options.url)
        with multiprocessing.get_context("spawn").Pool(options.generators) as pool:
            found = pool.map(generate, [work] * options.generators)
        used_s = server_cpu_s(options.url) - before_s
        latencies_s = np.concatenate([each for each, _ in found])
        per_s = sum(len(each) / elapsed_s for each, elapsed_s in found)
        p50, p99 = np.percentile(latencies_s, [50, 99])
        cells = f"{per_s:,.0f} | {per_s * responses:,.0f} | {1e3 * p50:.1f} | {1e3 * p99:.1f} | {1e3 * used_s / len(latencies_s):.2f}"
        print(f"| {name} | {options.clients} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
