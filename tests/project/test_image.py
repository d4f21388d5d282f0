"""What the image runs, run here: its health check beside a proxy, and how it finds the bundle that is in it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tests.project.tree import ROOT

DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")


def command(pattern: str) -> list[str]:
    """Returns the last command of the Dockerfile after what matches."""
    found = re.findall(rf"^{pattern}\s*(\[.*\])$", DOCKERFILE, re.MULTILINE)
    return [str(word) for word in json.loads(found[-1])]


def test_the_health_check_asks_the_server_itself_whatever_proxy_members_need():
    class Alive(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/livez" else 404)
            self.end_headers()

        def log_message(self, *_):
            """Tells nothing."""

    server = HTTPServer(("127.0.0.1", 0), Alive)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    _, *script = command(r"HEALTHCHECK .* CMD")
    proxies = {"http_proxy": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9", "no_proxy": "", "NO_PROXY": ""}
    environment = {**os.environ, **proxies, "ATTUNE_PORT": str(server.server_address[1])}
    healthy = subprocess.run([sys.executable, *script], env=environment, check=False, capture_output=True, text=True)
    server.shutdown()
    server.server_close()
    assert healthy.returncode == 0, healthy.stderr
    assert subprocess.run([sys.executable, *script], env=environment, check=False, capture_output=True).returncode != 0


@pytest.mark.parametrize(("named", "served"), [(None, "bundle-demo-1"), ("mine", "mine")])
def test_the_demo_image_serves_the_bundle_that_is_named_and_else_its_own(tmp_path, named, served):
    (tmp_path / "bundle-demo-1").mkdir()
    attune = tmp_path / "attune"
    attune.write_text('#!/bin/sh\necho "$ATTUNE_BUNDLE" "$@"\n', encoding="utf-8")
    attune.chmod(0o755)
    entry = [word.replace("/srv/bundles", str(tmp_path)) for word in command("ENTRYPOINT")]
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"} | ({"ATTUNE_BUNDLE": str(tmp_path / named)} if named else {})
    said = subprocess.run([*entry, "serve"], env=environment, check=True, capture_output=True, text=True).stdout
    assert said.split() == [str(tmp_path / served), "serve"]
