"""Load tests of a server that runs elsewhere, where it does not run."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

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
