"""Load tests of a server that runs elsewhere, where it does not run."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer

import psutil
import pytest

from loadtest.chaos.callers import TEXT, is_wrong
from loadtest.peers.targets import started
from loadtest.raw_http import http, run_block
from loadtest.soak import failures
from loadtest.through_http import generate
from tests.batching.serving import until
from tests.project.tree import ROOT
from tests.tiny_bundle import write_tiny_bundle

OF_A_SERVER = {
    "feedback": [],
    "fuzz": [],
    "overload": ["--routes", "/route", "--rounds", "1"],
    "score_ceiling": ["BUNDLE", "--rounds", "1", "--texts", "8"],
    "through_http": ["BUNDLE"],
}


def test_every_load_test_that_takes_an_address_is_tried_here():
    taking = {file.stem for file in (ROOT / "loadtest").glob("*.py") if 'add_argument("--url"' in file.read_text(encoding="utf-8")}
    assert taking == set(OF_A_SERVER)


@pytest.mark.parametrize("name", OF_A_SERVER)
def test_a_server_that_cannot_be_asked_is_one_sentence(tmp_path, name):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    bundle = str(write_tiny_bundle(tmp_path))
    words = [bundle if word == "BUNDLE" else word for word in OF_A_SERVER[name]]
    for address, said in ((url, f"the server at {url} cannot be asked: "), ("nowhere", "--url is the address of a server, ")):
        run = subprocess.run(
            [sys.executable, "-m", f"loadtest.{name}", *words, "--url", address], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert run.returncode == 1
        assert "Traceback" not in run.stderr
        assert run.stderr.splitlines()[-1].startswith(said)


def test_a_server_is_asked_where_it_is():
    class Answers(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_):
            """Tells nothing."""

    server = HTTPServer(("127.0.0.2", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    latencies_s, _ = generate(("127.0.0.2", server.server_address[1], [http("/route", {})], 1, 0.05))
    server.shutdown()
    server.server_close()
    assert latencies_s


def test_a_soak_fails_where_something_failed_or_nobody_was_answered():
    assert failures(Counter({"200": 9, "429": 3}), soaked=4) == []
    assert failures(Counter({"200": 9, "500": 1, "TimeoutError": 2}), soaked=4) == ["1 x 500", "2 x TimeoutError"]
    assert failures(Counter({"200": 9}), soaked=0) == ["nothing was answered in these minutes"]


def test_no_answer_at_all_is_not_what_a_caller_was_promised():
    assert is_wrong("hangs", ("none", ""))
    assert is_wrong("hangs", ("500", ""))
    assert not is_wrong("hangs", ("504", ""))
    assert is_wrong("good", ("200", "Hel"))
    assert not is_wrong("good", ("200", TEXT))


PROGRAM = """
import asyncio, signal, sys
from pathlib import Path
from loadtest.own_server import OwnServer
from loadtest.peers.targets import started
from loadtest.peers.targets import started
from loadtest.raw_http import http, run_block

def of_peers():
    serve = [sys.executable, "-u", "-m", "http.server", sys.argv[2], "--bind", "127.0.0.1"]
    with started("files", serve, int(sys.argv[2]), [b"GET / HTTP/1.1\\r\\nhost: localhost\\r\\n\\r\\n"]) as target:
        print(target.process.pid, flush=True)
        signal.pause()

async def of_its_own():
    server = OwnServer(Path(sys.argv[3]), {"ATTUNE_BUNDLE": sys.argv[2], "ATTUNE_BATCH_BUDGET_TOKENS": "256"})
    async with server:
        print(server.pid, flush=True)
        await asyncio.Event().wait()

of_peers() if sys.argv[1] == "peers" else asyncio.run(of_its_own())
"""


@pytest.mark.parametrize("whose", ["peers", "own"])
def test_a_load_test_that_is_ended_ends_the_servers_that_it_started(tmp_path, whose):
    if whose == "peers":
        with socket.create_server(("127.0.0.1", 0)) as free:
            arguments = [str(free.getsockname()[1])]
    else:
        arguments = [str(write_tiny_bundle(tmp_path, members=False)), str(tmp_path / "data")]
    running = subprocess.Popen([sys.executable, "-c", PROGRAM, whose, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert running.stdout
    server = psutil.Process(int(running.stdout.readline()))
    children = [server, *server.children(recursive=True)]
    running.terminate()
    assert running.wait(timeout=60) == 128 + signal.SIGTERM
    assert [child.pid for child in psutil.wait_procs(children, timeout=60)[1]] == []


PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-u", "-m", "http.server", sys.argv[1], "--protocol", "HTTP/1.1", "--bind", "127.0.0.1"])
child.wait()
"""


def test_a_target_that_is_not_measured_stands_still_with_all_below_it_and_answers_when_it_runs_again():
    asked = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with started("files", [sys.executable, "-c", PARENT, str(port)], port, [asked]) as target:
        tree = [target.process, *target.process.children(recursive=True)]
        assert len(tree) == 2

        def states():
            return {each.status() for each in tree}

        target.stop()
        asyncio.run(until(lambda: states() == {psutil.STATUS_STOPPED}))
        with target.running():
            assert psutil.STATUS_STOPPED not in states()
            assert asyncio.run(run_block(port, [asked], 1, 0.2))
        asyncio.run(until(lambda: states() == {psutil.STATUS_STOPPED}))
    assert psutil.wait_procs(tree, timeout=60)[1] == []


def test_a_target_that_others_need_is_never_stopped():
    asked = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    serve = [sys.executable, "-u", "-m", "http.server", str(port), "--protocol", "HTTP/1.1", "--bind", "127.0.0.1"]
    with started("files", serve, port, [asked]) as target:
        shared = replace(target, shared=True)
        shared.stop()
        with shared.running():
            pass
        assert asyncio.run(run_block(port, [asked], 1, 0.2))
