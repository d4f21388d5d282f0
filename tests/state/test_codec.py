"""What is packed is read back to the bit, in as few bytes as that allows, and damage is noticed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attune.service.state.codec import (
    ENTRY_HEAD,
    EventValue,
    event_digest,
    pack_event_id,
    pack_vector,
    unpack_entry,
    unpack_event_id,
    unpack_vector,
)


@pytest.mark.parametrize(
    ("place", "number", "taken_back"),
    [
        (1, 1, False),
        (2**30 - 1, 2**30 - 1, False),
        (2**30, None, False),
        (2**31 - 1, None, False),
        (2**31, None, True),
        (2**32 - 1, None, True),
    ],
)
def test_where_an_event_stands_is_read_in_one_place(place: int, number: int | None, taken_back: bool) -> None:
    known = EventValue.unpack(b"8 bytes." + place.to_bytes(4, "little"))
    assert (known.digest, known.number, known.taken_back) == (b"8 bytes.", number, taken_back)
    moved = EventValue.unpack(known.without_place())
    assert (moved.digest, moved.taken_back, moved.place) == (b"8 bytes.", taken_back, 2**31 * taken_back)


any_number = st.floats(allow_nan=False, allow_infinity=False, width=64)
half = st.floats(allow_nan=False, allow_infinity=False, width=16)
step = st.integers(-(2**31) + 1, 2**31 - 1).map(lambda steps: steps / 2**24)


@given(
    evidence=st.one_of(*(st.lists(kind, min_size=1, max_size=40) for kind in (any_number, half, step))),
    epoch=st.integers(-(2**40), 2**40),
    observed_s=st.floats(0, 1e12),
    behind=st.binary(max_size=5),
)
def test_a_vector_is_read_back_to_the_bit(evidence: list[float], epoch: int, observed_s: float, behind: bytes) -> None:
    given = np.array(evidence)
    found, rest = unpack_vector(pack_vector(epoch, observed_s, given) + behind)
    assert (found.epoch, found.observed_s, rest) == (epoch, observed_s, behind)
    assert found.evidence.tobytes() == (given + 0.0).tobytes()


@pytest.mark.parametrize(
    ("evidence", "size"),
    [
        ([0.1] * 96, 11 + 8 * 96),  # no step of the grid: doubles
        ([1.5, -0.25] * 48, 11 + 2 * 96),  # float16
        ([2.0**-24 + 1.0] * 96, 11 + 12 * (1 + 26)),  # 25 bits and a sign, eight by eight
        ([2.0**-24 + 1.0] * 8 + [0.0] * 88, 11 + 12 + 26),
    ],
)
def test_numbers_take_as_few_bytes_as_they_need(evidence: list[float], size: int) -> None:
    assert len(pack_vector(0, 1.8e9, np.array(evidence))) == size
    assert len(pack_vector(1, 1.8e9, np.array(evidence))) == size + 8


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=64))
def test_an_event_id_is_read_back(event_id: str) -> None:
    assert unpack_event_id(pack_event_id(event_id) + b"behind") == (event_id, b"behind")


@pytest.mark.parametrize(
    ("event_id", "size"),
    [
        ("01a218a4-575b-7cf8-bc6e-7f63cd43dbf9", 17),
        ("01A218A4-575B-7CF8-BC6E-7F63CD43DBF9", 38),
        ("x" * 36, 38),
        ("x" * 256, 258),
    ],
)
def test_a_uuid_takes_its_sixteen_bytes(event_id: str, size: int) -> None:
    packed = pack_event_id(event_id)
    assert len(packed) == size
    assert unpack_event_id(packed) == (event_id, b"")


def test_event_ids_are_told_apart_by_their_hash() -> None:
    assert len({event_digest(f"event-{n}") for n in range(10_000)}) == 10_000
    assert {len(event_digest(event_id)) for event_id in ("a", "é" * 100)} == {12}


@pytest.mark.parametrize("packed", [b"", b"c", b"q" * 40, b"c" + b"\0" * (ENTRY_HEAD - 1) + b"\0short", b"c" + b"\0" * 40])
def test_a_damaged_entry_is_noticed(packed: bytes) -> None:
    if packed == b"c" + b"\0" * 40:
        packed = packed[:28]  # an event id, and half a vector
    with pytest.raises(ValueError, match="damaged"):
        unpack_entry(packed)


def test_a_vector_that_was_cut_is_noticed() -> None:
    for evidence in ([0.1] * 9, [1.5] * 9, [2.0**-24 + 1.0] * 9):
        packed = pack_vector(7, 1.0, np.array(evidence))
        for end in range(len(packed)):
            with pytest.raises(ValueError, match=r"damaged|ends after|smaller than"):
                unpack_vector(packed[:end])
