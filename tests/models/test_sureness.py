"""How sure a mixture may become is chosen on people who told much; other families are left as they are."""

from __future__ import annotations

import math

import numpy as np

from attune.models.seam.hedge import hedge_weights
from attune.models.training.additive import AdditiveSettings, train_additive
from attune.models.training.features import Subspace
from attune.models.training.hierarchical import PopulationSettings
from attune.models.training.loop import LoopSettings
from attune.models.training.micro import MicroSettings, train_micro
from attune.models.training.sureness import AS_GOOD, CHOICES, with_sureness
from tests.models.small_world import small_world


def test_the_tightest_bound_that_loses_as_little_is_taken_and_every_choice_is_told():
    data, _ = small_world(users=60, per_user=20)
    short = LoopSettings(steps=60, evaluate_every=30, patience=2)
    trained = train_micro(data, MicroSettings(heads=3, router=8, subspace=Subspace(4), loop=short), 0)
    found = with_sureness(trained, data, users=8)
    told = found.summary["sureness"]
    assert set(told["nll"]) == {f"{one:g}" for one in CHOICES}
    as_good = [float(name) for name, loss in told["nll"].items() if loss <= min(told["nll"].values()) + AS_GOOD]
    assert float(told["chosen"]) == min(as_good)
    assert f"{found.family.settings.sureness:g}" == told["chosen"]
    assert found.heads is trained.heads


def test_a_family_that_is_no_mixture_is_returned_as_it_is():
    data, _ = small_world(users=30, per_user=10)
    population = PopulationSettings(rounds=2)
    trained = train_additive(data, AdditiveSettings(axes=2, population=population, subspace=Subspace(3)), 0)
    assert with_sureness(trained, data) is trained


def test_a_bounded_mixture_keeps_every_head_after_a_thousand_comparisons_and_an_unbounded_one_ends_on_one():
    losses = 1000 * np.array([0.0, 0.05, 0.3])
    bounded = hedge_weights(np.zeros(3), losses, eta=1.0, sureness=1.2)
    assert bounded.min() > 0.01
    assert bounded[0] > bounded[1] > bounded[2]
    assert hedge_weights(np.zeros(3), losses, eta=1.0, sureness=math.inf)[0] > 0.999
