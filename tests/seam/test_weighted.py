"""Every kind of feedback is a sum of weighted comparisons, and thumbs on single answers find out whom they come from."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from attune.models.seam.additive import Additive
from attune.models.seam.evidence import GRID, MAX_EVIDENCE
from attune.models.seam.families import Families, Row
from attune.models.seam.family import Family
from attune.models.seam.hedge import HedgeSettings
from attune.models.seam.micro import Micro
from attune.models.seam.trust import ALWAYS, NEVER
from attune.models.seam.weighted import (
    IMPLICIT,
    MOST_APART,
    Compared,
    agrees,
    further_with_rewards,
    graded,
    pair,
    ranked,
    tells_order,
    usual_answer,
)
from tests.seam import examples
from tests.seam.users import FAMILY_NAMES, evidence_of, seeds

HEADS = ("a", "b", "c")


def parts(families: Families, vector: np.ndarray) -> np.ndarray:
    """The slices that do not depend on what was known."""
    return np.concatenate([families.part(name, vector) for name in families.names])


def test_a_whole_pair_is_what_it_was_and_a_weight_scales_it(rng):
    families = examples.all_families(rng)
    rows = examples.row(rng), examples.row(rng), examples.row(rng)
    whole, told = families.study_all(families.prior(), pair(*rows))
    assert whole.tobytes() == families.study(families.prior(), *rows)[0].tobytes()
    assert {name: found for name, (found,) in told.items()} == families.predict(families.prior(), *rows)
    for how, weight in IMPLICIT.items():
        part, _ = families.study_all(families.prior(), pair(*rows, how=how))
        assert np.allclose(part, weight * whole, rtol=2**-9, atol=GRID)
        assert 0 < weight < 1


def test_a_thumb_is_a_pair_with_the_usual_answer_and_a_grade_lies_between(rng):
    families = examples.all_families(rng)
    answer, usual, prompt = examples.row(rng), examples.row(rng), examples.row(rng)

    def evidence(grade: float) -> np.ndarray:
        return parts(families, families.study_all(families.prior(), graded(answer, usual, prompt, grade))[0])

    up, down = families.learn(answer, usual, prompt), families.learn(usual, answer, prompt)
    assert np.array_equal(evidence(1.0), parts(families, up))
    assert np.array_equal(evidence(0.0), parts(families, down))
    assert np.allclose(evidence(0.75), 0.75 * parts(families, up) + 0.25 * parts(families, down), rtol=2**-8, atol=2**-10)
    for grade in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="from 0 to 1"):
            graded(answer, usual, prompt, grade)


def test_a_ranking_has_a_stage_less_than_answers_each_as_heavy_as_a_pair(rng):
    rows, prompt = [examples.row(rng) for _ in range(4)], examples.row(rng)
    stages = ranked(rows, prompt)
    assert [(rows.index(one.chosen), rows.index(one.rejected)) for one in stages] == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    assert [one.weight for one in stages] == pytest.approx([1 / 3, 1 / 3, 1 / 3, 1 / 2, 1 / 2, 1])
    assert ranked(rows[:2], prompt) == pair(rows[0], rows[1], prompt)


def test_evidence_of_any_form_lies_on_the_grid_and_is_taken_back_exactly(rng):
    families = examples.all_families(rng)
    rows, prompt = [examples.row(rng) for _ in range(4)], examples.row(rng)
    before = families.learn(rows[0], rows[1], prompt)
    for form in (ranked(rows, prompt), graded(rows[0], rows[1], prompt, 0.3), pair(rows[0], rows[1], prompt, how="copy")):
        evidence, _ = families.study_all(before, form)
        assert np.array_equal(evidence / GRID, np.rint(evidence / GRID))
        assert ((before + evidence) - evidence).tobytes() == before.tobytes()


def test_a_ranking_of_very_different_answers_stays_a_precision():
    family = examples.additive()
    families = Families([family])
    rng = np.random.default_rng(3)
    rows = [{f"{family.name}_rewards": (1e4 * rng.normal(size=len(family.heads))).astype(np.float32)} for _ in range(8)]
    evidence, _ = families.study_all(families.prior(), ranked(rows, {}))
    _, std = family.posterior(families.part(family.name, evidence))
    assert np.all(std > 0)
    assert np.all(std < 1)


def test_a_form_is_agreed_with_where_most_of_its_weight_was_predicted(rng):
    one, two, three, prompt = (examples.row(rng) for _ in range(4))
    assert agrees(graded(one, two, prompt, 0.8), (0.6, 0.4)) is True
    assert agrees(graded(one, two, prompt, 0.8), (0.4, 0.6)) is False
    assert agrees(ranked([one, two, three], prompt), (0.9, 0.9, 0.1)) is False
    assert agrees(ranked([one, two, three], prompt), (0.9, 0.2, 0.9)) is True


def test_an_even_grade_and_a_tie_tell_no_order(rng):
    one, two, three, prompt = (examples.row(rng) for _ in range(4))
    assert not tells_order(graded(one, two, prompt, 0.5))
    assert not tells_order(pair(one, two, prompt, tie=True))
    for form in (graded(one, two, prompt, 0.8), pair(one, two, prompt), ranked([one, two, three], prompt)):
        assert tells_order(form)


def test_two_answers_in_the_same_words_tell_no_order_unless_their_authors_differ(rng):
    one, two, prompt = (examples.row(rng) for _ in range(3))
    same = {name: numbers.copy() for name, numbers in one.items()}
    assert not tells_order(pair(one, same, prompt))
    assert not tells_order(pair(one, same, prompt, codes=(np.ones(2), np.ones(2))))
    assert tells_order(pair(one, same, prompt, codes=(np.eye(2)[0], np.eye(2)[1])))
    assert tells_order(ranked([one, same, two], prompt))
    scored_now = same | {"pooled": np.ones(4)}
    assert not tells_order(pair(one, scored_now, prompt))
    assert not tells_order(pair(scored_now, one, prompt))
    assert tells_order(pair(scored_now, two, prompt))


@settings(max_examples=min(25, settings.default.max_examples))
@given(seed=seeds, count=st.integers(1, 5), trust=st.sampled_from([ALWAYS, NEVER, 1.0]))
def test_what_is_told_together_is_predicted_as_each_is_alone(seed, count, trust):
    rng = np.random.default_rng(seed)
    families = Families(examples.families(rng), dict.fromkeys(FAMILY_NAMES, trust))
    known = evidence_of(families, rng)
    form = [Compared(examples.row(rng), examples.row(rng), examples.row(rng), 0.5, tie=at == 1) for at in range(count)]
    together, told = families.study_all(known, form)
    alone = [families.study_all(known, [one]) for one in form]
    for name in FAMILY_NAMES:
        np.testing.assert_allclose(told[name], [said[name][0] for _, said in alone], rtol=1e-12)
    # Each is rounded to eleven bits by itself, and so is their sum.
    sizes = np.sum([np.abs(evidence) for evidence, _ in alone], axis=0)
    assume(sizes.max() < MAX_EVIDENCE)  # more than that no event tells, however much is in it
    assert np.all(np.abs(together - sum(evidence for evidence, _ in alone)) <= 2.0**-10 * sizes + GRID * count)


# --- the usual answer -----------------------------------------------------------------------------------------------


def test_the_usual_answer_has_the_members_rewards_but_is_never_very_far():
    families: list[Family] = [examples.additive()]
    answer: Row = {"additive_rewards": np.zeros(5, dtype=np.float32)}
    near, far = np.array([1.0, -2.0, 0.5, 0.0, 3.0]), np.array([10.0, -20.0, 5.0, 0.0, 0.0])
    assert np.allclose(usual_answer(families, answer, {"additive": near}, {})["additive_rewards"], near)
    brought = usual_answer(families, answer, {"additive": far}, {})["additive_rewards"]
    assert np.allclose(brought, far * MOST_APART / 20.0)


def test_further_outputs_of_the_usual_answer_go_with_its_rewards():
    rng = np.random.default_rng(5)
    family, true = examples.pointing_vrf(), rng.normal(size=(3, 3))
    rewards = rng.normal(size=(200, 3))
    answers = {"vrf_rewards": rewards.astype(np.float32), "vrf_features": (rewards @ true + 7.0).astype(np.float32)}
    further = further_with_rewards([family], answers)
    assert np.allclose(further["vrf_features"], true, atol=0.25 * np.abs(true).max())
    answer: Row = {name: array[0] for name, array in answers.items()}
    usual = usual_answer([family], answer, {"vrf": np.zeros(3)}, further)
    assert np.allclose(usual["vrf_features"] - answer["vrf_features"], -rewards[0] @ further["vrf_features"], atol=1e-5)
    alone = further_with_rewards([family], {name: array[:1] for name, array in answers.items()})
    assert not alone["vrf_features"].any()


# --- thumbs tell who somebody is ------------------------------------------------------------------------------------


def taught_by_thumbs(family: Family, taste: int, rng: np.random.Generator, shown: int = 30) -> np.ndarray:
    """Returns the sum of a user who likes head `taste`, and says thumbs up or down to one answer of a random member at a time."""
    families = Families([family])
    # Each member is good under one head; answers vary around what their author gives.
    members = 1.5 * np.eye(3)[:, [0, 1, 2]]
    total = families.prior()
    for _ in range(shown):
        rewards = members[rng.integers(3)] + 0.5 * rng.normal(size=3)
        answer = row_of(family, rewards)
        usual = usual_answer([family], answer, {family.name: row_of(family, members.mean(axis=0))[f"{family.name}_rewards"]}, {})
        liked = rng.random() < 1.0 / (1.0 + np.exp(-3.0 * (rewards[taste] - members.mean(axis=0)[taste])))
        total = total + families.study_all(total, graded(answer, usual, {"micro_gate": np.log(np.full(3, 1 / 3))}, float(liked)))[0]
    return total


def row_of(family: Family, rewards: np.ndarray) -> Row:
    if family.name == "additive":  # everybody's head, then both ends of three taste axes
        shared = rewards.mean()
        return {"additive_rewards": np.array([shared, *(shared + 2.0 * rewards), *(shared - 2.0 * rewards)], dtype=np.float32)}
    return {"micro_rewards": rewards.astype(np.float32)}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["micro", "additive"])
def test_thumbs_on_single_answers_recover_known_tastes(name: str):
    ends = ("x+", "y+", "z+", "x-", "y-", "z-")
    family: Family = (
        Micro("micro", HEADS, 1.5, HedgeSettings(eta=1.0, cap=4.0), np.log(np.full(3, 1 / 3)), np.ones(3, dtype=np.bool_))
        if name == "micro"
        else Additive("additive", ("everybody", *ends), 1.0, 2.0)
    )
    rng, users, found = np.random.default_rng(11), 60, 0
    for user in range(users):
        taste = user % 3
        total = taught_by_thumbs(family, taste, rng)
        rewards = np.array([row_of(family, 1.5 * np.eye(3)[member])[f"{name}_rewards"] for member in range(3)], dtype=np.float64)
        scores = family.score(Families([family]).part(name, total), rewards, {"micro_gate": np.log(np.full(3, 1 / 3))}).scores
        found += int(np.argmax(scores)) == taste
    assert found / users >= 0.75


def test_a_comparison_counts_once_unless_it_says_otherwise(rng):
    assert Compared(examples.row(rng), examples.row(rng), examples.row(rng)).weight == 1.0
