"""`ATTUNE_WORKERS=2`: processes behind one port that survive each other's death, take a reload together, and count as one."""

from __future__ import annotations

import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from attune.service.live.private_folder import OWNER, private_folder
from tests.project.test_serving import COMMAND, PATIENCE_S, data_dir, environment, serving  # noqa: F401  a fixture
from tests.project.tree import ROOT
from tests.tiny_bundle import write_tiny_bundle

BODY = {"user": "anna", "prompt": "tell me about tea", "responses": ["yes .", "put it in water for six minutes"]}
PAIR = {"user": "anna", "prompt": "tell me about tea", "chosen_text": "yes", "rejected_text": "put it in water for six minutes"}


class Many:
    """A running service of several processes."""

    def __init__(self, process: psutil.Process, url: str, lines: list[str]) -> None:
        self.process = process
        self.url = url
        self.lines = lines

    def children(self, role: str) -> list[psutil.Process]:
        return [child for child in self.process.children() if f"serve-{role}" in child.cmdline()]

    def post(self, path: str, body: object) -> httpx.Response:
        return httpx.post(self.url + path, json=body, timeout=PATIENCE_S)  # a connection of its own each time

    def metric(self, line: str) -> float:
        text = httpx.get(f"{self.url}/metrics", timeout=PATIENCE_S).text
        return sum(float(each.rsplit(" ", 1)[1]) for each in text.splitlines() if each.startswith(line))

    def until_served(self, path: str, body: object) -> list[int]:
        """Returns the statuses of requests up to the first 200."""
        seen, end_s = [], time.monotonic() + PATIENCE_S
        while time.monotonic() < end_s:
            seen.append(self.post(path, body).status_code)
            if seen[-1] == 200:
                return seen
        pytest.fail(f"not served again within {PATIENCE_S:g} s: {seen[-20:]}")

    def until_restarted(self, role: str, alive: int = 1) -> None:
        """Returns when one of them was started again and so many are there."""
        end_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < end_s:
            try:
                restarts = self.metric(f'attune_process_restarts_total{{role="{role}"}}')
                if restarts and self.metric(f'attune_processes{{role="{role}"}}') >= alive:
                    return
            # It waited at the socket of the dead one when the parent, hearing of the death, closed that; or was taken by it before it died.
            except (httpx.ReadError, httpx.RemoteProtocolError):
                continue
        pytest.fail(f"no {role} was started again within {PATIENCE_S:g} s")


@pytest.fixture(scope="module")
def many(data_dir: Path) -> Iterator[Many]:  # noqa: F811
    with serving(data_dir, ATTUNE_WORKERS="2") as (process, url, _line):
        lines: list[str] = []
        # Read on, or the pipe fills and every process waits to write its log.
        reader = threading.Thread(target=lambda: lines.extend(process.stderr or ()), daemon=True)
        reader.start()
        yield Many(psutil.Process(process.pid), url, lines)


def test_two_processes_take_requests_and_one_owns_the_scorer(many: Many) -> None:
    assert (len(many.children("worker")), len(many.children("scorer"))) == (2, 1)
    scores = {tuple(entry["score"] for entry in many.post("/score", BODY).json()["scores"]) for _ in range(12)}
    assert len(scores) == 1
    assert many.metric("attune_processes") == 3.0
    # Which of the two is asked, the count is of both: each of the requests is in it.
    assert many.metric('attune_http_requests_total{method="POST",route="/score",status="200"}') == 12.0
    assert many.metric('attune_http_requests_total{method="POST",route="/score",status="200"}') == 12.0
    assert many.metric("attune_batch_texts_sum") >= 24.0


def test_an_event_counts_once_whichever_process_hears_it(many: Many) -> None:
    results = [many.post("/feedback", PAIR | {"event_id": "once"}).json()["result"] for _ in range(6)]
    assert sorted(results) == ["applied", *["duplicate"] * 5]


def test_refusals_and_their_kinds_cross_the_socket(many: Many) -> None:
    too_many = BODY | {"responses": ["yes ."] * 65}
    assert many.post("/score", too_many).status_code == 422
    assert httpx.get(f"{many.url}/livez", timeout=PATIENCE_S).status_code == 200


