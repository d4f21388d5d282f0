"""Member effects: additive to the bit, independent of who else serves, vanishing with the difference, and right in closed form."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attune.models.seam import weighted
from attune.models.seam.additive import curvature
from attune.models.seam.families import Families
from attune.models.seam.families_file import FamiliesInvalid, read_families, write_families
from attune.models.seam.member_effects import MemberEffects, code_of
from attune.models.seam.weighted import Compared
from tests.seam import examples
from tests.seam.users import seeds

FAMILY = "attributes"
EFFECTS = MemberEffects(FAMILY, shared=0.8, personal=0.5)
NAMES = ("gpt-short", "gpt-long", "mistral:7b", "llama/70b", "own.model", "claude_x")


def families(rng: np.random.Generator) -> Families:
    return Families([examples.attributes(rng), examples.micro(rng)], effects=EFFECTS)


def compared(rng: np.random.Generator, author: str, rival: str, **more: object) -> Compared:
    return Compared(examples.row(rng), examples.row(rng), examples.row(rng), direction=EFFECTS.direction(author, rival), **more)  # type: ignore[arg-type]


def block(author: str, rival: str, *, margin: float = 0.0, variance: float = 0.0, apart: float = 3.0, tie: bool = False) -> np.ndarray:
    return EFFECTS.evidence(EFFECTS.direction(author, rival), (margin, variance), apart, tie=tie)


@settings(max_examples=min(15, settings.default.max_examples))
@given(seed=seeds)
def test_evidence_of_authors_adds_up_in_any_order_and_is_taken_back_to_the_bit(seed):
    rng = np.random.default_rng(seed)
    known = families(rng)
    pairs = [compared(rng, *rng.choice(NAMES, 2, replace=False), tie=bool(rng.integers(2)), weight=rng.uniform(0.1, 1)) for _ in range(9)]
    added = [known.study_all(known.prior(), (one,))[0] for one in pairs]
    forwards, backwards = np.sum(added, axis=0), np.sum(added[::-1], axis=0)
    assert known.effects_part(forwards).any()
    assert forwards.tolist() == backwards.tolist()
    assert (forwards - added[4]).tolist() == np.sum(added[:4] + added[5:], axis=0).tolist()


@settings(max_examples=min(15, settings.default.max_examples))
@given(seed=seeds)
def test_one_author_or_an_unknown_one_adds_nothing_of_authors_and_the_rest_stays_as_it_is(seed):
    rng = np.random.default_rng(seed)
    known, plain = families(rng), None
    rows = examples.row(rng), examples.row(rng), examples.row(rng)
    plain = Families([known[FAMILY], known["micro"]])
    of_nobody, _ = known.study_all(known.prior(), (Compared(*rows),))
    of_one, _ = known.study_all(known.prior(), (Compared(*rows, direction=EFFECTS.direction("a", "a")),))
    of_two, _ = known.study_all(known.prior(), (Compared(*rows, direction=EFFECTS.direction("a", "b")),))
    assert not known.effects_part(of_nobody).any()
    assert not known.effects_part(of_one).any()
    assert of_two[: plain.evidence_size].tolist() == plain.learn(*rows).tolist()


@settings(max_examples=min(25, settings.default.max_examples))
@given(seed=seeds, apart=st.floats(1e-4, 1e-2), tie=st.booleans())
def test_what_a_choice_says_of_authors_vanishes_with_the_difference_of_their_texts(seed, apart, tie):
    margin = float(np.random.default_rng(seed).normal())
    assert not block("a", "b", apart=0.0, margin=margin, tie=tie).any()
    whole, half = (block("a", "b", apart=part, margin=margin, tie=tie) for part in (apart, apart / 2))
    assert np.abs(half).sum() == pytest.approx(np.abs(whole).sum() / 4, rel=0.03)
    assert np.abs(whole).max() <= 3 * apart**2


def test_two_members_are_read_as_the_posterior_of_their_difference():
    # Precision c along a difference of variance 2 (shared^2 + personal^2), nothing known of everybody: one dimension, by hand.
    own = sum(block("a", "b") for _ in range(7))
    slope, prior = float(curvature(np.array(0.0))) * 0.9, 2 * (EFFECTS.shared**2 + EFFECTS.personal**2)
    variance = 1 / (1 / prior + 7 * slope)
    mean, found = EFFECTS.everybody(("a", "b"), None).along(own, EFFECTS.direction("a", "b"))
    assert (mean, found) == pytest.approx((variance * 7 * 0.45, variance), rel=0.01)


@pytest.mark.parametrize("others", [(), NAMES[2:4], NAMES[2:]])
def test_what_is_known_of_two_does_not_depend_on_who_else_serves_and_says_nothing_of_them(others):
    own = sum(block("a", "b") for _ in range(20)) + block("b", "a", margin=0.5)
    alone, among = EFFECTS.everybody(("a", "b"), None).of(own), EFFECTS.everybody(("a", "b", *others), None).of(own)
    assert among.mean[:2] == pytest.approx(alone.mean, abs=1e-9)
    assert among.covariance[:2, :2] == pytest.approx(alone.covariance, abs=1e-9)
    assert among.mean[2:] == pytest.approx(np.zeros(len(others)), abs=1e-9)
    trusted = EFFECTS.everybody(("a",), None).trusted
    assert among.std[2:] == pytest.approx(trusted * np.full(len(others), np.hypot(0.8, 0.5)), rel=1e-9)


def test_members_that_left_are_kept_apart_from_those_that_serve():
    # c beat b, and b beat a: what was said of the member that left orders the two that stay.
    own = sum(block("gone", "b") + block("a", "gone") for _ in range(30))
    with_gone = EFFECTS.everybody(("a", "b", "new"), None, others=("gone",)).of(own)
    assert with_gone.mean[0] > 0.2 > -0.2 > with_gone.mean[1]
    assert with_gone.mean[2] == pytest.approx(0.0, abs=1e-9)


def test_more_members_than_axes_are_told_apart_in_the_main():
    names = tuple(f"member-{number}" for number in range(20))
    own = sum(block(names[0], other) for other in names[1:] for _ in range(10))
    found = EFFECTS.everybody(names, None).of(own)
    assert found.mean.argmax() == 0
    assert np.all(np.linalg.eigvalsh(found.covariance) > -1e-9)


def test_everybody_is_the_prior_of_a_user_who_differs_from_it_as_far_as_users_do():
    summed = np.concatenate([sum(block("a", "b") for _ in range(2000)), [0.0, 0.0]])
    known = EFFECTS.everybody(("a", "b"), summed)
    assert known.shared.mean[0] - known.shared.mean[1] == pytest.approx(2.0, abs=0.1)  # half of every choice is pull, 0.9 / 4 of it slope
    mean, variance = known.along(np.zeros(EFFECTS.evidence_size), EFFECTS.direction("a", "b"))
    assert mean == pytest.approx(2.0, abs=0.1)
    assert variance == pytest.approx(2 * EFFECTS.personal**2, rel=0.02)


@pytest.mark.parametrize("choices", [1, 20, 400, 4000])
def test_one_users_many_choices_tell_of_everybody_what_that_user_can_tell(choices):
    direction, own = EFFECTS.direction("a", "b"), np.zeros(EFFECTS.evidence_size)
    summed, added = np.zeros_like(own), block("a", "b")
    for _ in range(choices):
        summed, own = summed + EFFECTS.discount(own, direction) * added, own + added
    # By hand: the user's own difference is noise between what was said, of 0.9 / 4 of precision a choice, and everybody's.
    told = 1.0 / (1.0 / (choices * 0.225) + 2 * EFFECTS.personal**2)
    shared = EFFECTS.everybody(("a", "b"), np.concatenate([summed, [0.0, 0.0]])).shared.covariance
    variance = shared[0, 0] + shared[1, 1] - 2 * shared[0, 1]
    assert 1.0 / variance - 1.0 / (2 * EFFECTS.shared**2) == pytest.approx(told, rel=0.13)


def test_effects_that_predict_worse_than_the_texts_lose_their_trust():
    nothing = np.zeros(EFFECTS.evidence_size)
    helpful, harmful = (np.concatenate([nothing, lost]) for lost in ([0.0, 30.0], [30.0, 0.0]))
    start, good, bad = (EFFECTS.everybody(("a", "b"), summed) for summed in (None, helpful, harmful))
    assert good.trusted > 0.999 > start.trusted > 0.8 > 1e-9 > bad.trusted
    own = sum(block("a", "b") for _ in range(20))
    assert abs(bad.of(own).mean).max() < 1e-9
    assert bad.of(own).std.max() < 1e-9


def test_a_million_equal_comparisons_leave_a_gaussian():
    own = 1e6 * block("a", "b", margin=0.37, variance=0.8)
    found = EFFECTS.everybody((*NAMES, "a", "b"), None).of(own)
    assert np.all(np.isfinite(found.covariance))
    assert np.all(np.linalg.eigvalsh(found.covariance) > -1e-9)


def test_a_million_equal_rankings_leave_a_gaussian(rng):
    known, names = families(rng), NAMES[:5]
    told = weighted.ranked([examples.row(rng) for _ in names], examples.row(rng), codes=[code_of(name, EFFECTS.size) for name in names])
    own = 1_000_000 * known.effects_part(known.study_all(known.prior(), told)[0])
    after = EFFECTS.everybody(names, None).of(own)
    assert np.linalg.eigvalsh(after.covariance).min() > 0
    assert (after.std**2 <= EFFECTS.shared**2 + EFFECTS.personal**2).all()


def test_drawn_effects_have_their_mean_and_covariance():
    own = sum(block(*pair) for pair in itertools.combinations(NAMES[:4], 2) for _ in range(5))
    effects = EFFECTS.everybody(NAMES[:4], None).of(own)
    drawn = effects.sampled(np.random.default_rng(3), 200_000)
    assert drawn.mean(axis=0) == pytest.approx(effects.mean, abs=0.01)
    assert np.cov(drawn.T) == pytest.approx(effects.covariance, abs=0.01)


def test_every_form_tells_of_the_authors_of_its_answers():
    rng = np.random.default_rng(5)
    rows, prompt = [examples.row(rng) for _ in range(3)], examples.row(rng)
    codes = [code_of(name, EFFECTS.size) for name in ("a", "b", "c")]
    (told,) = weighted.pair(rows[0], rows[1], prompt, codes=codes[:2])
    assert told.direction is not None
    assert told.direction.tolist() == (codes[0] - codes[1]).tolist()
    better, worse = weighted.graded(rows[0], rows[1], prompt, 0.7, codes=codes[:2])
    assert better.direction is not None
    assert worse.direction is not None
    assert better.direction.tolist() == (-worse.direction).tolist()
    ranked = weighted.ranked(rows, prompt, codes=codes)
    expected = [(codes[first] - codes[second]).tolist() for first, second in ((0, 1), (0, 2), (1, 2))]
    assert [None if one.direction is None else one.direction.tolist() for one in ranked] == expected


def test_effects_are_kept_in_the_file_of_families_and_damage_is_named():
    rng = np.random.default_rng(0)
    listed = [examples.attributes(rng)]
    files = write_families(listed, FAMILY, effects=EFFECTS)
    read, _ = read_families(files["families.json"], files["families.npz"])
    assert read.effects == EFFECTS
    assert read_families(*write_families(listed, FAMILY).values())[0].effects is None
    for broken in (b'"shared": -1', b'"shared": "much"', b'"unheard": 1'):
        damaged = files["families.json"].replace(b'"shared": 0.8', broken)
        with pytest.raises(FamiliesInvalid):
            read_families(damaged, files["families.npz"])
    with pytest.raises(ValueError, match="beside family 'vrf'"):
        Families(listed, effects=MemberEffects("vrf", 1.0, 1.0))
