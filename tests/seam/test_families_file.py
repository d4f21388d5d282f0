"""`families.json` and `families.npz`: a round trip, and every kind of damage refused by name."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attune.models.seam.families import Families
from attune.models.seam.families_file import FamiliesInvalid, read_families, write_families
from tests.seam import examples


@pytest.fixture
def files(rng) -> dict[str, bytes]:
    return write_families(examples.families(rng), "vrf")


def behaviour(families: Families) -> list[bytes]:
    """Everything a family computes, of fixed random rows, as bits."""
    rng = np.random.default_rng(3)
    found = [repr((families.names, [families[name].heads for name in families.names])).encode()]
    evidence = families.prior()
    for tie in (False, False, True):
        chosen, rejected, prompt = examples.row(rng), examples.row(rng), examples.row(rng)
        found.append(repr(families.predict(evidence, chosen, rejected, prompt)).encode())
        learned = families.learn(chosen, rejected, prompt, tie=tie)
        evidence = evidence + learned
        found.append(learned.tobytes())
        for name in families.names:
            part = families.part(name, evidence)
            scored = families[name].score(part, rng.normal(size=(3, len(families[name].heads))), prompt)
            found += [scored.scores.tobytes(), scored.stds.tobytes(), families[name].weights(part, None).tobytes()]
            found.append(families[name].sample_weights(part, prompt, np.random.default_rng(1), 4).tobytes())
    return found


def edited(files: dict[str, bytes], change: Any) -> tuple[bytes, bytes]:
    document = json.loads(files["families.json"])
    change(document)
    return json.dumps(document).encode(), files["families.npz"]


def with_arrays(files: dict[str, bytes], **changes: np.ndarray | None) -> tuple[bytes, bytes]:
    """The files with arrays replaced, or removed where None; `micro__mask` stands for `micro/mask`."""
    with np.load(io.BytesIO(files["families.npz"])) as loaded:
        arrays = {name: loaded[name] for name in loaded.files}
    for name, value in changes.items():
        if value is None:
            del arrays[name.replace("__", "/")]
        else:
            arrays[name.replace("__", "/")] = value
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return files["families.json"], buffer.getvalue()


# --- the round trip


def test_a_round_trip_gives_equal_bytes_and_equal_behaviour(rng):
    written = examples.families(rng)
    files = write_families(written, "micro")
    families, default = read_families(files["families.json"], files["families.npz"])
    assert default == "micro"
    assert behaviour(families) == behaviour(Families(written))
    assert write_families([families[name] for name in families.names], default) == files


def test_bytes_do_not_depend_on_how_arrays_lie_in_memory():
    rng = np.random.default_rng(1)
    micro, vrf = examples.micro(rng), examples.vrf(rng)
    turned = replace(vrf, bases=replace(vrf.bases, means=np.asfortranarray(vrf.bases.means)))
    single = replace(micro, logit_scale=np.float32(1.5), log_prior=micro.log_prior.astype(np.float32))
    double = replace(micro, logit_scale=1.5, log_prior=micro.log_prior.astype(np.float32).astype(np.float64))
    assert write_families([vrf, double], "vrf") == write_families([turned, single], "vrf")


def test_masks_survive(rng):
    files = write_families([examples.micro(rng, mask=(True, False, False, True))], "micro")
    families, _ = read_families(files["families.json"], files["families.npz"])
    assert families["micro"].mask.tolist() == [True, False, False, True]


def test_families_without_arrays_can_be_written(rng):
    files = write_families([examples.bradley_terry()], "bradley_terry")
    assert read_families(files["families.json"], files["families.npz"])[0].names == ("bradley_terry",)


# --- refused when written


def test_what_could_not_be_read_is_not_written(rng):
    with pytest.raises(FamiliesInvalid, match="default family 'vrf'"):
        write_families([examples.micro(rng)], "vrf")
    with pytest.raises(FamiliesInvalid, match="names of their own"):
        write_families([examples.micro(rng), examples.micro(rng)], "micro")
    with pytest.raises(FamiliesInvalid, match="without '/'"):
        write_families([replace(examples.micro(rng), name="a/b")], "a/b")


def test_a_family_without_a_format_is_named(rng):
    class Stranger:
        name, heads, evidence_size = "stranger", ("a",), 0

    with pytest.raises(FamiliesInvalid, match="'stranger' is a Stranger"):
        write_families([Stranger()], "stranger")


# --- refused when read: the document


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (b"", "families.json is not JSON"),
        (b"{", "families.json is not JSON"),
        (b"\xff\xfe", "families.json is not UTF-8: byte 0xff"),
        (b"[]", "families.json holds a list"),
        (b"{}", "schema None"),
        (b'{"schema": 1}', "schema 1"),
        (b'{"schema": 2}', "'families'"),
        (b'{"schema": 2, "families": 3}', "'families'"),
        (b'{"schema": 2, "families": [{}]}', "'name'"),
        (b'{"schema": 2, "families": [], "default": "vrf"}', "default family 'vrf'"),
    ],
)
def test_a_document_that_is_none_is_refused(files, document, message):
    with pytest.raises(FamiliesInvalid, match=message):
        read_families(document, files["families.npz"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["families"][1].pop("heads"), "'micro' lacks 'heads'"),
        (lambda d: d["families"][1].pop("cap"), "'micro' lacks 'cap'"),
        (lambda d: d["families"][2].pop("tau"), "'vrf' lacks 'tau'"),
        (lambda d: d["families"][0].pop("logit_scale"), "'bradley_terry' lacks 'logit_scale'"),
        (lambda d: d["families"][0].pop("kind"), "'bradley_terry' lacks 'kind'"),
        (lambda d: d["families"][0].pop("evidence_size"), "'bradley_terry' lacks 'evidence_size'"),
        (lambda d: d["families"][0].update(kind="oracle"), "'bradley_terry': kind 'oracle'"),
        (lambda d: d["families"][1].update(evidence_size=5), "'micro' reads 4 doubles of evidence; its entry says 5"),
        (lambda d: d["families"][1].update(eta="fast"), "'micro': .*fast"),
        (lambda d: d["families"][1].update(eta=-1.0), "'micro': eta is -1"),
        (lambda d: d["families"][2].update(tau=0.0), "'vrf': .*tau"),
        (lambda d: d["families"][2].update(logit_scale=None), "'vrf': "),
        (lambda d: d["families"][2].update(heads=["one"]), "'vrf': array base_means"),
        (lambda d: d["families"][1].update(heads=["a", "b", "c", "a"]), "'micro': heads"),
        (lambda d: d["families"][1].update(name="vrf"), "names of their own"),
        (lambda d: d["families"][1].update(name="other"), "'other' lacks 'log_prior'"),
        (lambda d: d.update(default="gone"), "default family 'gone'"),
        (lambda d: d.pop("default"), "default family None"),
    ],
)
def test_a_damaged_entry_is_refused_with_the_family_and_the_field(files, change, message):
    with pytest.raises(FamiliesInvalid, match=message):
        read_families(*edited(files, change))


# --- refused when read: the arrays


@pytest.mark.parametrize(
    "name", ["micro/log_prior", "micro/mask", "vrf/base_means", "vrf/base_stds", "vrf/vote", "vrf/precision", "vrf/scale"]
)
def test_a_missing_array_is_named(files, name):
    family, array = name.split("/")
    with pytest.raises(FamiliesInvalid, match=f"'{family}' lacks '{array}'"):
        read_families(*with_arrays(files, **{name.replace("/", "__"): None}))


@pytest.mark.parametrize("layer", ["layer0_weight", "layer1_weight", "layer1_bias"])
def test_a_missing_layer_is_noticed(files, layer):
    with pytest.raises(FamiliesInvalid, match=r"'vrf'.*(layer|vote)"):
        read_families(*with_arrays(files, **{f"vrf__{layer}": None}))


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("micro/log_prior", np.zeros(3)),
        ("micro/log_prior", np.zeros((4, 1))),
        ("micro/log_prior", np.full(4, np.nan)),
        ("micro/mask", np.ones(5)),
        ("micro/mask", np.zeros(4)),
        ("vrf/base_means", np.zeros((5, 3))),
        ("vrf/base_means", np.zeros((4, 2))),
        ("vrf/base_means", np.full((4, 3), np.inf)),
        ("vrf/base_stds", np.zeros((4, 3))),
        ("vrf/vote", np.zeros((3, 6))),
        ("vrf/vote", np.full((3, 7), np.nan)),
        ("vrf/precision", np.zeros((3, 6))),
        ("vrf/precision_bias", np.zeros(())),
        ("vrf/layer0_bias", np.zeros(1)),
        ("vrf/layer1_weight", np.zeros((7, 9))),
        ("vrf/scale", np.array(-1.0)),
        ("vrf/scale", np.zeros(2)),
        ("vrf/vote", np.array([["a"]])),
        ("micro/mask", np.array([1j, 0, 0, 0])),
    ],
)
@pytest.mark.filterwarnings("ignore:Casting complex")
def test_a_damaged_array_is_refused_by_name(files, name, array):
    family, short = name.split("/")
    with pytest.raises(FamiliesInvalid, match=f"{family}.*{short}"):
        read_families(*with_arrays(files, **{name.replace("/", "__"): array}))


def test_objects_are_never_unpickled(files):
    document, arrays = with_arrays(files, micro__mask=np.array([{"a": 1}] * 4, dtype=object))
    with pytest.raises(FamiliesInvalid, match=r"micro/mask cannot be read.*allow_pickle"):
        read_families(document, arrays)


@pytest.mark.parametrize("content", [b"", b"PK", b"no archive at all", b"\x93NUMPY\x01\x00"])
def test_a_file_that_is_no_archive_is_refused(files, content):
    with pytest.raises(FamiliesInvalid, match=r"families\.npz: the archive cannot be read"):
        read_families(files["families.json"], content)


@pytest.mark.slow
@settings(max_examples=300)
@given(st.integers(0, 10**6), st.integers(1, 255))
def test_a_flipped_byte_is_refused_or_harmless(position, change):
    written = examples.families(np.random.default_rng(2))
    files = write_families(written, "vrf")
    content = bytearray(files["families.npz"])
    content[position % len(content)] ^= change
    try:
        families, _ = read_families(files["families.json"], bytes(content))
    except FamiliesInvalid:
        return
    assert behaviour(families) == behaviour(Families(written))  # the archive's dates and flags carry nothing


@settings(max_examples=min(100, settings.default.max_examples))
@given(st.integers(0, 10**6))
def test_a_cut_file_is_refused(length):
    files = write_families(examples.families(np.random.default_rng(2)), "vrf")
    with pytest.raises(FamiliesInvalid):
        read_families(files["families.json"], files["families.npz"][: length % len(files["families.npz"])])
