"""Starting and stopping as an operator sees it: why it does not start, what a check says, and what clients see while it ends."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import onnxruntime
import psutil
import pytest

from tests.project.test_own_llms import upstream, write_roster
from tests.project.test_serving import COMMAND, PATIENCE_S, ROOT, attune, data_dir, environment, serving
from tests.tiny_bundle import write_tiny_bundle

CUDA = "CUDAExecutionProvider"
HAS_CUDA = CUDA in onnxruntime.get_available_providers()
__all__ = ["data_dir", "upstream"]  # the fixtures


def started(folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Runs a start that is to fail."""
    return subprocess.run(COMMAND, cwd=ROOT, env=environment(folder) | more, capture_output=True, text=True, check=False)


def reason(run: subprocess.CompletedProcess[str]) -> dict[str, object]:
    """Returns the one line that says why, after checking that it is the last and that no traceback is there."""
    assert "Traceback" not in run.stderr
    assert "exc_type" not in run.stderr
    line: dict[str, object] = json.loads(run.stderr.splitlines()[-1])
    assert line["event"] == "cannot start"
    return line


def test_a_second_server_on_a_data_directory_is_told_who_uses_it(data_dir):
    with serving(data_dir) as (process, _url, _line):
        run = started(data_dir)
        assert run.returncode == 3
        assert f"attune: cannot start\n  the data directory {data_dir} is used by the Attune with process id {process.pid}; " in run.stderr


def test_a_bundle_that_is_damaged_is_the_reason(tmp_path, data_dir):
    (tmp_path / "roster.json").write_text((data_dir / "roster.json").read_text(encoding="utf-8"), encoding="utf-8")
    bundle = write_tiny_bundle(tmp_path / "bundles")
    (bundle / "families.npz").write_bytes(b"nothing")
    line = reason(started(tmp_path))
    assert (line["kind"], line["setting"]) == ("bundle", "ATTUNE_BUNDLE")
    assert "families.npz" in str(line["reason"])


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("ATTUNE_ROSTER", "roster-without-url.json", "base_url: is missing"),
        ("ATTUNE_REDIS_URL", "http://:secret-word@x", "scheme 'http'"),
        ("ATTUNE_API_KEYS_FILE", "/nope/keys", "cannot be read"),
        ("ATTUNE_BUNDLE", "/nope", "no complete bundle; there is no such folder"),
        ("ATTUNE_BUNDLE", "deep", "manifest.json of deep is nested too deeply"),
    ],
)
def test_what_costs_nothing_to_check_is_refused_before_anything_starts(tmp_path, data_dir, name, value, said):
    write_tiny_bundle(tmp_path / "bundles")
    (tmp_path / "roster-without-url.json").write_text('{"concise": {"kind": "openai"}}', encoding="utf-8")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "manifest.json").write_text("[" * 200_000, encoding="utf-8")
    run = started(tmp_path, **{name: str(tmp_path / value) if value.startswith(("roster", "deep")) else value})
    assert run.returncode == 2
    assert name in run.stderr
    assert said in run.stderr
    assert "secret-word" not in run.stderr
    assert not (tmp_path / "redis").exists()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_nothing_is_a_warning_before_the_ready_line(data_dir, workers):
    lines = []
    # With nothing but its defaults: it measures how much a batch should hold, on all the cores that there are.
    defaults = environment(data_dir) | {"ATTUNE_BATCH_BUDGET_TOKENS": "0", "ATTUNE_THREADS": "0", "ATTUNE_WORKERS": workers}
    process = subprocess.Popen(COMMAND, cwd=ROOT, env=defaults, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    try:
        for line in process.stderr:
            lines.append(json.loads(line))
            if "attune ready" in line:
                break
    finally:
        process.send_signal(signal.SIGINT)  # several processes end by their parent, and at once
        process.communicate(timeout=2 * PATIENCE_S)
    assert [line for line in lines[:-1] if line["level"] != "info"] == []


def until_read(pipe: Path) -> int:
    """Returns the writing end of a pipe once somebody has begun to read it."""
    end_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < end_s:
        try:
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            time.sleep(0.05)
    pytest.fail(f"nobody reads {pipe.name}")


@contextmanager
def held_start(tmp_path: Path, data_dir: Path, workers: str, **more: str) -> Iterator[subprocess.Popen[str]]:
    """Gives a process whose start goes on once it is let go."""
    (tmp_path / "roster.json").write_text((data_dir / "roster.json").read_text(encoding="utf-8"), encoding="utf-8")
    write_tiny_bundle(tmp_path / "bundles")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    # Whichever process checks the files of the bundle waits, in its thread, until the pipe's writing end is closed.
    (tmp_path / "sitecustomize.py").write_text(
        f"import hashlib, pathlib\npipe, digest = pathlib.Path({str(pipe)!r}), hashlib.file_digest\n"
        "hashlib.file_digest = lambda *given: (pipe.exists() and pipe.read_bytes(), digest(*given))[1]\n",
        encoding="utf-8",
    )
    settings = environment(tmp_path) | {"ATTUNE_WORKERS": workers} | more
    settings["PYTHONPATH"] = os.pathsep.join(filter(None, [str(tmp_path), settings.get("PYTHONPATH")]))
    process = subprocess.Popen(COMMAND, cwd=ROOT, env=settings, stderr=subprocess.PIPE, text=True)
    writing = until_read(pipe)
    try:
        yield process
    finally:
        pipe.unlink()
        os.close(writing)


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_stop_during_the_start_is_no_failure_and_waits_for_no_thread(tmp_path, data_dir, workers, told):
    with held_start(tmp_path, data_dir, workers) as process:
        others = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(told)
        _, said = process.communicate(timeout=PATIENCE_S)  # and a process that has to be killed is a warning in it
    assert process.returncode == 0
    assert [json.loads(line)["event"] for line in said.splitlines()] == ["attune stopped"]
    _, alive = psutil.wait_procs(others, timeout=PATIENCE_S)
    assert not alive


def test_an_address_that_somebody_else_takes_during_the_start_is_told_with_exit_code_4(tmp_path, data_dir):
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        with held_start(tmp_path, data_dir, "1", ATTUNE_PORT=str(port)) as process:
            other.listen()
        _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 4
    assert said.splitlines()[-2] == f"attune: cannot listen on 127.0.0.1 port {port}"


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_hangup_during_the_start_ends_nothing_and_is_answered_once_it_serves(tmp_path, data_dir, workers):
    with held_start(tmp_path, data_dir, workers) as process:
        process.send_signal(signal.SIGHUP)
    try:
        told = []
        for line in process.stderr or ():
            told.append(json.loads(line)["event"])
            if told[-1] == "reloaded at SIGHUP":
                break
        assert [event.partition(" on ")[0] for event in told if event.startswith("attune")] == ["attune ready"]
        assert told[-1] == "reloaded at SIGHUP"
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE_S)


