"""The bundle directory: written whole or not at all, named by its contents, refused with the file named."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest

from models.seam.bundle import REQUIRED, BundleInvalid, Probes, basis_id, read_bundle, read_manifest, sha256_of, write_bundle
from models.seam.families_file import write_families
from models.seam.portfolio import Portfolio, PortfolioMember, write_portfolio
from models.seam.text import TextTemplate
from tests.seam import examples
from tests.seam.test_text import word_tokenizer

TEMPLATE = TextTemplate((0,), (1,), (1,), (1,), max_tokens=32, max_prompt_tokens=8, max_context_tokens=4)
METADATA: dict[str, Any] = {"trained_on": "nothing", "accuracy": {"vrf": 0.75}, "steps": [1, 2]}


def probes() -> Probes:
    answers = {"micro_rewards": np.arange(8, dtype=np.float32).reshape(2, 4), "micro_gate": np.zeros((2, 4), dtype=np.float32)}
    return Probes(("how?", "wieso ☃"), ("so", ""), answers, 1e-4)


def contents() -> dict[str, bytes | Path]:
    rng = np.random.default_rng(4)
    families = examples.families(rng)
    values = {family.name: rng.normal(size=(2, len(family.heads))) for family in families}
    members = tuple(PortfolioMember(name, "one", {"head0": 1.0}) for name in ("a", "b"))
    return {
        "scorer.onnx": b"a graph",
        "tokenizer.json": word_tokenizer().to_str().encode(),
        **write_families(families, "vrf"),
        "portfolio.json": write_portfolio(Portfolio(members, values, {name: np.abs(array) for name, array in values.items()}, None)),
        "probes.npz": probes().to_bytes(),
    }


def write(root: Path, *, name: str = "demo", basis: str = "b" * 12, metadata: dict[str, Any] | None = None, **files: bytes | Path) -> Path:
    """Writes the example bundle; `scorer__onnx` stands for the file `scorer.onnx`."""
    changed = contents() | {path.replace("__", "."): content for path, content in files.items()}
    return write_bundle(root, name, changed, basis=basis, template=TEMPLATE, metadata=METADATA if metadata is None else metadata)


def forge(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Changes a manifest and signs it again, as a writer with a fault would."""
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["id"]
    change(manifest)
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()[:12]
    (path / "manifest.json").write_text(json.dumps({"id": f"{manifest.get('name')}-{digest}", **manifest}))
    return path


def replace_file(path: Path, name: str, content: bytes) -> Path:
    """Changes a file of a bundle and enters its new hash."""
    (path / name).write_bytes(content)
    return forge(path, lambda manifest: manifest["files"][name].update(sha256=hashlib.sha256(content).hexdigest()))


# --- writing


def test_a_bundle_that_was_written_can_be_read(tmp_path):
    path = write(tmp_path)
    bundle = read_bundle(path)
    assert path == tmp_path / f"bundle-{bundle.id}"
    assert bundle.id.startswith("demo-")
    assert (bundle.basis, bundle.template, bundle.default_family) == ("b" * 12, TEMPLATE, "vrf")
    assert bundle.families.names == ("bradley_terry", "micro", "vrf")
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
    assert set(files) == {*REQUIRED, "extra"}
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


# --- reading


def test_a_directory_without_a_manifest_is_no_bundle(tmp_path):
    path = write(tmp_path)
    (path / "manifest.json").unlink()
    for candidate in (path, tmp_path / "nothing", path / "scorer.onnx"):
        with pytest.raises(BundleInvalid, match=r"has no manifest\.json"):
            read_bundle(candidate)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not JSON"),
        (b'{"schema": 1', "is not JSON"),
        (b"\xff", "is not JSON"),
        (b"[]", "holds a list"),
        (b'{"schema": 2}', "has schema 2"),
    ],
)
def test_a_corrupt_manifest_is_refused(tmp_path, content, message):
    path = write(tmp_path)
    (path / "manifest.json").write_bytes(content)
    with pytest.raises(BundleInvalid, match=rf"manifest\.json of {path.name} {message}"):
        read_bundle(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda manifest: manifest.pop("basis"), "lacks basis"),
        (lambda manifest: manifest.pop("template"), "lacks template"),
        (lambda manifest: manifest.pop("name"), "lacks name"),
        (lambda manifest: manifest.pop("files"), "lacks files"),
        (lambda manifest: manifest.update(files=[]), "needs 'files'"),
        (lambda manifest: manifest["files"]["scorer.onnx"].pop("sha256"), "needs 'files'"),
        (lambda manifest: manifest["files"].pop("probes.npz"), "lists no probes.npz"),
        (lambda manifest: manifest.update(template=[]), "template of manifest.json cannot be used"),
        (lambda manifest: manifest["template"].update(max_tokens=4), "template of manifest.json cannot be used: max_tokens 4"),
        (lambda manifest: manifest["template"].update(infix=[]), "template of manifest.json cannot be used"),
    ],
)
def test_a_manifest_that_lacks_something_is_refused_by_name(tmp_path, change, message):
    with pytest.raises(BundleInvalid, match=message):
        read_bundle(forge(write(tmp_path), change))


def test_a_manifest_that_was_changed_by_hand_is_refused(tmp_path):
    path = write(tmp_path)
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, "basis": "c" * 12}))
    with pytest.raises(BundleInvalid, match=f"its id is '{manifest['id']}', its contents give 'demo-"):
        read_bundle(path)


def test_a_manifest_may_be_formatted_anew(tmp_path):
    path = write(tmp_path)
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(dict(reversed(manifest.items()))))
    assert read_bundle(path).id == manifest["id"]


