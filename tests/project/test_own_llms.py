"""Own upstreams from a roster alone: `attune serve --roster`, a routed and learned request, and a roster that changes under traffic."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.project.test_serving import environment
from tests.project.tree import ROOT
from tests.tiny_bundle import write_tiny_bundle

MANNERS = {
    "short": "yes .",
    "long": "put it in water for six minutes , then eat it , that is the best way",
    "warm": "lovely friend , glad dear",
}
ASK = {"user": "u1", "prompt": "how do i boil an egg ?"}


class Upstream(BaseHTTPRequestHandler):
    """Answers chat completions as a stream, in the manner that the model's name says; `held` begins, and goes on when it is let."""

    protocol_version = "HTTP/1.1"
    let = threading.Event()

    def do_GET(self) -> None:
        self._send("application/json", json.dumps({"object": "list", "data": [{"id": name} for name in MANNERS]}).encode())

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        held, asked["model"] = asked["model"] == "held", {"held": "long"}.get(asked["model"], asked["model"])
        events = [{"choices": [{"index": 0, "delta": {"content": MANNERS[asked["model"]]}, "finish_reason": None}]}]
        events += [{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}]
        events += [{"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}]
        lines = [f"data: {json.dumps(event)}\n\n" for event in events] + ["data: [DONE]\n\n"]
        if held:
            self._send_held(lines)
        else:
            self._send("text/event-stream", "".join(lines).encode())

    def _send_held(self, lines: list[str]) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(lines[0].encode())
        self.wfile.flush()
        self.let.wait()
        self.wfile.write("".join(lines[1:]).encode())
        self.close_connection = True

    def _send(self, kind: str, body: bytes) -> None:
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def upstream() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Upstream) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        server.shutdown()
        thread.join()


def write_roster(path: Path, upstream: str, **members: str) -> Path:
    # A busy machine may let an answer wait between two pieces for longer than a member is usually waited for.
    place = {"kind": "openai", "base_url": upstream, "between_events_s": 300}
    path.write_text(json.dumps({name: place | {"model": model} for name, model in members.items()}))
    return path


def next_line(process: subprocess.Popen[str], pattern: str) -> re.Match[str]:
    assert process.stderr
    seen = []
    for line in process.stderr:
        seen.append(line)
        if found := re.search(pattern, line):
            return found
    raise AssertionError("the service ended:\n" + "".join(seen))


def stays_open_while_its_member_leaves(client: httpx.Client, roster: Path, upstream: str) -> None:
    """A stream of a member that is taken off the roster goes on to its end, and what it said can be judged."""
    write_roster(roster, upstream, laconic="short", kind="warm", leaving="held")
    assert client.post("/admin/reload", json={}, timeout=120).status_code == 200
    Upstream.let.clear()
    with client.stream("POST", "/generate", json=ASK | {"member": "leaving", "stream": True}) as answer:
        told = sse(answer)
        assert [next(told)[0], next(told)[0]] == ["decision", "token"]
        write_roster(roster, upstream, laconic="short", kind="warm")
        assert client.post("/admin/reload", json={}, timeout=120).status_code == 200
        assert client.post("/generate", json=ASK | {"member": "leaving"}).status_code == 404
        other = client.post("/generate", json=ASK | {"member": "laconic"}).json()["candidates"][0]
        Upstream.let.set()
        name, done = list(told)[-1]
    assert name == "done"
    assert (done["candidates"][0]["member"], done["candidates"][0]["text"]) == ("leaving", MANNERS["long"])
    liked = {"user": "u1", "chosen": other["candidate_id"], "rejected": done["candidates"][0]["candidate_id"]}
    assert client.post("/feedback", json=liked).json()["result"] == "applied"


def sse(answer: httpx.Response) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields name and data of every event."""
    name = "message"
    for line in answer.iter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


def test_a_roster_alone_serves_learns_and_changes_under_traffic(tmp_path, upstream):
    bundle = write_tiny_bundle(tmp_path / "bundles", members=False)
    roster = write_roster(tmp_path / "mine.json", upstream, terse="short", chatty="long")
    command = [sys.executable, "-m", "attune.service", "serve", "--bundle", str(bundle), "--roster", str(roster)]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment(tmp_path), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        url = next_line(process, r"attune ready on (http://\S+)")[1]
        client = httpx.Client(base_url=url, timeout=30)
        assert client.get("/readyz").status_code == 200
        for event in range(8):
            made = client.post("/generate", json=ASK | {"candidates": 2}).json()["candidates"]
            liked, other = sorted(made, key=lambda one: one["member"] != "terse")
            told = {"user": "u1", "chosen": liked["candidate_id"], "rejected": other["candidate_id"], "event_id": f"e{event}"}
            assert client.post("/feedback", json=told).json()["result"] == "applied"
        assert client.post("/route", json=ASK | {"policy": "best"}).json()["routing"]["member"] == "terse"

        statuses: list[int] = []
        stop = threading.Event()

        def traffic() -> None:
            with httpx.Client(base_url=url, timeout=30) as other:
                while not stop.is_set():
                    statuses.append(other.post("/generate", json=ASK | {"user": "u2"}).status_code)

        busy = threading.Thread(target=traffic)
        busy.start()
        # Renamed, removed and added at once.
        write_roster(roster, upstream, laconic="short", kind="warm")
        os.kill(process.pid, signal.SIGHUP)
        assert json.loads(next_line(process, r".*at_prior.*")[0])["at_prior"] == ["laconic", "kind"]
        next_line(process, "reloaded at SIGHUP")
        stop.set()
        busy.join()
        assert set(statuses) == {200}
        assert [member["name"] for member in client.get("/portfolio").json()["members"]] == ["laconic", "kind"]
        assert client.get("/users/u1").json()["user"]["comparisons"] == 8

        stays_open_while_its_member_leaves(client, roster, upstream)
        assert client.get("/users/u1").json()["user"]["comparisons"] == 9

        roster.write_text("{")
        os.kill(process.pid, signal.SIGHUP)
        next_line(process, "reload refused")
        assert client.post("/generate", json=ASK).status_code == 200
        client.close()
    finally:
        process.kill()
        process.wait(timeout=10)


def test_four_commands_are_told_from_a_checkout_to_a_request_that_is_routed_and_learned():
    page = (ROOT / "docs" / "howto" / "own-llms.md").read_text(encoding="utf-8")
    section = page.split("\n## ")[1]
    assert section.startswith("From nothing")
    told = "".join(re.findall(r"^```sh\n(.*?)^```", section, re.MULTILINE | re.DOTALL))
    roster = re.search(r"<<'END'\n(.*?)^END\n", told, re.MULTILINE | re.DOTALL)
    assert roster
    assert len(json.loads(roster[1])) == 2
    commands = re.sub(r"\|\n", "| ", told.replace(roster[0], "\n")).strip().split("\n")
    without_variables = [re.sub(r"^(\w+=\S+ )*", "", command) for command in commands]
    assert [command.split()[0] for command in without_variables] == ["make", "cat", ".venv/bin/attune", "curl"]
    assert all(f"{name}=" in commands[2] for name in re.findall(r'"api_key_env": "(\w+)"', roster[1]))
