"""Ridge, and what is chosen on validation people: the strength, the trust in a user's own evidence, how sure a mixture may become."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize

from attune.models.data.preferences import ANONYMOUS, together
from attune.models.seam.trust import NEVER
from attune.models.training.additive import AdditiveSettings, train_additive
from attune.models.training.bradley_terry import BradleyTerrySettings, train_bradley_terry
from attune.models.training.features import Subspace
from attune.models.training.heads import compute_outputs
from attune.models.training.hierarchical import PopulationSettings
from attune.models.training.prior_trust import LEAST_PEOPLE, TrustSettings, unsure_of, with_trust
from attune.models.training.ridge import fit_ridge, newton
from attune.models.training.style import FEATURES, style_features
from tests.models.small_world import small_world

FEW = TrustSettings(people=12, comparisons=15)
SPACE = Subspace(5, everybody=True)
ROUNDS = PopulationSettings(rounds=8)


def test_newton_finds_the_minimum_that_a_general_optimiser_finds(rng):
    differences, weight, tie = rng.normal(size=(40, 4)), rng.uniform(0.5, 2, 40), rng.random(40) < 0.2

    def loss(at):
        margins = differences @ at
        costs = np.where(tie, 0.5 * (np.logaddexp(0, -margins) + np.logaddexp(0, margins)), np.logaddexp(0, -margins))
        return weight @ costs + 1.5 * at @ at

    np.testing.assert_allclose(newton(differences, tie, weight, 3.0), minimize(loss, np.zeros(4), tol=1e-10).x, atol=1e-4)


def test_fewer_comparisons_than_inputs_give_the_same_head_in_the_space_they_span(rng):
    data, _ = small_world(users=20)
    few = data.train.take(np.arange(6))
    whole = fit_ridge(data.vectors.candidates, few, data.validation, (3.0,))
    used = np.concatenate([few.chosen, few.rejected])
    scale = 1.0 / data.vectors.candidates[used].std(axis=0, dtype=np.float64)
    told = (data.vectors.candidates[few.chosen].astype(np.float64) - data.vectors.candidates[few.rejected]) * scale
    np.testing.assert_allclose(whole.weights, newton(told, few.tie, few.weight, 3.0) * scale, atol=1e-5)


def test_inputs_in_which_all_answers_are_alike_give_the_head_that_knows_nothing():
    data, _ = small_world(users=20)
    alike = fit_ridge(np.ones((len(data.vectors.candidates), 1), dtype=np.float32), data.train, data.validation)
    assert alike.weights.tolist() == [0.0]
    assert alike.validation_nll == pytest.approx(math.log(2))


def test_the_global_head_that_starts_everything_is_ridge():
    data, _ = small_world(users=40)
    trained = train_bradley_terry(data, BradleyTerrySettings(subspace=SPACE), 0)
    rewards = trained.family.logit_scale * compute_outputs([trained], data.vectors.candidates)["bradley_terry_rewards"][:, 0]
    expected = data.vectors.candidates.astype(np.float64) @ data.first_head().weights
    np.testing.assert_allclose(rewards - rewards.mean(), expected - expected.mean(), atol=1e-4)


def test_personal_views_are_trusted_where_validation_people_gain_by_them_and_never_for_a_handful_of_people():
    data, _ = small_world(users=90)
    trained = with_trust(train_additive(data, AdditiveSettings(axes=3, population=ROUNDS, subspace=SPACE), 0), data, FEW)
    assert trained.trust > 0
    assert trained.summary["trust"]["gain_nll"] > 0
    few = replace(data, train=data.train.take(data.train.user < np.unique(data.train.user)[LEAST_PEOPLE - 1]))
    assert with_trust(trained, few, FEW).trust == NEVER


def test_what_one_validation_person_gains_is_no_reason_to_trust_what_is_known_of_others():
    data, _ = small_world(users=90)
    trained = train_additive(data, AdditiveSettings(axes=3, population=ROUNDS, subspace=SPACE), 0)
    validation = [data.validation.take(data.validation.user == one) for one in np.unique(data.validation.user)]
    found = [with_trust(trained, replace(data, validation=one), FEW) for one in validation]
    assert max(one.summary["trust"]["gain_nll"] for one in found) > 0.01
    assert {one.trust for one in found} == {NEVER}
    assert unsure_of(np.array([1.0, 3.0])) == pytest.approx(1.0)  # of a sample, not of all there are
    assert unsure_of(np.array([0.4])) == 0.4


def test_those_of_whom_nothing_is_known_before_say_nothing_of_trust():
    data, _ = small_world(users=60)
    trained = train_additive(data, AdditiveSettings(axes=3, population=ROUNDS, subspace=SPACE), 0)
    nobody = replace(data.validation, users=tuple(f"{ANONYMOUS}{number}" for number in range(len(data.validation.users))))
    assert with_trust(trained, replace(data, validation=nobody), FEW).trust == NEVER
    mixed = replace(data, validation=together(data.validation, nobody))
    assert with_trust(trained, mixed, FEW).summary["trust"] == with_trust(trained, data, FEW).summary["trust"]


def test_style_is_read_off_the_text_and_an_empty_text_is_no_error():
    one, none = style_features(["I like it! 1. Yes, really?", ""])
    said = dict(zip(FEATURES, one.tolist(), strict=True))
    assert said["length"] == pytest.approx(math.log(7))
    assert said["exclamations"] > 0
    assert said["first person"] == pytest.approx(1 / 6)
    assert np.isfinite(none).all()
