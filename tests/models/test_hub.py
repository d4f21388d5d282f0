"""A model that is nowhere is told in one sentence after one question, and a hub that cannot be asked hinders nobody who has the folder."""

from __future__ import annotations

import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from attune.models.data.hub import NotOnHub, located

ASK = """
from pathlib import Path
from attune.models.data.hub import NotOnHub, expect_dataset, located
for ask in (lambda: located("no/such"), lambda: expect_dataset("no/such", Path("none"))):
    try:
        ask()
    except NotOnHub as error:
        print(error)
"""


def asked_at(endpoint, home):
    """Returns what is said by a process that asks the hub at `endpoint`, once for a model and once for a data set."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HF_") and "proxy" not in name.lower()}
    inherited["PYTHONPATH"] = str(Path(__file__).parents[2] / "src")
    told = inherited | {"HF_ENDPOINT": endpoint, "HF_HOME": str(home)}
    done = subprocess.run([sys.executable, "-c", ASK], env=told, cwd=home, capture_output=True, text=True, check=True, timeout=300)
    assert "Retrying" not in done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
def test_a_hub_that_has_no_such_model_is_asked_once_and_one_that_does_not_answer_is_not_waited_for(tmp_path):
    paths = []

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self):
            paths.append(self.path)
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Hub) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        at = f"http://127.0.0.1:{server.server_port}"
        model, dataset = asked_at(at, tmp_path)
        server.shutdown()
    assert [path for path in paths if "such" in path] == ["/api/models/no/such", "/api/datasets/no/such"]
    assert f"and {at} has no such model" in model
    assert f"and {at} has no such dataset" in dataset
    model, dataset = asked_at(at, tmp_path)
    assert f"was not downloaded before (looked for in {tmp_path}/hub), and {at} does not answer (" in model
    assert model.endswith("Give a folder that holds the model: config.json, tokenizer.json and the weights")
    assert f"and {at} does not answer (" in dataset


def test_a_folder_is_loaded_from_where_it_is_and_what_is_no_id_is_said_to_be_none(tmp_path):
    assert located(str(tmp_path)) == str(tmp_path)
    with pytest.raises(NotOnHub, match="'two words' is no folder, and no id of a model on the hub"):
        located("two words")
