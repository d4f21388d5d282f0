"""The head that families start from: what it reads is judged by people, and a simple head is never forgotten for a wide one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from attune.models.data.embeddings import Vectors
from attune.models.data.preferences import Comparison, Comparisons
from attune.models.training.first_head import ENOUGH, FEW, TURNS, _turns, fit_first_head, style_directions
from attune.models.training.linear_map import fit_linear_map
from attune.models.training.ridge import fit_ridge, nll_over_people
from attune.models.training.style import style_features
from tests.models.small_world import small_world

WIDE = 200


def told_by_length(people: int, each: int, seed: int = 0) -> tuple[Comparisons, np.ndarray]:
    """Returns choices of the longer answer, mostly, and vectors that are noise but for the length, which is their last entry."""
    rng = np.random.default_rng(seed)
    texts = [" ".join(["word"] * int(count)) + "." for count in rng.integers(1, 60, size=80)]
    texts = [f"{text} {number}" for number, text in enumerate(texts)]
    rows = []
    for person in range(people):
        for _ in range(each):
            one, two = rng.choice(80, 2, replace=False)
            gap = len(texts[one].split()) - len(texts[two].split())
            first = rng.random() < 1 / (1 + np.exp(-0.08 * gap))
            rows.append(Comparison(f"u{person}", "p", texts[one] if first else texts[two], texts[two] if first else texts[one]))
    told = Comparisons.from_records(rows)
    vectors = rng.normal(size=(len(told.texts.candidates), WIDE)).astype(np.float32)
    vectors[:, -1] = [np.log1p(len(text.split())) for _, text in told.texts.candidates]
    return told, vectors


def loss(weights: np.ndarray, vectors: np.ndarray, told: Comparisons) -> float:
    utilities = vectors.astype(np.float64) @ weights
    return nll_over_people(utilities[told.chosen] - utilities[told.rejected], told)


def test_where_length_is_all_there_is_a_wide_vector_does_not_drown_it():
    told, vectors = told_by_length(60, 8)
    train, validation, strangers = (told.take((told.user >= low) & (told.user < high)) for low, high in ((0, 16), (16, 20), (20, 60)))
    found = fit_first_head(vectors, train, validation)
    assert "length" in found.inputs or "style" in found.inputs
    wide, alone = fit_ridge(vectors, train, validation), fit_ridge(vectors[:, -1:], train, validation)
    assert found.weights.shape == (WIDE,)
    assert loss(found.weights, vectors, strangers) < loss(wide.weights, vectors, strangers)
    assert loss(found.weights, vectors, strangers) < loss(np.append(np.zeros(WIDE - 1), alone.weights), vectors, strangers) + 0.03


def test_where_the_vectors_decide_they_are_read():
    data, _ = small_world(users=60)
    found = fit_first_head(data.vectors.candidates, data.train, data.validation)
    assert "vectors" in found.inputs
    assert found.validation_nll == loss(found.weights, data.vectors.candidates, data.validation)


def test_a_handful_of_validation_people_do_not_judge_alone_and_nobody_is_judged_by_a_head_that_saw_them():
    data, _ = small_world(users=40)
    turns = _turns(data.train, data.validation)
    assert len(turns) == TURNS
    for fitted, asked in turns:
        assert not set(fitted.user.tolist()) & set(asked.user.tolist())
    assert sum(len(asked) for _, asked in turns) == len(data.train) + len(data.validation)
    many, _ = small_world(users=6 * ENOUGH, per_user=2 * FEW // (6 * ENOUGH))
    assert _turns(many.train, many.validation) == [(many.train, many.validation)]
    told_little, _ = small_world(users=6 * ENOUGH, per_user=2)
    assert len(_turns(told_little.train, told_little.validation)) == TURNS


def test_people_on_both_sides_are_judged_by_prompts_that_heads_have_not_seen():
    data, _ = small_world(users=20)
    both = data.train.join(data.validation)
    seen = both.prompt < 20
    for fitted, asked in _turns(both.take(seen), both.take(~seen)):
        assert not set(fitted.prompt.tolist()) & set(asked.prompt.tolist())


def test_nothing_is_chosen_outright_and_the_whole_is_as_large_as_those_who_judge_would_have_it():
    told, vectors = told_by_length(40, 12)
    train, validation, strangers = (told.take((told.user >= low) & (told.user < high)) for low, high in ((0, 16), (16, 20), (20, 40)))
    found = fit_first_head(vectors, train, validation)
    shares = {name: float(share) for name, share in (one.rsplit(" ", 1) for one in found.inputs.split(", "))}
    assert sum(shares.values()) == pytest.approx(1.0, abs=0.15)
    assert shares["length"] > shares.get("vectors", 0.0)
    assert max(shares.values()) < 0.95
    for factor in (0.5, 1.6):
        assert loss(found.weights, vectors, strangers) < loss(factor * found.weights, vectors, strangers)


def test_answers_of_one_length_and_without_any_style_leave_the_vectors():
    data, _ = small_world(users=30)
    vectors = data.vectors.candidates.copy()
    vectors[:, -1] = 1.0
    flat = replace(data, vectors=Vectors(data.vectors.prompts, vectors))
    assert flat.first_head().inputs.startswith("vectors")


def test_style_is_found_where_it_stands_in_the_vectors_and_nowhere_else():
    told, vectors = told_by_length(30, 8)
    features = style_features([text for _, text in told.texts.candidates]).astype(np.float64)
    rng = np.random.default_rng(1)
    shown = (features @ rng.normal(size=(features.shape[1], WIDE))).astype(np.float32)
    assert len(style_directions(shown, told)) >= 1
    assert len(style_directions(rng.normal(size=vectors.shape).astype(np.float32), told)) == 0


def test_a_linear_map_says_out_of_fold_how_much_it_explains():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(120, 6))
    targets = np.column_stack([vectors @ rng.normal(size=6), rng.normal(size=120)])
    found = fit_linear_map(vectors, targets, seed=0)
    assert found.r2[0] > 0.95
    assert found.r2[1] < 0.1
    np.testing.assert_allclose(found.errors, np.mean((found.predicted - targets) ** 2, axis=0))