def test_a_reload_reaches_every_process(many: Many, tmp_path: Path) -> None:
    other = write_tiny_bundle(tmp_path, salt=0.25)
    assert many.post("/admin/reload", {"bundle": str(other)}).status_code == 200
    served = {httpx.get(f"{many.url}/version", timeout=PATIENCE_S).json()["bundle"] for _ in range(12)}
    assert served == {other.name.removeprefix("bundle-")}
    assert many.post("/score", BODY).status_code == 200
    damaged = write_tiny_bundle(tmp_path / "damaged", probe_error=0.5)
    assert many.post("/admin/reload", {"bundle": str(damaged)}).status_code == 409
    assert {httpx.get(f"{many.url}/version", timeout=PATIENCE_S).json()["bundle"] for _ in range(8)} == served


def test_the_scorer_is_started_again_after_kill_9_and_nothing_but_503_is_answered_meanwhile(many: Many) -> None:
    (scorer,) = many.children("scorer")
    scorer.kill()
    statuses = many.until_served("/score", BODY)
    assert set(statuses) <= {200, 503}
    many.until_restarted("scorer")
    assert many.children("scorer")[0].pid != scorer.pid
    assert httpx.get(f"{many.url}/livez", timeout=PATIENCE_S).status_code == 200


def test_a_process_that_takes_requests_is_started_again_after_kill_9(many: Many) -> None:
    worker = many.children("worker")[0]
    before = many.post("/feedback", PAIR | {"event_id": "kept"}).json()["user"]["comparisons"]
    worker.kill()
    worker.wait(PATIENCE_S)  # what it had accepted is reset with it
    # Its parent hears of the death a moment later: until then both still count as there, and nothing was started again.
    many.until_restarted("worker", alive=2)
    assert many.metric('attune_process_restarts_total{role="worker"}') == 1.0
    answers = [many.post("/score", BODY) for _ in range(12)]
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.json()["user"]["comparisons"] for answer in answers} == {before}


def test_a_hangup_of_one_of_them_ends_none(many: Many) -> None:
    children = [*many.children("worker"), *many.children("scorer")]
    for child in children:
        child.send_signal(signal.SIGHUP)
    assert many.post("/admin/reload", {}).status_code == 200, "which asks each of them"
    assert [*many.children("worker"), *many.children("scorer")] == children


def test_a_bundle_that_the_scorer_refuses_stops_the_start_with_exit_code_3(tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path / "bundles", probe_error=0.5)
    run = subprocess.run(
        COMMAND, cwd=ROOT, env=environment(tmp_path) | {"ATTUNE_WORKERS": "2"}, capture_output=True, text=True, check=False, timeout=90
    )
    assert run.returncode == 3
    assert "differs by" in run.stderr


def test_a_signal_drains_all_of_them_and_leaves_no_process(many: Many) -> None:
    children = many.process.children(recursive=True)
    many.process.send_signal(signal.SIGTERM)
    assert many.process.wait(timeout=60) == 0
    assert not [line for line in many.lines if "Traceback" in line]
    assert sum('"attune stopping"' in line for line in many.lines) == 1, "of all processes the parent says it"
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]


def test_after_kill_9_of_the_parent_every_process_ends_and_the_next_start_removes_its_folder(data_dir: Path) -> None:  # noqa: F811
    with tempfile.TemporaryDirectory() as temporary:  # pytest's own are too long for a socket's path
        with serving(data_dir, ATTUNE_WORKERS="2", ATTUNE_DRAIN_NOTICE_S="300", TMPDIR=temporary) as (process, _url, _line):
            children = psutil.Process(process.pid).children(recursive=True)
            assert len(children) >= 4, "a scorer, two that take requests, and the store"
            (folder,) = [owner.parent for owner in Path(temporary).glob(f"*/{OWNER}")]
            with private_folder(Path(temporary)):
                assert (folder / "control").is_socket(), "whoever lives keeps it"
            process.kill()
            end_s = time.monotonic() + PATIENCE_S
            while left := [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]:
                assert time.monotonic() < end_s, left
                time.sleep(0.1)
        assert folder.is_dir()
        with private_folder(Path(temporary)) as another:
            assert list(Path(temporary).glob(f"*/{OWNER}")) == [another / OWNER]
        assert not another.exists()
