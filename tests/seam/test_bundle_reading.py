"""Reading bundles: refused by name; probes and the basis id."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile

import numpy as np
import pytest

from attune.models.seam.bundle import REQUIRED, BundleInvalid, Probes, basis_id, read_bundle, write_bundle
from attune.models.seam.families_file import write_families
from tests.seam import examples
from tests.seam.bundles import TEMPLATE, contents, forge, probes, replace_file, write

ARRAYS = ("offset", "scale", "worst_weights", "weight_map", "lower", "upper", "vertices")
NUMBERS = ("epsilon", "delta", "confidence", "worst_ratio", "gap", "oracle_calls")
"""Of a certificate."""

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
        (b"\xff", "is not UTF-8"),
        (b"[" * 200_000, "is nested too deeply"),
        (b'{"schema":' * 200_000, "is nested too deeply"),
        (b'{"schema":' + b"9" * 10_000 + b"}", "has a number of more than 300 digits"),
        (b'{"schema": 1, "schema": 2}', "has 'schema' twice"),
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


def claims(name: str, kind: str, size: int) -> bytes:
    """An archive with an array whose header claims more numbers than any memory holds."""
    header = str({"descr": kind, "fortran_order": False, "shape": (size,)}).encode()
    return archive(name, b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)


def holds(name: str, text: bytes) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.frombuffer(text, dtype=np.uint8))
    return archive(name, buffer.getvalue())


def archive(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as opened:
        opened.writestr(name, content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("families.json", b"{}", "families.json .*schema None"),
        ("families.npz", b"PK", "families.npz"),
        ("portfolio.json", b"[]", "portfolio.json holds a list"),
        ("probes.npz", b"", "probes.npz cannot be used"),
        ("probes.npz", b"PK\x03\x04", "probes.npz cannot be used"),
        ("probes.npz", b"nothing", "probes.npz cannot be used"),
        ("probes.npz", claims("texts.npy", "|u1", 10**15), "probes.npz cannot be used"),
        ("probes.npz", holds("texts.npy", b"[" * 200_000), "probes.npz cannot be used: is nested too deeply"),
        ("families.npz", claims("any.npy", "<f8", 10**15), "families.npz: any cannot be read"),
        ("values.npz", claims("members.npy", "|u1", 10**15), "values.npz cannot be read"),
        ("values.npz", holds("members.npy", b"[" * 200_000), "values.npz cannot be read"),
        *[(name, b"[" * 200_000, f"{name} .*nested too deeply") for name in ("families.json", "portfolio.json", "cards.json")],
    ],
)
def test_a_file_that_does_not_parse_is_refused_by_name(tmp_path, name, content, message):
    with pytest.raises(BundleInvalid, match=message):
        read_bundle(replace_file(write(tmp_path), name, content))


@pytest.mark.parametrize("number", [10**400, float("inf")], ids=["whole", "infinite"])
def test_a_number_beyond_all_floats_is_refused_by_file(tmp_path, number):
    families, portfolio = json.loads(contents()["families.json"]), json.loads(contents()["portfolio.json"])
    families["families"][0]["logit_scale"] = number
    with pytest.raises(BundleInvalid, match=r"families\.json .*(logit_scale is inf|more than 300 digits)"):
        read_bundle(write(tmp_path / "families", families__json=json.dumps(families).encode()))
    arrays: dict[str, object] = {name: [] for name in ARRAYS}
    portfolio["certificate"] = {"family": families["default"], "rewards": []} | arrays | dict.fromkeys(NUMBERS, number)
    with pytest.raises(BundleInvalid, match=r"portfolio\.json .*(no number|more than 300 digits)"):
        read_bundle(replace_file(write(tmp_path / "portfolio"), "portfolio.json", json.dumps(portfolio).encode()))


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
