"""The decision record: what goes in comes out, to the last bit of every float."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from attune.service.usecases.decision_record import DecisionRecord, KeptCandidate, RecordUnreadable, Routing, digest_of, keep, pack, unpack

ROUTING = Routing("sample", 2**62 + 1, 0.05, 256, ("warm", "concise"), {"warm": 0.4, "concise": 0.6}, 0.4, 0.4, {"warm": (0.1, 0.2)})


def record(rows: list[np.ndarray], prompt: np.ndarray) -> DecisionRecord:
    candidates = tuple(KeptCandidate("warm", "text", "stop", 0.1, 0.2, 3, 4, {"b_features": row, "a_rewards": row[:1]}) for row in rows)
    return DecisionRecord(
        1.5, "bundle", "basis", "vrf", "applied", 3, "prompt", None, digest_of("prompt"), ROUTING, {"p": prompt}, candidates
    )


FLOATS = arrays(np.float32, st.integers(1, 40), elements=st.floats(width=32))


@given(st.lists(arrays(np.float32, 5, elements=st.floats(width=32)), max_size=4), FLOATS)
def test_unpack_returns_what_pack_was_given(rows: list[np.ndarray], prompt: np.ndarray):
    given_record = record(rows, prompt)
    found = unpack(pack(given_record))
    assert replace(found, prompt_outputs={}, candidates=()) == replace(given_record, prompt_outputs={}, candidates=())
    for name, row in given_record.prompt_outputs.items():
        assert found.prompt_outputs[name].tobytes() == row.tobytes()
    for one, other in zip(found.candidates, given_record.candidates, strict=True):
        assert replace(one, outputs={}) == replace(other, outputs={})
        assert {name: row.tobytes() for name, row in one.outputs.items()} == {name: row.tobytes() for name, row in other.outputs.items()}


@pytest.mark.parametrize("damage", [b"", b"\x02rest", b"\x01not zlib"])
def test_a_record_of_another_version_or_damaged_is_refused(damage: bytes):
    with pytest.raises(RecordUnreadable):
        unpack(damage)


def test_a_record_cut_short_is_refused():
    with pytest.raises(RecordUnreadable, match="damaged"):
        unpack(pack(record([np.ones(5, dtype=np.float32)], np.ones(2, dtype=np.float32)))[:-9])


def test_what_is_kept_of_a_row_does_not_hold_its_batch():
    batch = np.zeros((64, 8), dtype=np.float32)
    kept = keep({"a": batch[3], "b": batch[4]}, ["a"])
    assert set(kept) == {"a"}
    assert kept["a"].base is None
