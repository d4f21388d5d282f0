"""The command line from the outside: help, version, settings, attached commands, refusals and exit codes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import pytest

from attune import __version__
from attune.service.setting_rows import settings_table
from attune.service.state.data_dir import Lock, prepare
from tests.project.tree import ROOT
from tests.tiny_bundle import write_tiny_bundle

BROKEN = "import a_library_that_is_not_there\n"
WORKING = """
import typer
app = typer.Typer()
sub = typer.Typer()
app.add_typer(sub, name="weigh", help="Weigh things.")
@sub.command("one")
def one(grams: int = 3):
    print(f"{grams} g")
@sub.command("two")
def two():
    raise typer.Exit(4)
@app.command("serve")
def serve():
    print("not the server")
"""


def attune(*arguments: str, path: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ATTUNE_")}
    search = os.pathsep.join(part for part in (path, str(ROOT / "src"), str(ROOT)) if part)
    return subprocess.run(
        [sys.executable, "-m", "attune.service", *arguments],
        env=inherited | {"PYTHONPATH": search, "NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "160"} | environment,
        cwd=path or ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.fixture
def attach(tmp_path):
    """Returns a function that makes a package with commands visible to a new interpreter, and returns where it lies."""

    def write(source: str) -> str:
        (tmp_path / "weighing.py").write_text(source, encoding="utf-8")
        info = tmp_path / "weighing-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: weighing\nVersion: 1.0\n", encoding="utf-8")
        (info / "entry_points.txt").write_text("[attune.commands]\nweighing = weighing:app\n", encoding="utf-8")
        return str(tmp_path)

    return write


def test_version_and_help_are_there():
    assert attune("--version").stdout == f"attune {__version__}\n"
    shown = attune("--help")
    assert shown.returncode == 0
    assert "serve" in shown.stdout
    assert "settings" in shown.stdout


def test_settings_prints_the_table_of_the_reference():
    printed = attune("settings").stdout.strip()
    assert printed == settings_table()
    assert printed in (ROOT / "docs" / "reference" / "settings.md").read_text(encoding="utf-8")


def test_settings_are_printed_for_programs_with_what_the_table_has():
    rows = json.loads(attune("settings", "--json").stdout)["settings"]
    assert [f"| `{row['variable']}` | " in settings_table() for row in rows] == [True] * len(rows)
    assert len(rows) == settings_table().count("| `ATTUNE_")


def test_settings_in_force_are_printed_for_people_and_programs():
    assert "ATTUNE_PORT  9  (environment)" in attune("settings", "--in-force", ATTUNE_PORT="9").stdout.splitlines()
    rows = json.loads(attune("settings", "--in-force", "--json", ATTUNE_PORT="9").stdout)["settings"]
    assert {"variable": "ATTUNE_PORT", "value": "9", "source": "environment"} in rows
    refused = attune("settings", "--in-force", ATTUNE_PROT="9")
    assert refused.returncode == 2
    assert "did you mean ATTUNE_PORT" in refused.stderr


def test_commands_of_an_attached_package_stand_beside_the_own_ones(attach):
    path = attach(WORKING)
    assert "weigh" in attune("--help", path=path).stdout
    assert attune("weigh", "one", "--grams", "5", path=path).stdout == "5 g\n"
    assert attune("weigh", "two", path=path).returncode == 4


def test_an_attached_package_cannot_take_the_place_of_an_own_command(attach):
    assert "not the server" not in attune("serve", "--help", path=attach(WORKING)).stdout


def test_a_broken_package_is_an_error_of_its_commands_alone(attach):
    path = attach(BROKEN)
    assert attune("settings", path=path).returncode == 0
    assert attune("--version", path=path).stderr == ""
    used = attune("weigh", path=path)
    assert used.returncode == 1
    assert "no command `weigh`" in used.stderr
    assert "the commands of `weighing:app` cannot be loaded: this needs a_library_that_is_not_there, which is not installed" in used.stderr
    shown = attune("--help", path=path)
    assert shown.returncode == 0
    assert "weighing:app" in shown.stderr


def test_an_unknown_setting_stops_the_start_with_exit_code_2():
    run = attune("serve", ATTUNE_PROT="1")
    assert run.returncode == 2
    assert "ATTUNE_PROT (environment): no such setting; did you mean ATTUNE_PORT?" in run.stderr
    assert "Traceback" not in run.stderr


def test_a_port_in_use_is_told_at_once_with_exit_code_4():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        run = attune("serve", "--port", str(port))
    assert run.returncode == 4
    assert f"cannot listen on 127.0.0.1 port {port}" in run.stderr
    assert "--port" in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_data_directory_in_use_is_told_at_once_as_a_sentence(tmp_path, workers: str):
    lock = Lock(prepare(tmp_path) / "attune.lock")
    assert lock.take()
    lock.note("4711")
    try:
        bundle = str(write_tiny_bundle(tmp_path / "bundles"))
        run = attune("serve", "--port", "0", "--data-dir", str(tmp_path), "--bundle", bundle, ATTUNE_WORKERS=workers)
    finally:
        lock.close()
    assert run.returncode == 3
    assert run.stderr == (
        f"attune: cannot start\n  the data directory {tmp_path} is used by the Attune with process id 4711; "
        "stop it or set ATTUNE_DATA_DIR\n"
    )
    assert run.stdout == ""


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize(
    ("file", "code", "said"),
    [("data", 2, "ATTUNE_DATA_DIR ({}): cannot be a folder: "), ("data/redis", 3, "the data directory {} cannot be used: ")],
)
def test_a_data_directory_that_cannot_be_written_to_is_told_as_a_sentence(tmp_path, workers: str, file: str, code: int, said: str):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    bundle = str(write_tiny_bundle(tmp_path / "bundles"))
    run = attune("serve", "--port", "0", "--data-dir", str(tmp_path / "data"), "--bundle", bundle, ATTUNE_WORKERS=workers)
    assert run.returncode == code
    assert run.stderr.startswith("attune: cannot start")
    assert "  " + said.format(tmp_path / file) in run.stderr


def test_no_bundle_stops_the_start_with_the_way_to_make_one(tmp_path):
    run = attune("serve", "--port", "0", "--data-dir", str(tmp_path))
    assert run.returncode == 2
    assert "`attune bundle demo` makes the demo's" in run.stderr
    assert "Traceback" not in run.stderr
