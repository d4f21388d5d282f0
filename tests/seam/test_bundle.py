"""Writing bundles: whole or not at all, named by everything in them."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest

from attune.models.seam.bundle import PORTFOLIO, REQUIRED, BundleInvalid, read_bundle, read_manifest, sha256_of, write_bundle
from tests.seam import examples
from tests.seam.bundles import METADATA, TEMPLATE, contents, probes, write

# --- writing


def test_a_bundle_that_was_written_can_be_read(tmp_path):
    path = write(tmp_path)
    bundle = read_bundle(path)
    assert path == tmp_path / f"bundle-{bundle.id}"
    assert bundle.id.startswith("demo-")
    assert (bundle.basis, bundle.template, bundle.default_family) == ("b" * 12, TEMPLATE, "vrf")
    assert bundle.families.names == examples.all_families(np.random.default_rng(4)).names
    assert bundle.portfolio.names == ("a", "b")
    assert bundle.scorer.read_bytes() == b"a graph"
    assert bundle.text_encoder().prompt("w1").input_ids == (0, 5, 1)
    assert (bundle.probes.prompts, bundle.probes.responses, bundle.probes.tolerance) == (("how?", "wieso ☃"), ("so", ""), 1e-4)
    for name, value in probes().answers.items():
        assert bundle.probes.answers[name].dtype == np.float32
        assert np.array_equal(bundle.probes.answers[name], value)
    assert {name: bundle.manifest[name] for name in METADATA} == METADATA


def test_the_manifest_lists_every_file_with_its_hash_and_size(tmp_path):
    path = write(tmp_path, extra=b"12345")
    files = read_manifest(path)["files"]
    assert set(files) == {*REQUIRED, PORTFOLIO, "extra"}
    assert files["extra"] == {"sha256": hashlib.sha256(b"12345").hexdigest(), "bytes": 5}
    assert sorted(child.name for child in path.iterdir()) == sorted([*files, "manifest.json"])


def test_files_may_lie_in_folders_and_be_copied_from_elsewhere(tmp_path):
    (tmp_path / "adapter").write_bytes(b"weights")
    path = write_bundle(
        tmp_path / "new" / "root",
        "demo",
        {**contents(), "members/base/adapter.safetensors": tmp_path / "adapter"},
        basis="b",
        template=TEMPLATE,
        metadata={},
    )
    assert (path / "members" / "base" / "adapter.safetensors").read_bytes() == b"weights"
    assert read_bundle(path).manifest["files"]["members/base/adapter.safetensors"]["sha256"] == sha256_of(tmp_path / "adapter")


def test_others_may_read_a_bundle(tmp_path):
    assert write(tmp_path).stat().st_mode & 0o777 == 0o755


def test_equal_inputs_give_an_equal_directory(tmp_path):
    first, second = write(tmp_path / "one"), write(tmp_path / "two")
    assert first.name == second.name
    assert (first / "manifest.json").read_bytes() == (second / "manifest.json").read_bytes()


def test_writing_the_same_bundle_again_keeps_the_one_that_is_there(tmp_path):
    path = write(tmp_path)
    before = (path / "scorer.onnx").stat().st_ino
    assert write(tmp_path) == path
    assert (path / "scorer.onnx").stat().st_ino == before
    assert list(tmp_path.iterdir()) == [path]


def test_every_input_has_a_part_in_the_name(tmp_path):
    names = {
        write(tmp_path).name,
        write(tmp_path, name="other").name,
        write(tmp_path, basis="c" * 12).name,
        write(tmp_path, metadata={**METADATA, "trained_on": "something"}).name,
        write(tmp_path, scorer__onnx=b"another graph").name,
        write(tmp_path, extra=b"").name,
    }
    assert len(names) == 6


def test_metadata_with_keys_that_json_turns_into_strings_still_gives_a_bundle(tmp_path):
    bundle = read_bundle(write(tmp_path, metadata={"by_count": {10: 0.9, 9: 0.8}, "pair": (1, 2), "loss": float("nan")}))
    assert bundle.manifest["by_count"] == {"10": 0.9, "9": 0.8}
    assert bundle.manifest["pair"] == [1, 2]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2, 8])
def test_concurrent_writers_of_one_bundle_agree(tmp_path, workers):
    barrier = Barrier(workers)

    def writer(root: Path) -> Path:
        barrier.wait(timeout=30)
        return write(root)

    for attempt in range(8):
        root = tmp_path / str(attempt)
        with ThreadPoolExecutor(workers) as pool:
            paths = set(pool.map(writer, [root] * workers))
        assert list(root.iterdir()) == list(paths)
        read_bundle(paths.pop())


RACE = """
import sys
from pathlib import Path
from tests.seam.test_bundle import write

root, races = Path(sys.argv[1]), []

def first(event, arguments):
    # Called by the interpreter just before a rename: the moment at which another writer of the same bundle is faster.
    if event == "os.rename" and not races:
        races.append(arguments)
        races.append(write(root))

sys.addaudithook(first)
assert write(root) == races[1]
"""


@pytest.mark.slow
def test_a_writer_that_is_overtaken_at_the_last_moment_agrees(tmp_path):
    finished = subprocess.run(
        [sys.executable, "-c", RACE, str(tmp_path)], cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=120, check=False
    )
    assert finished.returncode == 0, finished.stderr
    assert [read_bundle(path).path for path in tmp_path.iterdir()] == list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"tokenizer__json": Path("/nonexistent/tokenizer.json")}, OSError),  # after other files were written
        ({"tokenizer__json": Path("/")}, OSError),
        ({"metadata": {"model": object()}}, TypeError),  # after all of them were
        ({"metadata": {"id": "mine"}}, BundleInvalid),
        ({"metadata": {"basis": "mine"}}, BundleInvalid),
        ({"metadata": {"files": {}}}, BundleInvalid),
        ({"name": "a-b"}, BundleInvalid),
        ({"name": "../demo"}, BundleInvalid),
        ({"name": ""}, BundleInvalid),
        ({"name": "démo"}, BundleInvalid),
    ],
)
def test_a_write_that_fails_leaves_nothing(tmp_path, changes, error):
    with pytest.raises(error):
        write(tmp_path, **changes)
    assert list(tmp_path.iterdir()) == []


class Interrupting:
    """A file that is interrupted when it is about to be copied."""

    def __fspath__(self) -> str:
        raise KeyboardInterrupt


def test_an_interrupted_write_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, tokenizer__json=Interrupting())  # the last file by name: all others are there
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", REQUIRED)
def test_a_bundle_without_a_required_file_is_not_written(tmp_path, missing):
    files = contents()
    del files[missing]
    with pytest.raises(BundleInvalid, match=f"'demo' lacks {missing}"):
        write_bundle(tmp_path, "demo", files, basis="b", template=TEMPLATE, metadata={})
    assert list(tmp_path.iterdir()) == []


BAD_PATHS = ["../escape", "/absolute", "a/../../escape", "", ".", "./extra", "a//b", "manifest.json", "./manifest.json", "a\0b"]


@pytest.mark.parametrize("path", BAD_PATHS)
def test_a_path_that_leaves_the_bundle_is_not_written(tmp_path, path):
    root = tmp_path / "root"
    with pytest.raises(BundleInvalid, match="is not a path inside a bundle"):
        write_bundle(root, "demo", {**contents(), path: b"x"}, basis="b", template=TEMPLATE, metadata={})
    assert list(root.iterdir()) == []
    assert list(tmp_path.iterdir()) == [root]