def test_a_check_says_what_a_start_would_do(data_dir, tmp_path):
    run = attune("check", "--json", data_dir=data_dir)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert found["starts"] is True
    states = {row["part"]: row["state"] for row in found["checks"]}
    assert {"settings": "ok", "store": "ok", "bundle": "ok", "member concise": "warning"}.items() <= states.items()
    (tmp_path / "bundles").mkdir()
    run = attune("check", data_dir=tmp_path, ATTUNE_REDIS_URL="http://x", ATTUNE_API_KEYS_FILE="/nope")
    assert run.returncode == 1
    for setting in ("ATTUNE_BUNDLE", "ATTUNE_REDIS_URL", "ATTUNE_API_KEYS_FILE"):
        assert setting in run.stdout
    assert attune("check", data_dir=tmp_path, ATTUNE_PORT="many").returncode == 2
    run = attune("check", "--roster", str(tmp_path / "mine.json"), data_dir=tmp_path)
    assert run.returncode != 0
    assert "mine.json" in run.stdout


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("ATTUNE_FAMILY", "vfr", "has no family vfr; it has "),
        ("ATTUNE_SHADOW_FAMILIES", "vrf,vfr", "has no family vfr; it has "),
        ("ATTUNE_PRECISION", "fp16", "precision fp16 needs a graph in fp16"),
        pytest.param(
            "ATTUNE_REQUIRE_GPU", "true", f"{CUDA} is required", marks=pytest.mark.skipif(HAS_CUDA, reason="this runtime has CUDA")
        ),
    ],
)
def test_a_bundle_that_does_not_fit_another_setting_is_refused_for_that_setting(data_dir, setting, value, said):
    run = attune("check", "--json", data_dir=data_dir, **{setting: value})
    (row,) = [row for row in json.loads(run.stdout)["checks"] if row["state"] == "refused"]
    assert (run.returncode, row["part"], row["setting"]) == (1, "bundle", setting)
    assert said in row["detail"]


def test_a_check_doubts_a_model_that_its_server_does_not_list_and_a_start_goes_on(data_dir, tmp_path, upstream):
    roster = write_roster(tmp_path / "mine.json", upstream, terse="short", mistyped="shrot")
    run = attune("check", "--json", "--roster", str(roster), data_dir=data_dir)
    found = json.loads(run.stdout)
    assert (run.returncode, found["starts"]) == (0, True)
    rows = {row["part"]: (row["state"], row["detail"].split(", ")[0]) for row in found["checks"]}
    assert rows["member terse"] == ("ok", "answers")
    assert rows["member mistyped"] == ("warning", "answers; its server lists no model 'shrot'")


def test_the_end_is_announced_while_requests_are_still_served(data_dir):
    with serving(data_dir) as (process, url, _line), httpx.Client(base_url=url, timeout=PATIENCE_S) as client:
        assert client.get("/users/anna").status_code == 200
        process.send_signal(signal.SIGTERM)
        statuses = set()
        ready = {}
        for _ in range(200):
            ready = client.get("/readyz").json()
            statuses.add(client.get("/users/anna").status_code)
            if ready.get("phase") == "draining":
                break
        assert ready["phase"] == "draining"
        assert statuses == {200}
        rest: list[str] = []
        reader = threading.Thread(target=lambda: rest.extend(process.communicate(timeout=60)))
        reader.start()
        reader.join()
        assert process.returncode == 0
        assert "Exception" not in "".join(filter(None, rest))
