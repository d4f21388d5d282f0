"""Search, pruning and grid: every guarantee against the truth of the exact oracle."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from attune.models.portfolio.geometry import TooManyVertices, UpperBound, lower_corners, simplex_lattice, vertices_within
from attune.models.portfolio.oracles import BestOfN, EvidenceInvalid, OracleFailed
from attune.models.portfolio.prune import NotCovered, greedy_cover, prune, prune_to, smallest_cover
from attune.models.portfolio.search import SearchSettings, StateInvalid, lazy_search, prove, read_state, tighten, upper_bound
from studies.oracle.grid import grid_bound, grid_levels, grid_weights
from tests.models.portfolio_worlds import Counting, best_of_n, users

# --- geometry


def test_the_corners_worked_out_by_hand():
    corners = lower_corners(np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.6], [0.1, 0.1]]))
    order = np.argsort(corners.weights[:, 0])
    np.testing.assert_allclose(corners.weights[order, 0], [0.0, 0.4, 0.6, 1.0], atol=1e-9)
    np.testing.assert_allclose(corners.lower[order], [1.0, 0.6, 0.6, 1.0], atol=1e-9)
    assert corners.best[order].tolist() == [
        [False, True, False, False],
        [False, True, True, False],
        [True, False, True, False],
        [True, *[False] * 3],
    ]


@pytest.mark.parametrize("dimensions", [2, 3, 4])
@pytest.mark.parametrize("beta", [0.0, 0.05])
def test_between_corners_nothing_is_worse_than_at_the_worst_corner(dimensions, beta):
    oracle = best_of_n(dimensions, dimensions, beta=beta)
    solutions = [oracle.solve(weights) for weights in users(dimensions, 5)]
    proof = prove(solutions, 0.02, beta=beta)
    bound = upper_bound(solutions, beta=beta)
    many = users(dimensions, 300, seed=1)
    lower = np.max([many @ solution.value - beta * solution.divergence for solution in solutions], axis=0)
    upper = bound.over(many)
    assert np.max(0.98 * upper - lower) <= proof.excess + 1e-9
    assert np.max(upper - lower) <= proof.gap + 1e-9
    truth = np.array([oracle.optimum(weights) for weights in many])
    assert np.all(truth <= upper + 1e-9)
    assert np.all(lower <= truth + 1e-9)
    if not beta:
        assert np.min(lower / upper) >= proof.ratio - 1e-9


@pytest.mark.parametrize("regularised", [False, True])
def test_the_vertices_and_the_linear_programme_give_the_same_upper_bound(regularised):
    oracle = best_of_n(5, 3, beta=0.05 if regularised else 0.0)
    solutions = [oracle.solve(weights) for weights in users(3, 8)]
    bound = upper_bound(solutions, beta=oracle.beta)
    for weights in users(3, 20, seed=2):
        value, multipliers = bound.at(weights)
        assert bound.over(weights[None])[0] == pytest.approx(value, abs=1e-7)
        if not regularised:
            dual = multipliers @ bound.optima + np.maximum(weights - multipliers @ bound.asked, 0.0).sum()
            assert dual == pytest.approx(value, abs=1e-9)


def test_too_many_vertices_are_replaced_by_linear_programmes_or_by_a_looser_polytope():
    oracle = best_of_n(5, 3)
    bound = upper_bound([oracle.solve(weights) for weights in users(3, 12)])
    few = vertices_within(bound, 4)
    assert 1 <= len(few) <= 4 < len(bound.vertices(1000))
    many = users(3, 20, seed=2)
    assert np.all((many @ few.T).max(axis=1) >= bound.over(many) - 1e-9)
    assert bound.over(many, limit=1) == pytest.approx(bound.over(many), abs=1e-7)
    with pytest.raises(TooManyVertices, match="more than"):
        bound.vertices(4)


def test_an_upper_bound_without_interior_is_opened_a_little():
    flat = UpperBound(np.eye(2), np.array([0.0, 0.5]))
    assert flat.over(np.array([[1.0, 0.0], [0.0, 1.0]])) == pytest.approx([0.0, 0.5], abs=1e-6)


def test_a_lattice_has_every_multiple_once():
    lattice = simplex_lattice(3, 4)
    assert len({tuple(row) for row in lattice}) == len(lattice) == 15
    assert np.all(lattice.sum(axis=1) == 1.0)


# --- search


@pytest.mark.parametrize(("dimensions", "epsilon"), [(2, 0.02), (3, 0.04), (4, 0.1)])
def test_what_a_search_promises_holds_for_the_true_optimum_of_every_user(dimensions, epsilon):
    for seed in range(3):
        oracle = best_of_n(seed, dimensions)
        found = lazy_search(oracle, SearchSettings(epsilon))
        assert found.reached
        values = np.array([solution.value for solution in found.solutions])
        # OPT / L is quasi-convex on the cells of L, so the corners are all there is to check; some users more, to see that they are.
        for weights in [*found.proof.corners.weights, *users(dimensions, 50)]:
            assert (values @ weights).max() >= (1.0 - epsilon) * oracle.optimum(weights) - 1e-9
        assert found.proof.ratio >= 1.0 - epsilon - 1e-9


def test_an_additive_share_alone_suffices():
    oracle = best_of_n(1, 3)
    found = lazy_search(oracle, SearchSettings(0.0, 0.02))
    assert found.reached
    assert found.proof.gap <= 0.02 + 1e-9
    assert found.calls < lazy_search(oracle, SearchSettings(0.0, 0.005)).calls


def test_with_kl_the_search_ends_with_an_additive_promise_that_holds():
    oracle = best_of_n(2, 3, beta=0.05)
    found = lazy_search(oracle, SearchSettings(0.0, 0.01))
    assert found.reached
    for weights in users(3, 100):
        reached = max(weights @ solution.value - 0.05 * solution.divergence for solution in found.solutions)
        assert reached >= oracle.optimum(weights) - 0.01 - 1e-9


def test_a_search_that_may_not_ask_enough_says_so():
    found = lazy_search(best_of_n(0, 3), SearchSettings(0.001, max_calls=5))
    assert (found.calls, found.reached) == (5, False)


def test_an_approximate_oracle_raises_the_lower_bound_and_never_lowers_the_upper():
    oracle = best_of_n(0)
    exact = [oracle.solve(weights) for weights in np.eye(2)]
    soup = replace(oracle.solve(np.array([0.5, 0.5])), optimum=None, handle="soup")
    before, after = prove(exact, 0.02), prove([*exact, soup], 0.02)
    assert after.gap < before.gap
    np.testing.assert_array_equal(upper_bound(exact).optima, upper_bound([*exact, soup]).optima)


def test_a_search_with_an_oracle_that_bounds_nothing_ends_without_a_promise():
    class Approximate(Counting):
        def solve(self, weights):
            return replace(super().solve(weights), optimum=None)

    found = lazy_search(Approximate(best_of_n(0)), SearchSettings(0.02, max_calls=200))
    assert not found.reached
    assert found.calls < 60


def test_intervals_of_the_values_lower_what_is_promised():
    oracle = best_of_n(0)
    sure = [oracle.solve(weights) for weights in users(2, 6)]
    unsure = [replace(solution, half_width=np.full(2, 0.03)) for solution in sure]
    assert prove(unsure, 0.0).gap == pytest.approx(prove(sure, 0.0).gap + 0.03)


def test_members_at_hand_may_start_a_search_and_are_not_counted():
    oracle = best_of_n(3, 3)
    known = lazy_search(oracle, SearchSettings(0.03))
    again = lazy_search(oracle, SearchSettings(0.03, max_calls=1), start=known.solutions)
    assert again.reached
    assert len(again.solutions) == len(known.solutions)


def test_duplicates_among_members_at_hand_are_refused_by_name():
    soup = replace(best_of_n(3).solve(np.array([0.5, 0.5])), handle="soup")
    with pytest.raises(ValueError, match="duplicates by their handles: soup"):
        lazy_search(best_of_n(3), start=[soup, soup])


def test_one_reward_is_no_portfolio():
    class One(Counting):
        dimensions = 1

    with pytest.raises(EvidenceInvalid, match="1 best policy for everybody"):
        lazy_search(One(best_of_n(0)))


def test_an_oracle_whose_values_are_outside_is_refused_by_name():
    class Wrong(Counting):
        def solve(self, weights):
            return replace(super().solve(weights), value=np.array([1.5, 0.2]))

    with pytest.raises(EvidenceInvalid, match=r"1 of 2 rewards are outside \[0, 1\]"):
        lazy_search(Wrong(best_of_n(0)))


@pytest.mark.parametrize("settings", [{"epsilon": 1.0}, {"epsilon": 0.0}, {"epsilon": -0.1}, {"max_calls": 0}])
def test_settings_that_no_search_can_reach_are_refused(settings):
    with pytest.raises(ValueError, match="epsilon"):
        SearchSettings(**settings)


# --- resuming


@pytest.mark.parametrize("fails_at", [1, 3, 8])
def test_an_oracle_that_fails_half_way_loses_nothing(tmp_path, fails_at):
    whole = lazy_search(best_of_n(4, 3), SearchSettings(0.03))
    oracle, state = Counting(best_of_n(4, 3), (fails_at,)), tmp_path / "search.jsonl"
    with pytest.raises(OracleFailed, match="memory"):
        lazy_search(oracle, SearchSettings(0.03), state=state)
    resumed = lazy_search(oracle, SearchSettings(0.03), state=state)
    assert len(oracle.asked) == whole.calls + 1
    assert [solution.handle for solution in resumed.solutions] == [solution.handle for solution in whole.solutions]
    assert resumed.proof.excess == whole.proof.excess
    assert lazy_search(oracle, SearchSettings(0.03), state=state).calls == whole.calls
    assert len(oracle.asked) == whole.calls + 1


def test_a_line_that_was_cut_off_by_a_kill_is_asked_for_again(tmp_path):
    state = tmp_path / "search.jsonl"
    whole = lazy_search(best_of_n(4), SearchSettings(0.01), state=state)
    content = state.read_bytes()
    state.write_bytes(content[:-20])
    oracle = Counting(best_of_n(4))
    assert lazy_search(oracle, SearchSettings(0.01), state=state).calls == whole.calls
    assert (len(oracle.asked), state.read_bytes()) == (1, content)


def test_a_state_of_another_search_is_refused(tmp_path):
    state = tmp_path / "search.jsonl"
    lazy_search(best_of_n(4), SearchSettings(0.01), state=state)
    with pytest.raises(StateInvalid, match=r"search.jsonl line 1 is of 2 rewards and beta 0; the oracle has 3 and 0"):
        read_state(state, 3, 0.0)
    with pytest.raises(StateInvalid, match=r"beta 0; the oracle has 2 and 0\.1"):
        lazy_search(best_of_n(4, beta=0.1), SearchSettings(0.0, 0.1), state=state)
    state.write_text("{}\n", encoding="utf-8")
    with pytest.raises(StateInvalid, match="line 1 is not a solution"):
        read_state(state, 2, 0.0)


# --- tightening and pruning


def test_tightening_brings_the_certificate_near_the_truth_without_new_members():
    oracle = best_of_n(6, 3)
    found = lazy_search(oracle, SearchSettings(0.05))
    chosen = range(found.calls)
    more = tighten(oracle, found.solutions, chosen, 0.05)
    proof = prove(more, 0.05, chosen=chosen)
    truth = max(1.0 - low / oracle.optimum(w) for low, w in zip(proof.corners.lower, proof.corners.weights, strict=True))
    assert truth - 1e-9 <= 1.0 - proof.ratio <= 1.26 * truth
    assert 1.0 - proof.ratio <= 1.0 - found.proof.ratio


@pytest.mark.parametrize(("dimensions", "epsilon"), [(2, 0.05), (3, 0.15)])
def test_a_pruned_portfolio_keeps_the_promise_and_none_smaller_does(dimensions, epsilon):
    oracle = best_of_n(7, dimensions, prompts=8, responses=4)
    found = lazy_search(oracle, SearchSettings(epsilon / 2))
    pruned = prune(found.solutions, epsilon)
    assert pruned.proof.ratio >= 1.0 - epsilon - 1e-9
    assert len(pruned.chosen) <= pruned.greedy <= found.calls
    assert pruned.exact
    for fewer in itertools.combinations(range(found.calls), len(pruned.chosen) - 1):
        assert prove(found.solutions, epsilon, chosen=fewer).excess > 1e-9


@pytest.mark.parametrize("most", [1, 2])
def test_of_portfolios_of_a_given_size_the_one_that_leaves_least_unproved_is_found(most):
    oracle = best_of_n(4, 3, prompts=8, responses=4)
    solutions = lazy_search(oracle, SearchSettings(0.02)).solutions
    found = prune_to(solutions, most, 0.0, tolerance=1e-4)
    least = min(prove(solutions, 0.0, chosen=some).excess for some in itertools.combinations(range(len(solutions)), most))
    assert len(found.chosen) <= most < len(prune(solutions, 0.02).chosen)
    assert found.proof.excess == pytest.approx(prove(solutions, 0.0, chosen=found.chosen).excess)
    assert found.proof.excess <= least + 1e-4
    assert prune_to(solutions, len(solutions), 0.02).chosen == prune(solutions, 0.02).chosen
    # Of two that are as good the preferred one is kept.
    twice = [*solutions, *(replace(one, handle=f"{one.handle} again") for one in solutions)]
    later = np.repeat([0.0, 1.0], len(solutions))
    assert min(prune_to(twice, most, 0.0, prefer=later).chosen) >= len(solutions) > max(prune_to(twice, most, 0.0, prefer=1 - later).chosen)
    with pytest.raises(ValueError, match="at most 0 members"):
        prune_to(solutions, 0, 0.02)


def test_duplicate_members_are_pruned_to_one():
    oracle = best_of_n(1)
    twice = [oracle.solve(weights) for weights in np.concatenate([users(2, 5), users(2, 5), np.eye(2)])]
    pruned = prune(twice, 0.1)
    values = [tuple(twice[index].value) for index in pruned.chosen]
    assert len(values) == len(set(values))


def test_policies_that_are_not_enough_are_refused_with_the_numbers():
    oracle = best_of_n(0, 3)
    with pytest.raises(NotCovered, match=r"all 3 policies leave 0\.\d+ at weights .* more than delta 0, with epsilon 0.001"):
        prune([oracle.solve(weights) for weights in np.eye(3)], 0.001)


def test_the_smallest_cover_is_smaller_than_the_greedy_one_where_greed_is_misled():
    # The third column covers most at first, and then both others are needed too.
    covers = np.array([[1, 0, 1], [1, 0, 1], [1, 0, 0], [0, 1, 1], [0, 1, 1], [0, 1, 0]], dtype=bool)
    assert smallest_cover(covers) == ((0, 1), True)
    assert greedy_cover(covers) == (0, 1, 2)
    with pytest.raises(NotCovered, match="1 of 7 users"):
        smallest_cover(np.concatenate([covers, np.zeros((1, 3), dtype=bool)]))


def test_of_covers_of_one_size_the_preferred_is_taken():
    covers = np.ones((2, 3), dtype=bool)
    assert smallest_cover(covers, prefer=np.array([0.1, 0.9, 0.2])) == ((1,), True)


# --- grid


def round_down(weights, epsilon, delta):
    """Returns the grid's weights that serve the users `weights` `[N, d]`, with the greatest entry 1, `[N, d]`."""
    levels = grid_levels(weights.shape[1], epsilon, delta)
    scaled = weights / weights.max(axis=1, keepdims=True)
    rounded = levels[np.searchsorted(levels, scaled + 1e-12, side="right") - 1]
    rounded[np.arange(len(weights)), weights.argmax(axis=1)] = 1.0
    return rounded


