"""Sums of int8 products are exact on every processor, and take the fast way where it is exact."""

from __future__ import annotations

from pathlib import Path

import pytest

from attune.models.seam.processor import int8_session_entries


def machine(root: Path, flags: str) -> Path:
    (root / "proc").mkdir()
    (root / "proc/cpuinfo").write_text(f"processor\t: 0\nmodel name\t: any\nflags\t\t: fpu {flags}\n\nprocessor\t: 1\nflags\t\t: fpu\n")
    return root


@pytest.mark.parametrize(
    ("flags", "entry"), [("avx2 avx512f avx512_vnni", "0"), ("avx2 avx_vnni", "0"), ("avx2", "1"), ("avx2 avx512f avx512_vnni_not", "1")]
)
def test_the_slow_way_is_taken_only_without_vnni(tmp_path: Path, flags: str, entry: str) -> None:
    assert int8_session_entries(machine(tmp_path, flags)) == {"session.x64quantprecision": entry}


def test_a_machine_that_tells_nothing_is_taken_for_one_without(tmp_path: Path) -> None:
    assert int8_session_entries(tmp_path) == {"session.x64quantprecision": "1"}
