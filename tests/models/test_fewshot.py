from __future__ import annotations

import numpy as np
import pytest

from attune.models.data.preferences import Comparison, Comparisons
from attune.models.measuring.families.fewshot import cut, few_shot
from attune.models.measuring.rows import Rows
from attune.models.seam.bradley_terry import BradleyTerry
from attune.models.seam.families import Families
from attune.models.seam.hedge import HedgeSettings
from attune.models.seam.micro import Micro
from demo.drawn import bradley_terry_choice, draw_comparisons, flipped_choice
from tests.models.small_world import small_texts

HEADS = Families(
    [
        BradleyTerry("bradley_terry", ("quality",), 2.0),
        Micro("micro", ("up", "down"), 2.0, HedgeSettings(), np.log([0.5, 0.5]), np.ones(2, dtype=bool)),
    ]
)


def opposed(users=8, per_user=40, noise=0.0):
    """Returns rows whose two heads are a number and its opposite, and users who want it high or low."""
    texts = small_texts()
    number = np.random.default_rng(0).normal(size=len(texts.candidates)).astype(np.float32)
    candidates = tuple({"bradley_terry_rewards": np.array([x]), "micro_rewards": np.array([x, -x])} for x in number)
    prompts = tuple({"micro_gate": np.log(np.array([0.5, 0.5], dtype=np.float32))} for _ in texts.prompts)
    utilities = np.outer(number, np.where(np.arange(users) % 2 == 0, 1.0, -1.0))
    told = draw_comparisons(texts, utilities, per_user=per_user, choose=flipped_choice(noise), seed=1, least_gap=0.2)
    return Rows(prompts, candidates), told


def test_a_family_that_learns_rises_to_the_truth_and_the_global_head_stays_at_chance():
    rows, told = opposed()
    context, targets = cut(told, context=20, targets=20, seed=0)
    found = few_shot(HEADS, rows, context, targets)
    micro = [point.accuracy.mean for point in found.curves["micro"]]
    assert micro[0] == pytest.approx(0.5, abs=0.05)
    assert micro[-1] > 0.99
    assert len({point.accuracy.mean for point in found.curves["bradley_terry"]}) == 1
    assert found.curves["bradley_terry"][0].accuracy.mean == pytest.approx(0.5, abs=0.03)
    assert found.gain("micro", "bradley_terry", 5).low > 0.1
    assert found.curves["micro"][-1].nll.mean < found.curves["micro"][0].nll.mean
    assert (found.users, found.skipped) == (8, 0)


def test_a_count_is_learned_from_the_first_comparisons_alone():
    """The point at n is the same whether or not later counts are measured."""
    rows, told = opposed()
    context, targets = cut(told, context=20, targets=20, seed=0)
    alone = few_shot(HEADS, rows, context, targets, counts=(3,))
    among = few_shot(HEADS, rows, context, targets, counts=(0, 1, 3, 20))
    assert np.array_equal(alone.per_user["micro"][:, 0], among.per_user["micro"][:, 2])


def test_users_with_too_little_to_learn_or_to_predict_are_left_out_and_counted():
    rows, told = opposed()
    few = told.take(np.concatenate([np.flatnonzero(told.user < 6), np.flatnonzero(told.user == 6)[:10]]))
    context, targets = cut(few, context=5, targets=20, seed=0)
    found = few_shot(HEADS, rows, context, targets, counts=(0, 5), least_targets=10)
    assert (found.users, found.skipped) == (6, 1)
    with pytest.raises(ValueError, match="none of 7 users has 6 context comparisons and 10 targets"):
        few_shot(HEADS, rows, context, targets, counts=(6,), least_targets=10)


def test_no_pair_is_on_both_sides_of_a_cut_even_if_it_was_judged_twice():
    records = [Comparison("ann", "p", f"a{n % 3}", f"a{n % 3 + 1}") for n in range(12)]
    records += [Comparison("ann", "p", f"a{n % 3 + 1}", f"a{n % 3}") for n in range(12)]
    records += [Comparison("ann", "p", "b", "c", tie=True)]
    for seed in range(20):
        context, targets = cut(Comparisons.from_records(records), context=2, targets=30, seed=seed)
        sides = [
            {frozenset(pair) for pair in zip(part.chosen.tolist(), part.rejected.tolist(), strict=True)} for part in (context, targets)
        ]
        assert not sides[0] & sides[1]
        assert not context.tie.any()
        assert not targets.tie.any()


def test_drawn_users_prefer_by_their_utility_and_never_compare_a_text_with_itself():
    texts = small_texts()
    repeated = type(texts)(texts.prompts, tuple((prompt, "r0" if response == "r1" else response) for prompt, response in texts.candidates))
    utilities = np.random.default_rng(0).normal(size=(len(texts.candidates), 3))
    told = draw_comparisons(repeated, utilities, per_user=50, choose=flipped_choice(0.0), seed=2)
    assert len(told) == 150
    assert np.all(utilities[told.chosen, told.user] > utilities[told.rejected, told.user])
    texts_of = [repeated.candidates[index] for index in (*told.chosen, *told.rejected)]
    assert all(chosen != rejected for chosen, rejected in zip(texts_of[:150], texts_of[150:], strict=True))
    assert [len(rows) for rows in told.rows_of_users().values()] == [50, 50, 50]


def test_choices_follow_the_law_they_are_named_after():
    rng = np.random.default_rng(0)
    assert np.mean(bradley_terry_choice(8.0)(rng, np.full(20_000, 0.1))) == pytest.approx(1 / (1 + np.exp(-0.8)), abs=0.01)
    assert np.mean(flipped_choice(0.1)(rng, np.full(20_000, -3.0))) == pytest.approx(0.1, abs=0.01)


def test_a_gap_that_no_pair_has_is_refused_instead_of_searched_for_ever():
    texts = small_texts()
    with pytest.raises(ValueError, match="6 of the comparisons found no pair at least 9"):
        draw_comparisons(texts, np.zeros((len(texts.candidates), 2)), per_user=3, choose=flipped_choice(0.0), seed=0, least_gap=9.0)
