"""Everybody's head fitted again with validation people: the right weights, in the families that stand on it, and in no others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from attune.models.training.additive import AdditiveSettings, train_additive
from attune.models.training.bradley_terry import BradleyTerrySettings, train_bradley_terry
from attune.models.training.features import Subspace
from attune.models.training.first_head import STRENGTHS
from attune.models.training.heads import OF_FIRST_HEAD, TrainedFamily, compute_outputs
from attune.models.training.hierarchical import PopulationSettings
from attune.models.training.last_head import with_last_head
from attune.models.training.loop import TrainingData
from attune.models.training.micro import MicroSettings, train_micro
from attune.models.training.prior_trust import with_trust
from attune.models.training.ridge import ridge_path
from attune.models.training.yardstick import Yardstick, with_standing
from tests.models.small_world import HASTY, small_world

STANDING = Subspace(3, everybody=True)
ROUNDS = PopulationSettings(rounds=4)


@pytest.fixture(scope="module")
def data() -> TrainingData:
    found, _ = small_world(users=40, per_user=12)
    return found


def additive(data: TrainingData) -> TrainedFamily:
    return train_additive(data, AdditiveSettings(axes=2, population=ROUNDS, subspace=STANDING), 0)


def rewards(trained: TrainedFamily, data: TrainingData) -> np.ndarray:
    return compute_outputs([trained], data.vectors.candidates)[f"{trained.family.name}_rewards"].astype(np.float64)


def test_the_recipe_gives_the_first_head_again_on_those_whom_it_was_fitted_on(data):
    first = data.first_head()
    np.testing.assert_allclose(first.recipe.fit(data.vectors.candidates, data.train), first.weights, rtol=1e-6, atol=1e-9)


def test_the_last_head_is_ridge_on_the_joined_table_in_the_amounts_that_were_chosen(data):
    first, both = data.first_head(), data.train.join(data.validation)
    grown = len(both) / len(data.train)
    assert grown > 1.1
    expected = np.zeros(len(first.weights))
    for (directions, emphasis), amounts in zip(first.recipe.inputs, first.recipe.amounts, strict=True):
        seen = (data.vectors.candidates.astype(np.float64) @ directions.T).astype(np.float32)
        path = ridge_path(seen, both, both, [grown * one for one in STRENGTHS], emphasis=emphasis)
        for amount, strength in zip(amounts, STRENGTHS, strict=True):
            expected += amount * (path[grown * strength][0] @ directions)
    last = data.last_head()
    np.testing.assert_allclose(last.weights, expected, rtol=1e-6, atol=1e-9)
    assert np.abs(last.weights - first.weights).max() > 1e-3
    assert (last.validation_nll, last.inputs, last.strength) == (first.validation_nll, first.inputs, first.strength)


def test_validation_people_of_other_names_are_joined_and_those_of_two_tables_at_once_are_not(data):
    renamed = replace(data.validation, users=tuple(f"v-{name}" for name in data.validation.users))
    first, vectors = data.first_head(), data.vectors.candidates
    apart = first.fitted_on_all(vectors, data.train, renamed)
    np.testing.assert_allclose(apart.weights, data.last_head().weights, rtol=1e-6, atol=1e-9)
    mixed = replace(renamed, users=(data.train.users[0], *renamed.users[1:]))
    assert np.array_equal(first.fitted_on_all(vectors, data.train, mixed).weights, first.weights)


def test_everybodys_head_is_the_last_one_and_nothing_that_was_measured_changes(data):
    settings = BradleyTerrySettings(subspace=STANDING)
    trained = with_standing(train_bradley_terry(data, settings, 0), data, Yardstick.of(data))
    before = rewards(trained, data).copy()
    served = with_last_head(trained, data)
    utilities = data.vectors.candidates.astype(np.float64) @ data.last_head().weights
    told = data.train
    logits = served.family.logit_scale * (rewards(served, data)[told.chosen] - rewards(served, data)[told.rejected])[:, 0]
    np.testing.assert_allclose(logits, utilities[told.chosen] - utilities[told.rejected], atol=1e-4)
    assert served.family == trained.family
    assert {name: value for name, value in served.summary.items() if name != "fitted_again"} == dict(trained.summary)
    assert np.array_equal(rewards(trained, data), before), "the family that was measured stays as it was"


def test_what_sets_people_apart_stays_as_it_was_trained_and_rewards_keep_their_mean(data):
    trained = with_trust(additive(data), data)
    served = with_last_head(trained, data)
    before, after = rewards(trained, data), rewards(served, data)
    family = trained.family
    np.testing.assert_allclose(family.along_axes(after), family.along_axes(before), atol=1e-4)
    moved = data.vectors.candidates.astype(np.float64) @ (data.last_head().weights - data.first_head().weights)
    share = trained.summary[OF_FIRST_HEAD]
    gained = family.logit_scale * (after - before)[:, 0]
    np.testing.assert_allclose(gained - gained.mean(), share * (moved - moved.mean()), atol=1e-4)
    used = np.concatenate([data.train.chosen, data.train.rejected])
    np.testing.assert_allclose(after[used].mean(axis=0), before[used].mean(axis=0), atol=1e-4)
    assert (served.trust, served.family) == (trained.trust, trained.family)


def test_the_share_of_the_first_head_is_what_everybody_is_made_of(data):
    """With the first head as the mean of tastes the share is 1; without it among the features there is none, and nothing moves."""
    anchored = replace(ROUNDS, sizes=(0.0,), anchor_sizes=(1.0,), widths=(1.0,))
    trained = train_additive(data, AdditiveSettings(axes=2, population=anchored, subspace=STANDING), 0)
    assert trained.summary[OF_FIRST_HEAD] == pytest.approx(1.0)
    without = train_additive(data, AdditiveSettings(axes=2, population=ROUNDS, subspace=Subspace(3)), 0)
    assert OF_FIRST_HEAD not in without.summary
    assert with_last_head(without, data) is without


def test_a_mixture_whose_heads_were_trained_together_is_the_same_object(data):
    mixture = train_micro(data, MicroSettings(heads=2, subspace=STANDING, loop=HASTY), 0)
    assert with_last_head(mixture, data) is mixture
    by_steps = train_bradley_terry(data, BradleyTerrySettings(subspace=Subspace(3), loop=HASTY), 0)
    assert with_last_head(by_steps, data) is by_steps
