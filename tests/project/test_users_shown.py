"""How `attune users show` lists the heads of a family."""

from __future__ import annotations

from attune.models.commands.users import _table


def test_heads_that_count_for_nothing_are_counted_and_not_listed():
    rows = {"everybody": (0.8, None), "axis0+": (0.2, None), "axis0-": (0.0, None), "axis1-": (-0.0, None), "axis1+": (0.0, 0.1)}
    listed = ["  everybody    0.800", "  axis0+       0.200", "  axis1+       0.000 ± 0.100"]
    assert _table("weights", rows) == ["", "weights", *listed, "  0 for 2 others"]
    assert _table("weights", {"a": (0.5, None)}) == ["", "weights", "  a    0.500"]
    assert _table("weights", {}) == []
