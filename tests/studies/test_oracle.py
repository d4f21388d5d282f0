"""The study of the exact oracle: its truth is the truth, its report has every row, and a portfolio is compared at its own size."""

from __future__ import annotations

import json

import numpy as np
import pytest

from attune.models.portfolio.oracles import BestOfN
from studies.oracle.oracle import OracleStudy, calls_needed, promise_and_truth, random_world, true_loss
from studies.oracle.run import evaluate_oracle, spread_weights
from tests.models.portfolio_worlds import users

SMALL = OracleStudy(instances=6, dimensions=(2, 3), epsilon=0.1, timed=((2, 2),), calls_epsilon=0.02, calls_delta=0.01)


def test_a_world_in_which_nothing_is_worth_anything_to_somebody_loses_nothing_there():
    assert true_loss(BestOfN(np.zeros((3, 2, 2))), np.zeros((1, 2))) == 0.0
    half = np.tile(np.array([[0.8, 0.0], [0.4, 0.0]]), (3, 1, 1))  # worth nothing to who wants the second reward alone
    assert true_loss(BestOfN(half), np.array([[0.4, 0.0]])) == pytest.approx(0.5)


def test_the_true_loss_is_reached_by_a_user_and_by_none_exceeded():
    for seed in range(3):
        oracle = random_world(seed, 3)
        values = np.array([oracle.solve(weights).value for weights in users(3, 4)])
        losses = [1.0 - (values @ weights).max() / oracle.optimum(weights) for weights in users(3, 3000, seed=5)]
        worst = true_loss(oracle, values)
        assert max(losses) <= worst + 1e-9
        assert max(losses) > 0.8 * worst


def test_every_promise_covers_the_truth_and_is_not_far_from_it():
    for row in promise_and_truth(SMALL, seed=3, progress=lambda _: None).values():
        assert row["covered"] == row["instances"] == 6
        assert 1.0 <= row["ratio"]["mean"] <= 1.5
        assert row["ratio"]["mean"] < row["ratio_without_tightening"]["mean"]


def test_the_search_needs_fewer_calls_than_the_grid_and_than_chance():
    row = calls_needed(SMALL, seed=3, progress=lambda _: None)["2"]
    assert row["grid_over_lazy"] > 5
    assert row["lazy"]["mean"] < row["random_proved"]["mean"]
    assert row["uniform_true"]["mean"] <= row["uniform_proved"]["mean"]


def test_spread_weights_begin_at_the_corners_and_are_all_different():
    weights = spread_weights(3, 7)
    assert np.array_equal(np.sort(weights[:3], axis=0), np.sort(np.eye(3), axis=0))
    assert len({tuple(row) for row in weights}) == 7
    np.testing.assert_allclose(weights.sum(axis=1), 1.0)


def test_the_report_is_written_for_people_and_programs(tmp_path):
    study = OracleStudy(instances=2, dimensions=(2,), epsilon=0.1, timed=((2, 1),), calls_epsilon=0.1, calls_delta=0.05)
    results = evaluate_oracle(tmp_path, seed=0, study=study, seeds=1, demo=tmp_path, cache=None, progress=lambda _: None)
    assert json.loads((tmp_path / "results.json").read_text("utf-8")) == json.loads(json.dumps(results))
    report = (tmp_path / "report.md").read_text("utf-8")
    assert "| 2 | 2 | 2 |" in report
    assert "random worlds, 3 rewards" in report
