"""Heads from ratings: found where they are, refused where they cannot be, and users over them who move to what they choose."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from attune.models.seam.families import Families
from attune.models.training.attributes import AttributesSettings, Ratings, RatingsInvalid, attribute_heads, train_attributes
from attune.models.training.features import Calibration, Subspace
from attune.models.training.heads import compute_outputs, load_heads, save_heads
from attune.models.training.hierarchical import PopulationSettings
from tests.models.small_world import small_world

SETTINGS = AttributesSettings(penalties=(1.0, 1e5), population=PopulationSettings(rounds=10))
NAMES = ("first", "second", "third")


def rated_world():
    """Three users' tastes of `small_world` are the attributes: ratings are exact, [0, 1], and linear in the vectors."""
    data, unseen = small_world(users=150)
    tastes = np.linalg.qr(np.random.default_rng(0).normal(size=(9, 3)))[0]
    raw = data.vectors.candidates.astype(np.float64) @ tastes
    scores = (raw - raw.min(axis=0)) / np.ptp(raw, axis=0)
    prompt = np.arange(len(scores)) // 8
    return data, unseen, Ratings(NAMES, scores, prompt < 20, prompt >= 20)


def test_a_head_follows_its_attribute_in_the_units_of_the_ratings():
    data, _, ratings = rated_world()
    every = Calibration.of(data.train, data.vectors, Subspace(components=None))
    heads, report = attribute_heads(ratings, every.candidate, data.vectors.candidates, (1e-3, 1e5))
    intercepts = np.array([report[name]["intercept"] for name in NAMES])
    np.testing.assert_allclose(heads(data.vectors.candidates) + intercepts, ratings.scores, atol=1e-3)
    assert all(one["penalty"] == 1e-3 and one["validation_r2"] > 0.999 for one in report.values())


def test_unrated_candidates_are_left_out_and_not_taken_for_zero():
    data, _, ratings = rated_world()
    every = Calibration.of(data.train, data.vectors, Subspace(components=None))
    scores = ratings.scores.copy()
    scores[::3, 1] = np.nan
    whole, _ = attribute_heads(ratings, every.candidate, data.vectors.candidates, (1e-3,))
    part, _ = attribute_heads(replace(ratings, scores=scores), every.candidate, data.vectors.candidates, (1e-3,))
    np.testing.assert_allclose(part.matrix, whole.matrix, atol=1e-4)


def test_a_user_who_chooses_by_one_attribute_gets_its_weight_and_is_served_as_trained(tmp_path):
    data, _, ratings = rated_world()
    trained = train_attributes(data, ratings, SETTINGS, 0)
    save_heads(tmp_path, [trained], "attributes")
    [loaded], _ = load_heads(tmp_path)
    assert loaded.family.heads == NAMES
    outputs = compute_outputs([loaded], data.vectors.candidates)
    assert set(outputs) == {"attributes_rewards"}
    families = Families([loaded.family])
    rows = [dict(zip(outputs, values, strict=True)) for values in zip(*outputs.values(), strict=True)]
    rng = np.random.default_rng(1)
    for number in range(3):
        evidence = families.prior()
        for _ in range(20):
            prompt = int(rng.integers(30))
            a, b = prompt * 8 + rng.choice(8, size=2, replace=False)
            better, worse = (a, b) if ratings.scores[a, number] > ratings.scores[b, number] else (b, a)
            evidence = evidence + families.learn(rows[better], rows[worse], {})
        weights = loaded.family.weights(families.part("attributes", evidence), None)
        assert np.argmax(weights) == number
        assert weights[number] > loaded.family.weights(families.part("attributes", families.prior()), None)[number]


def test_two_trainings_from_one_seed_are_equal():
    data, _, ratings = rated_world()
    first, again = (train_attributes(data, ratings, SETTINGS, 3).heads.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_a_neighbours_rating_cannot_move_a_head_that_was_trained_without_it():
    data, _, ratings = rated_world()
    every = Calibration.of(data.train, data.vectors, Subspace(components=None))
    spoiled = ratings.scores.copy()
    spoiled[~ratings.train] = 0.5 + 0.01 * (np.arange((~ratings.train).sum())[:, None] % 2)
    kept, _ = attribute_heads(ratings, every.candidate, data.vectors.candidates, (10.0,))
    same, _ = attribute_heads(replace(ratings, scores=spoiled), every.candidate, data.vectors.candidates, (10.0,))
    np.testing.assert_array_equal(kept.matrix, same.matrix)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"names": ("one",)}, "at least two"),
        ({"names": ("one", "one", "two")}, "different names"),
        ({"scores": np.zeros((4, 3))}, "expected (240, 3)"),
        ({"scores": np.full((240, 3), 1.5)}, "go from 1.5 to 1.5"),
        ({"train": np.ones(240, dtype=bool), "validation": np.ones(240, dtype=bool)}, "240 candidates are in train and validation"),
    ],
)
def test_ratings_that_do_not_fit_are_refused_with_the_numbers(change, said):
    _, _, ratings = rated_world()
    with pytest.raises(RatingsInvalid, match=re.escape(said)):
        replace(ratings, **change)


def test_an_attribute_without_a_difference_is_named():
    data, _, ratings = rated_world()
    scores = ratings.scores.copy()
    scores[:, 2] = 0.25
    with pytest.raises(RatingsInvalid, match="'third' has 160 training ratings, all equal"):
        train_attributes(data, replace(ratings, scores=scores), SETTINGS, 0)


def test_ratings_of_other_texts_are_refused():
    data, _, ratings = rated_world()
    few = Ratings(NAMES, ratings.scores[:80], ratings.train[:80], ratings.validation[:80])
    with pytest.raises(RatingsInvalid, match="ratings of 80 candidates and vectors of 240"):
        train_attributes(data, few, SETTINGS, 0)
