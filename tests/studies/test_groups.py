"""Opposed groups in a synthetic world: what is known about it must come out."""

from __future__ import annotations

import numpy as np
import pytest

from attune.models.training.bradley_terry import BradleyTerrySettings, train_bradley_terry
from attune.models.training.loop import LoopSettings
from attune.models.training.micro import MicroSettings, train_micro
from studies.groups.groups import find_groups, matched
from studies.groups.run import GroupsStudy, evaluate_groups
from studies.groups.worlds import WorldSizes, bayes_probabilities, opposed_world, simplex_directions

SMALL = WorldSizes(users=120, per_user=30, test_users=60, targets=20, answers=4, width=8)
SHORT = LoopSettings(steps=300)


@pytest.mark.parametrize("groups", [2, 3, 8])
def test_tastes_of_opposed_groups_sum_to_nothing_and_are_equally_far_apart(groups):
    directions = simplex_directions(groups, 24, np.random.default_rng(0))
    np.testing.assert_allclose(directions.sum(axis=0), 0.0, atol=1e-12)
    angles = directions @ directions.T
    np.testing.assert_allclose(angles[~np.eye(groups, dtype=bool)], -1.0 / (groups - 1), atol=1e-12)


def test_one_group_and_more_groups_than_dimensions_are_refused():
    for groups in (1, 9):
        with pytest.raises(ValueError, match="2 to 8 can be opposed in 8 dimensions"):
            opposed_world(groups, SMALL, seed=0)


def test_training_context_and_targets_share_no_prompt():
    world = opposed_world(3, SMALL, seed=0)
    parts = [set(part.prompt.tolist()) for part in (world.data.train, world.data.validation, world.context, world.targets)]
    assert sum(map(len, parts)) == len(set.union(*parts))


def test_the_observer_who_knows_everything_starts_at_the_prior_and_ends_at_the_noise():
    world = opposed_world(2, SMALL, seed=0)
    before, prior = bayes_probabilities(world, 0)
    np.testing.assert_allclose(prior, 0.5)
    np.testing.assert_allclose(before, 0.5, atol=1e-12)
    after, posterior = bayes_probabilities(world, 20)
    assert np.mean(posterior.argmax(axis=1) == world.kind) == 1.0
    assert np.mean(after > 0.5) == pytest.approx(0.9, abs=0.03)


def test_the_observers_posterior_is_bayes_counted_by_hand():
    world = opposed_world(2, SMALL, seed=0)
    rows = world.context.rows_of_users()[0][:3]
    right = world.utilities[world.context.chosen[rows], 0] > world.utilities[world.context.rejected[rows], 0]
    # Each agreeing choice is nine to one for group 0, each other one to nine.
    odds = 9.0 ** (2 * right.sum() - 3)
    assert bayes_probabilities(world, 3)[1][0, 0] == pytest.approx(odds / (1 + odds))


def test_labels_are_matched_one_to_one_however_they_are_called():
    assert matched(np.array([2, 2, 0, 0, 1]), np.array([0, 0, 1, 1, 1])).tolist() == [True, True, True, True, False]
    assert matched(np.array([0, 0, 0, 0]), np.array([0, 0, 1, 1])).sum() == 2


def test_micro_finds_three_groups_that_one_head_cannot():
    world = opposed_world(3, SMALL, seed=0)
    trained = [
        train_bradley_terry(world.data, BradleyTerrySettings(loop=SHORT), 0),
        train_micro(world.data, MicroSettings(heads=3, alpha=0.0, start="users", router=8, loop=SHORT), 0),
    ]
    found = find_groups(world, trained, seed=0, counts=(0, 20))
    share = {name: curve[:, 1].mean() / found.bayes[:, 1].mean() for name, curve in found.curves.per_user.items()}
    assert share["micro"] > 0.9
    assert share["bradley_terry"] < 0.65
    assert found.recovered["micro"].mean() > 0.9
    assert found.recovered["bradley_terry"].mean() < 0.5


def test_the_report_says_which_bars_are_met(tmp_path):
    study = GroupsStudy(groups=(2,), studied=(2, (3,)), seeds=1, steps=30, sizes=SMALL)
    results = evaluate_groups(tmp_path, study=study)
    report = (tmp_path / "report.md").read_text()
    assert set(results["groups"]["2"]["families"]) == {"bradley_terry", "micro", "sparse_moe", "vrf"}
    assert "met: one head at chance, 2 groups" in report
    assert "recovers at least 95% of users' groups, 2 groups" in report
    assert report.count("| 3 | ") == 2
