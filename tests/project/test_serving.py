"""`attune serve` as a process: one line when it is ready, an orderly end on a signal, nothing left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.project.tree import ROOT
from tests.tiny_bundle import MEMBERS, write_tiny_bundle

COMMAND = [sys.executable, "-m", "attune.service", "serve"]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    """Returns a data directory with a tiny bundle and a roster of members that nobody serves: nothing here generates."""
    folder = tmp_path_factory.mktemp("data")
    write_tiny_bundle(folder / "bundles")
    nowhere = {"kind": "openai", "base_url": "http://127.0.0.1:9/v1", "model": "none"}
    (folder / "roster.json").write_text(json.dumps(dict.fromkeys(MEMBERS, nowhere)), encoding="utf-8")
    return folder


def environment(data_dir: Path) -> dict[str, str]:
    """Returns the shell's environment with settings for these tests alone; a budget, because measuring takes seconds."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ATTUNE_")}
    roster = {"ATTUNE_ROSTER": str(data_dir / "roster.json")} if (data_dir / "roster.json").exists() else {}
    here = {"ATTUNE_DATA_DIR": str(data_dir), "ATTUNE_PORT": "0", "ATTUNE_REDIS_TIMEOUT_MS": "20000"}
    return inherited | here | {"ATTUNE_BATCH_BUDGET_TOKENS": "256", "ATTUNE_THREADS": "1"} | roster


PATIENCE_S = 60.0
"""For an answer that takes milliseconds, or a reload; a machine that runs other tests beside these may take a thousand times that."""


@contextmanager
def serving(data_dir: Path, **more: str) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """Starts the command on a free port, with more settings; yields the process, its URL and the line that said it is ready."""
    process = subprocess.Popen(COMMAND, cwd=ROOT, env=environment(data_dir) | more, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr
        seen = []
        for line in process.stderr:
            seen.append(line)
            if match := re.search(r"attune ready on (http://\S+)", line):
                yield process, match.group(1), line
                return
        pytest.fail("the service ended before it was ready:\n" + "".join(seen))
    finally:
        process.kill()
        process.wait(timeout=10)


def test_it_says_in_one_line_where_it_serves_what(data_dir):
    with serving(data_dir, ATTUNE_KEEP_ALIVE_S="1") as (_process, url, line):
        assert re.search(r"\(bundle \S*tiny-[0-9a-f]+, 3 members, redis embedded\)", json.loads(line)["event"])
        assert httpx.get(f"{url}/livez", timeout=PATIENCE_S).status_code == 200
        exposed = httpx.get(f"{url}/metrics", timeout=PATIENCE_S).text
        # Nobody serves the members of this roster, which the line says, and the gauges as well as /readyz.
        assert "without member concise" in line
        assert float(re.search(r"\nattune_frozen_objects (\S+)", exposed)[1]) > 50_000, "a process that only serves freezes its heap"
        assert 'attune_ready_part{part="scorer"} 1.0' in exposed
        assert 'attune_ready_part{part="members"} 0.0' in exposed
        assert exposed.count("attune_ready 0.0") == 1
        assert httpx.get(f"{url}/readyz", timeout=PATIENCE_S).status_code == 503
        # An idle connection is closed after the setting's second; after the default's 75 nobody would wait here.
        with socket.create_connection((httpx.URL(url).host, httpx.URL(url).port), timeout=PATIENCE_S) as idle:
            idle.sendall(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n")
            while idle.recv(65536):
                pass


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("signals", [(signal.SIGINT,), (signal.SIGTERM, signal.SIGTERM)], ids=["Ctrl-C", "SIGTERM twice"])
def test_ctrl_c_and_a_second_signal_end_it_in_order_without_waiting_for_the_notice(data_dir, signals, workers):
    with serving(data_dir, ATTUNE_DRAIN_NOTICE_S="300", ATTUNE_WORKERS=workers) as (process, url, _line):
        process.send_signal(signals[0])
        for stop in signals[1:]:  # the first has been heard once the end is announced
            while httpx.get(f"{url}/readyz", timeout=PATIENCE_S).json()["phase"] != "draining":
                pass
            process.send_signal(stop)
        _, rest = process.communicate(timeout=2 * PATIENCE_S)
        assert process.returncode == 0, rest
        assert "Traceback" not in rest
        told = [line for line in map(json.loads, rest.splitlines()) if line["event"].startswith("attune stop")]
        assert [line["event"] for line in told] == ["attune stopping", "attune stopped"]
        assert told[0]["left_s"] > 300, "the notice, and the time that what runs may take"


def test_what_was_acknowledged_is_there_after_a_restart(data_dir):
    body = {"user": "anna", "prompt": "tell me about tea", "chosen_text": "yes", "rejected_text": "put it in water for six minutes"}
    with serving(data_dir) as (process, url, _line):
        assert httpx.post(f"{url}/feedback", json=body | {"event_id": "first"}, timeout=PATIENCE_S).json()["user"]["comparisons"] == 1
        process.kill()  # no orderly end: an acknowledgement must not depend on one
        process.wait(timeout=10)
    with serving(data_dir) as (_process, url, _line):
        assert httpx.get(f"{url}/users/anna", timeout=PATIENCE_S).json()["user"]["comparisons"] == 1
        assert httpx.post(f"{url}/feedback", json=body | {"event_id": "first"}, timeout=PATIENCE_S).json()["result"] == "duplicate"


def test_a_damaged_bundle_stops_the_start_with_its_reason(tmp_path):
    bundle = write_tiny_bundle(tmp_path / "bundles")
    with (bundle / "scorer.onnx").open("ab") as file:
        file.write(b"x")
    run = subprocess.run(COMMAND, cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True, check=False, timeout=60)
    assert run.returncode == 3
    assert "scorer.onnx" in run.stderr


def attune(*arguments: str, data_dir: Path, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "attune.service", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment(data_dir) | more, capture_output=True, text=True, timeout=120, check=False)


def test_replay_carries_users_over_to_a_bundle_of_another_basis(tmp_path, data_dir):
    (tmp_path / "roster.json").write_text((data_dir / "roster.json").read_text(encoding="utf-8"), encoding="utf-8")
    write_tiny_bundle(tmp_path / "bundles")
    with serving(tmp_path) as (_process, url, _line):
        for index in range(12):
            texts = {"prompt": "tell me about tea", "chosen_text": "lovely friend", "rejected_text": "yes ."}
            httpx.post(f"{url}/feedback", json={"user": f"u{index % 3}", **texts}, timeout=PATIENCE_S).raise_for_status()
        other = write_tiny_bundle(tmp_path / "bundles", salt=0.5)
        httpx.post(f"{url}/admin/reload", json={"bundle": str(other)}, timeout=PATIENCE_S).raise_for_status()
        assert httpx.get(f"{url}/users/u1", timeout=PATIENCE_S).json()["user"]["comparisons"] == 0
        done = attune("replay", "--url", url, data_dir=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "done: 12 comparisons of 3 users replayed" in done.stdout.splitlines()[-1]
        assert httpx.get(f"{url}/users/u1", timeout=PATIENCE_S).json()["user"]["comparisons"] == 4
        again = attune("replay", "--json", "--url", url, data_dir=tmp_path)
        told = json.loads(again.stdout)
        assert (told["done"], told["users"], told["replayed"]) == (True, 3, 0)
        assert "done: 0 comparisons of 3 users replayed" in again.stderr
    away = attune("replay", "--json", "--url", url, data_dir=tmp_path)
    assert away.stdout == ""
    assert away.returncode == 1
    assert "did not answer" in away.stderr
