from __future__ import annotations

from attune.models.seam.counts import all_counted, counted


def test_a_noun_and_what_goes_with_it_agree_with_their_count():
    assert [counted(count, "row") for count in (0, 1, 2, 12_345)] == ["0 rows", "1 row", "2 rows", "12,345 rows"]
    assert [counted(count, "person is", "people are") for count in (0, 1, 2)] == ["0 people are", "1 person is", "2 people are"]
    assert [all_counted(count, "pair") for count in (1, 2)] == ["the one pair", "all 2 pairs"]
