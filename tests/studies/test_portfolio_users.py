"""Losses of portfolios against the best policy at hand and against users' own models, on values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from typer.testing import CliRunner

from studies.__main__ import app
from studies.portfolio_users.run import Policies, own_model, render, worst_user

# Two pure policies, a mixed one, and two users' own models, of which the last was lucky in the search.
SEARCHED = np.array([[0.9, 0.1], [0.1, 0.9], [0.6, 0.6], [0.62, 0.5], [0.1, 0.99]])
WEIGHTS = np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5], [0.6, 0.4], [0.1, 0.9]])
TESTED = np.array([[0.9, 0.1], [0.1, 0.9], [0.55, 0.55], [0.7, 0.5], [0.1, 0.8]])


@pytest.fixture
def policies() -> Policies:
    rng = np.random.default_rng(0)
    noise = rng.normal(0.0, 0.05, size=(400, *TESTED.shape))
    return Policies(tuple("abcde"), WEIGHTS, SEARCHED, TESTED + noise - noise.mean(axis=0))


def test_the_worst_user_is_found_by_the_search_and_measured_on_test_prompts(policies):
    found = worst_user(policies, np.array([0, 1]), np.random.default_rng(0))
    # Half way between the two members, where the mixed policy is worth .6 in the search, .55 on test prompts, and they .5.
    assert found["weights"] == [0.5, 0.5]
    assert (found["best"], found["gap"]) == ("c", pytest.approx(0.05))
    assert found["ratio"] == pytest.approx(0.05 / 0.55)
    assert 0.03 < found["low"] < 0.05 < found["high"] < 0.07


def test_a_portfolio_of_all_policies_loses_nothing_and_one_of_a_single_policy_most(policies):
    rng = np.random.default_rng(0)
    everything = worst_user(policies, np.arange(5), rng)
    assert (everything["gap"], everything["best"]) == (0.0, everything["serving"])
    alone = worst_user(policies, np.array([0]), rng, resamples=0)
    assert alone["weights"] == [0.0, 1.0]
    assert alone["gap"] == pytest.approx(0.8 - 0.1)  # e is best there by the search, and measured as what it is
    assert "low" not in alone


def test_users_are_served_by_the_member_that_the_search_thinks_best_and_compared_with_their_own_model(policies):
    found = own_model(policies, np.array([0, 1, 2]), np.array([3, 4]), np.random.default_rng(0))
    # d's user: own .62, served by a (.58 against .6 of c, so c): .55. e's user: own .73, served by b .82.
    losses = [0.6 * 0.7 + 0.4 * 0.5 - 0.55, 0.1 * 0.1 + 0.9 * 0.8 - (0.1 * 0.1 + 0.9 * 0.9)]
    assert found["gap"] == pytest.approx(np.mean(losses))
    assert found["worst"] == pytest.approx(losses[0])
    assert found["low"] <= found["gap"] <= found["high"]


def test_without_a_search_the_command_says_what_makes_one(tmp_path):
    shown = CliRunner().invoke(app, ["portfolio-users", "--work", str(tmp_path / "none"), "--out", str(tmp_path / "out")])
    assert shown.exit_code == 1
    assert "has no search.jsonl; `python -m demo portfolio --work" in shown.output
    assert not (tmp_path / "out").exists()


def test_the_report_has_a_line_for_every_size(policies):
    rng = np.random.default_rng(0)
    row = {
        "searched": worst_user(policies, np.array([0, 1]), rng),
        "random": {"gap": 0.2, "ratio": 0.3},
        "random_gaps": [0.1, 0.3],
        "own": own_model(policies, np.array([0, 1]), np.array([3, 4]), rng),
    }
    judged = {"sizes": {"2": row}, "uniform": row["searched"], "members_for_gap": None}
    results = dict.fromkeys(("searched", "users", "draws", "prompts", "seed", "attune"), 3)
    text = render(results | {"judged_by": {"heads": judged}, "portfolios": {"2": ["a", "b"]}})
    assert "| 2 | 0.050 [" in text
    assert "more than measured" in text
    assert "- 2: a, b" in text
