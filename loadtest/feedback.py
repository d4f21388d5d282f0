"""Latency of `POST /feedback` by candidate ids, one request at a time on an idle server: p50, p90, p99 in milliseconds.

Every request is a new event on candidates of decisions made beforehand, so each is a full read, predict, learn and atomic add. Under
`known prompt` the scorer has read the decision's prompt before. Under `new prompt` it has not, and families whose weights read prompts
need a pass of it more. `GET /livez` on the same connection, alternating, shows how much of it is HTTP alone.

    python -m loadtest.feedback --url http://127.0.0.1:8000
"""

from __future__ import annotations

import argparse
import json
import time
import uuid
from collections.abc import Mapping
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from loadtest.reaching import reaching

OK = 200


class TimedServer:
    """One connection to the server; its client's part of a request is a small share of a millisecond.

    Args:
        url: of the server.
    """

    def __init__(self, url: str) -> None:
        self._connection = HTTPConnection(urlsplit(url).netloc, timeout=60)

    def send(self, method: str, path: str, body: Mapping[str, object] | None = None) -> tuple[float, Any]:
        """Returns the seconds until the whole answer was there, and what it says; ends the program where it is not 200."""
        content = None if body is None else json.dumps(body).encode()
        began = time.perf_counter()
        self._connection.request(method, path, content, {"content-type": "application/json"})
        response = self._connection.getresponse()
        answer = response.read()
        seconds = time.perf_counter() - began
        if response.status != OK:
            raise SystemExit(f"{method} {path} answered {response.status}: {answer.decode(errors='replace')}")
        return seconds, json.loads(answer) if answer.startswith(b"{") else None


def pair(server: TimedServer, user: str, prompt: str) -> dict[str, str]:
    """Returns a user and two short answers to a prompt, as feedback names them."""
    body = {"user": user, "prompt": prompt, "candidates": 2, "max_tokens": 24}
    _, made = server.send("POST", "/generate", body)
    first, second = made["candidates"]
    return {"user": user, "chosen": first["candidate_id"], "rejected": second["candidate_id"]}


def main() -> None:
    """Parses arguments and measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--requests", type=int, default=300, help="of each kind")
    parser.add_argument("--users", type=int, default=10)
    arguments = parser.parse_args()
    with reaching(arguments.url):
        measure_feedback(arguments)


def measure_feedback(arguments: argparse.Namespace) -> None:
    """Runs the requests and prints the percentiles."""
    run = uuid.uuid4().hex[:8]
    server = TimedServer(arguments.url)
    users = [f"latency-{run}-{index}" for index in range(arguments.users)]
    known = [pair(server, user, "How do I make pancakes?") for user in users]
    new = [pair(server, users[index % len(users)], f"How do I make {index} pancakes?") for index in range(arguments.requests)]
    server.send("POST", "/feedback", known[0] | {"event_id": f"{run}-first"})
    timed: dict[str, list[float]] = {"known prompt": [], "new prompt": [], "/livez": []}
    for index in range(arguments.requests):
        for kind, told in (("known prompt", known[index % len(known)]), ("new prompt", new[index])):
            seconds, answer = server.send("POST", "/feedback", told | {"event_id": f"{run}-{kind}-{index}"})
            if answer["result"] != "applied":
                raise SystemExit(f"/feedback answered {answer}")
            timed[kind].append(seconds)
        timed["/livez"].append(server.send("GET", "/livez")[0])
    for user in users:
        server.send("DELETE", f"/users/{user}")
    print(f"{arguments.requests} requests each, alternating; milliseconds")
    print(f"{'':<14}{'p50':>8}{'p90':>8}{'p99':>8}")
    for kind, seconds_of in timed.items():
        print(f"{kind:<14}" + "".join(f"{1000 * value:>8.2f}" for value in np.quantile(seconds_of, [0.5, 0.9, 0.99])))


if __name__ == "__main__":
    main()
