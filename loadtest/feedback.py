"""Latency of `POST /feedback` by candidate ids, one request at a time on an idle server: p50, p90, p99 in milliseconds.

Every request is a new event on candidates of one of several decisions made beforehand, so each is a full read, predict, learn and
atomic add. `GET /livez` on the same connection, alternating, shows how much of it is HTTP alone.

    python -m loadtest.feedback --url http://127.0.0.1:8000
"""

from __future__ import annotations

import argparse
import time
import uuid

import httpx
import numpy as np


def pair(client: httpx.Client, user: str) -> tuple[str, str]:
    """Returns the candidate ids of a fresh pair of short answers."""
    body = {"user": user, "prompt": "How do I make pancakes?", "candidates": 2, "max_tokens": 24}
    response = client.post("/generate", json=body)
    response.raise_for_status()
    first, second = response.json()["candidates"]
    return first["candidate_id"], second["candidate_id"]


def main() -> None:
    """Parses arguments, runs the requests and prints the percentiles."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--users", type=int, default=10)
    arguments = parser.parse_args()
    run = uuid.uuid4().hex[:8]
    with httpx.Client(base_url=arguments.url, timeout=60) as client:
        decisions = {f"latency-{run}-{index}": pair(client, f"latency-{run}-{index}") for index in range(arguments.users)}
        timed: dict[str, list[float]] = {"/feedback": [], "/livez": []}
        for index in range(arguments.requests):
            user, (first, second) = list(decisions.items())[index % len(decisions)]
            body = {"user": user, "chosen": first, "rejected": second, "event_id": f"{run}-{index}"}
            began = time.perf_counter()
            response = client.post("/feedback", json=body)
            timed["/feedback"].append(time.perf_counter() - began)
            if response.status_code != httpx.codes.OK or response.json()["result"] != "applied":
                raise SystemExit(f"/feedback answered {response.status_code}: {response.text}")
            began = time.perf_counter()
            client.get("/livez").raise_for_status()
            timed["/livez"].append(time.perf_counter() - began)
        for user in decisions:
            client.delete(f"/users/{user}").raise_for_status()
    print(f"{arguments.requests} requests each, alternating; milliseconds")
    print(f"{'':<12}{'p50':>8}{'p90':>8}{'p99':>8}")
    for path, seconds in timed.items():
        print(f"{path:<12}" + "".join(f"{1000 * value:>8.2f}" for value in np.quantile(seconds, [0.5, 0.9, 0.99])))


if __name__ == "__main__":
    main()
