"""`ATTUNE_SCORERS=2`: a scorer's process for each of several GPUs, of which one may die."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from pathlib import Path

import httpx
import psutil
import pytest

from tests.project.test_processes import BODY, Many
from tests.project.test_serving import COMMAND, PATIENCE_S, data_dir, environment, serving  # noqa: F401  a fixture
from tests.project.tree import ROOT


def test_several_scorers_have_a_gpu_each_and_the_death_of_one_leaves_the_others(data_dir: Path) -> None:  # noqa: F811
    given = {"ATTUNE_WORKERS": "2", "ATTUNE_SCORERS": "2", "CUDA_VISIBLE_DEVICES": "GPU-a, GPU-b,GPU-c"}
    with serving(data_dir, **given) as (process, url, _line):
        threading.Thread(target=lambda: list(process.stderr or ()), daemon=True).start()
        many = Many(psutil.Process(process.pid), url, [])
        scorers = many.children("scorer")
        assert sorted(child.environ()["CUDA_VISIBLE_DEVICES"] for child in scorers) == ["GPU-a", "GPU-b"]
        assert many.metric('attune_processes{role="scorer"}') == 2.0
        assert len({tuple(entry["score"] for entry in many.post("/score", BODY).json()["scores"]) for _ in range(12)}) == 1
        scorers[0].kill()
        assert set(many.until_served("/score", BODY)) <= {200, 503}  # 503 at most for what it had been asked
        assert httpx.get(f"{url}/livez", timeout=PATIENCE_S).status_code == 200
        many.until_restarted("scorer")
        end_s = time.monotonic() + PATIENCE_S
        while many.post("/admin/reload", {}).status_code != 200:  # refused until both are there
            assert time.monotonic() < end_s
        assert len({child.pid for child in many.children("scorer")} - {scorers[0].pid}) == 2
        assert {many.post("/score", BODY).status_code for _ in range(12)} == {200}
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"ATTUNE_WORKERS": "1"}, "scorers is 2, and one process that takes requests has one scorer: set ATTUNE_WORKERS, too"),
        ({"ATTUNE_WORKERS": "2", "CUDA_VISIBLE_DEVICES": "3"}, "ATTUNE_SCORERS (2): CUDA_VISIBLE_DEVICES names 1 GPU"),
    ],
)
def test_more_scorers_than_can_be_had_are_refused_at_the_start(tmp_path: Path, given: dict[str, str], told: str) -> None:
    named = environment(tmp_path) | {"ATTUNE_SCORERS": "2"} | given
    run = subprocess.run(COMMAND, cwd=ROOT, env=named, capture_output=True, text=True, check=False, timeout=90)
    assert run.returncode == 2
    assert told in run.stderr