@pytest.mark.parametrize("name", REQUIRED)
def test_a_changed_file_is_refused_by_name(tmp_path, name):
    path = write(tmp_path)
    with (path / name).open("ab") as stream:
        stream.write(b" ")
    with pytest.raises(BundleInvalid, match=f"{name} has sha256 [0-9a-f]{{12}}…; the manifest says"):
        read_bundle(path)


@pytest.mark.parametrize("name", [*REQUIRED, "members/adapter"])
def test_a_missing_file_is_refused_by_name(tmp_path, name):
    path = write_bundle(tmp_path, "demo", {**contents(), "members/adapter": b"x"}, basis="b", template=TEMPLATE, metadata={})
    (path / name).unlink()
    with pytest.raises(BundleInvalid, match=f"{name} is missing"):
        read_bundle(path)


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "members/../../secret", "./scorer.onnx"])
def test_a_manifest_that_points_outside_is_refused_before_anything_is_opened(tmp_path, name):
    path = write(tmp_path)
    (tmp_path / "secret").write_bytes(b"secret")
    entry = {"sha256": hashlib.sha256(b"secret").hexdigest(), "bytes": 6}
    with pytest.raises(BundleInvalid, match="is not a path inside a bundle"):
        read_bundle(forge(path, lambda manifest: manifest["files"].update({name: entry})))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("families.json", b"{}", "families.json .*schema None"),
        ("families.npz", b"PK", "families.npz"),
        ("portfolio.json", b"[]", "portfolio.json holds a list"),
        ("probes.npz", b"", "probes.npz cannot be used"),
        ("probes.npz", b"PK\x03\x04", "probes.npz cannot be used"),
        ("probes.npz", b"nothing", "probes.npz cannot be used"),
    ],
)
def test_a_file_that_does_not_parse_is_refused_by_name(tmp_path, name, content, message):
    with pytest.raises(BundleInvalid, match=message):
        read_bundle(replace_file(write(tmp_path), name, content))


def test_a_portfolio_of_other_families_is_refused(tmp_path):
    files = write_families([examples.bradley_terry()], "bradley_terry")
    portfolio = json.loads(contents()["portfolio.json"])
    del portfolio["members"][0]["values"]["bradley_terry"]
    path = write(tmp_path, families__json=files["families.json"], families__npz=files["families.npz"])
    with pytest.raises(BundleInvalid, match=r"portfolio\.json: values of family 'bradley_terry'"):
        read_bundle(replace_file(path, "portfolio.json", json.dumps(portfolio).encode()))


def test_what_a_killed_writer_leaves_is_no_bundle(tmp_path):
    staging = tmp_path / ".writing-killed"
    write(tmp_path).rename(staging)
    (staging / "manifest.json").unlink()
    with pytest.raises(BundleInvalid, match="cut short"):
        read_bundle(staging)
    assert read_bundle(write(tmp_path)).id.startswith("demo-")


# --- probes


@pytest.mark.parametrize(
    ("prompts", "responses", "answer", "tolerance", "message"),
    [
        (("a", "b"), ("c",), np.zeros((2, 1)), 1e-4, "2 prompts and 1 responses"),
        ((), (), np.zeros((0, 1)), 1e-4, "0 prompts"),
        (("a", "b"), ("c", "d"), np.zeros((3, 1)), 1e-4, "answer out"),
        (("a", "b"), ("c", "d"), np.zeros(()), 1e-4, "answer out"),
        (("a", "b"), ("c", "d"), np.array([[0.0], [np.nan]]), 1e-4, "answer out"),
        (("a", "b"), ("c", "d"), np.zeros((2, 1)), float("nan"), "tolerance"),
        (("a", "b"), ("c", "d"), np.zeros((2, 1)), float("inf"), "tolerance"),
        (("a", "b"), ("c", "d"), np.zeros((2, 1)), -1.0, "tolerance"),
    ],
)
def test_probes_that_would_prove_nothing_are_refused(prompts, responses, answer, tolerance, message):
    with pytest.raises(ValueError, match=message):
        Probes(prompts, responses, {"out": answer.astype(np.float32)}, tolerance)


def test_probes_give_equal_bytes(tmp_path):
    assert probes().to_bytes() == probes().to_bytes() == Probes.from_bytes(probes().to_bytes()).to_bytes()


# --- basis


def test_a_basis_is_named_by_every_part_and_not_by_their_order():
    parts = {"trunk": b"1", "tokenizer": b"2", "template": b"3"}
    name = basis_id(parts)
    assert len(name) == 12
    assert int(name, 16) >= 0
    assert basis_id(dict(reversed(parts.items()))) == name
    others = [
        *({**parts, part: b"other"} for part in parts),
        *({other: content for other, content in parts.items() if other != part} for part in parts),
        {**parts, "heads": b""},
        {"trunk": b"2", "tokenizer": b"1", "template": b"3"},
        {"trunktokenizer": b"12", "template": b"3"},
        {"trunk": b"1tokenizer2", "template": b"3"},
    ]
    assert len({name, *map(basis_id, others)}) == 1 + len(others)


def test_the_basis_of_known_parts_is_known():
    # sha256 over, by name, sha256(name) and sha256(content): users' state is kept under this name, so it may never change.
    expected = hashlib.sha256()
    for text in (b"a", b"1", b"b", b"2"):
        expected.update(hashlib.sha256(text).digest())
    assert basis_id({"b": b"2", "a": b"1"}) == expected.hexdigest()[:12]
    assert basis_id({"b": b"2", "a": b"1"}) == "3cc1a5f59376"