def test_the_grid_keeps_its_bound_for_every_user():
    epsilon, delta = 0.2, 0.1
    for dimensions in (2, 3):
        oracle = best_of_n(dimensions, dimensions)
        weights = users(dimensions, 60)
        scaled = weights / weights.max(axis=1, keepdims=True)
        for user, grid in zip(scaled, round_down(weights, epsilon, delta), strict=True):
            solution = oracle.solve(grid / grid.sum())
            best = oracle.optimum(user / user.sum()) * user.sum()
            assert user @ solution.value >= (best - delta) / (1.0 + epsilon) - 1e-12


def test_the_grid_is_no_greater_than_its_formula_and_has_every_rounded_user():
    grid = grid_weights(3, 0.5, 0.2)
    assert len(grid) <= grid_bound(3, 0.5, 0.2) == 3 * (5 + 2) ** 2  # J = floor(ln(2 / .2) / ln 1.5) = 5
    assert grid_levels(3, 0.5, 0.2)[:2].tolist() == [0.0, 0.1]
    rounded = round_down(users(3, 50), 0.5, 0.2)
    near = [np.min(np.abs(grid - row / row.sum()).max(axis=1)) for row in rounded]
    assert max(near) < 1e-9


@pytest.mark.parametrize(("dimensions", "epsilon", "delta"), [(1, 0.1, 0.1), (2, 0.0, 0.1), (2, 0.1, 0.0)])
def test_a_grid_that_would_have_no_end_is_refused(dimensions, epsilon, delta):
    with pytest.raises(ValueError, match=f"a grid over {dimensions} rewards"):
        grid_weights(dimensions, epsilon, delta)


def test_a_grid_that_is_too_large_says_how_large():
    with pytest.raises(ValueError, match="search lazily"):
        grid_weights(4, 0.02, 0.01)


def test_the_search_over_rewards_that_agree_needs_one_policy():
    same = np.random.default_rng(0).uniform(size=(5, 4, 1)) * np.ones(3)
    found = lazy_search(BestOfN(same), SearchSettings(0.01))
    assert (found.calls, len(prune(found.solutions, 0.01).chosen)) == (3, 1)
