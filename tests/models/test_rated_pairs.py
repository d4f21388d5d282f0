"""Pairs of ratings: all that are possible, or a sample in which every pair is as likely and no answer is favoured by its place."""

from __future__ import annotations

import json
from itertools import combinations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from attune.models.data.adapters import read_comparisons
from attune.models.data.check import survey
from attune.models.data.rated_pairs import pair_up
from attune.models.data.table_shapes import Reading

RATED = st.lists(st.tuples(st.sampled_from([1, 2, 2.5, 3]), st.sampled_from("abcdef")), max_size=12)


def possible(rated, gap):
    pairs = combinations(range(len(rated)), 2)
    return {(i, j) for i, j in pairs if abs(rated[i][0] - rated[j][0]) > gap and rated[i][1] != rated[j][1]}


@given(RATED, st.sampled_from([0.0, 0.5, 1.0]), st.integers(1, 40))
def test_pairs_are_distinct_beyond_the_gap_the_better_first_and_as_many_as_there_may_be(rated, gap, most):
    ratings, texts = [one for one, _ in rated], [text for _, text in rated]
    found = pair_up(ratings, texts, least_gap=gap, most=most, seed="s")
    wanted = possible(rated, gap)
    assert found.possible == len(wanted)
    assert found.equal == len(rated) * (len(rated) - 1) // 2 - len(wanted)
    assert {tuple(sorted(pair)) for pair in found.chosen} <= wanted
    assert len(set(found.chosen)) == len(found.chosen) == min(most, len(wanted))
    assert all(ratings[better] > ratings[worse] for better, worse in found.chosen)
    assert found == pair_up(ratings, texts, least_gap=gap, most=most, seed="s")


def test_every_pair_is_as_likely_in_a_sample():
    """Of 45 pairs 9 are kept: over 2,000 seeds each is kept 400 times, give or take five standard deviations of 18."""
    counts = np.zeros((10, 10))
    for seed in range(2000):
        for better, worse in pair_up(range(10), [f"r{n}" for n in range(10)], least_gap=0.0, most=9, seed=str(seed)).chosen:
            counts[better, worse] += 1
    kept = counts[np.tril_indices(10, -1)]
    assert kept.sum() == 9 * 2000
    assert np.abs(kept - 400).max() < 90


def test_a_hundred_ratings_are_sampled_fairly_and_the_check_says_how_many_are_kept(tmp_path):
    path = tmp_path / "ratings.jsonl"
    path.write_text("\n".join(json.dumps({"user": "u", "response": f"joke {i}", "rating": i}) for i in range(100)))
    told = read_comparisons(path)
    assert len(told) == 200
    first = {
        told.texts.candidates.index(("(no prompt)", f"joke {n}")) for n in range(3) if ("(no prompt)", f"joke {n}") in told.texts.candidates
    }
    assert np.mean(np.isin(told.chosen, list(first)) | np.isin(told.rejected, list(first))) < 0.2
    assert any("200 of 4,950 possible pairs are kept, a fair sample" in text for text in survey(path, Reading()).warnings)
    assert len(read_comparisons(path, Reading(most_pairs=5000))) == 4950
    assert "comparisons  4,950, 0 of them ties, 4,950 of 4,950 possible" in survey(path, Reading(most_pairs=5000)).lines()
