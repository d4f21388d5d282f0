"""What a comparison says vanishes with the difference of its texts, in every family: votes as the difference, precision as its square."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attune.models.seam.additive import Additive
from attune.models.seam.attributes import Attributes
from attune.models.seam.families import Families, Family, Row
from attune.models.seam.vrf import Vrf
from tests.seam import examples
from tests.seam.users import seeds

LEARNING = tuple(family.name for family in examples.families(np.random.default_rng(0)) if family.evidence_size)


def nearly(first: Row, second: Row, share: float) -> Row:
    """Returns a row that lies beside `second`, so far as `share` of the way to `first`."""
    return {name: second[name] + share * (first[name].astype(np.float64) - second[name]) for name in first}


def precision_of(family: Family, evidence: np.ndarray) -> np.ndarray:
    match family:
        case Vrf():
            return evidence[: len(evidence) // 2]
        case Additive():
            return evidence[family.axes :]
        case Attributes():
            return evidence[len(family.heads) :]
    return np.zeros(0)


@pytest.mark.parametrize("name", LEARNING)
@settings(max_examples=min(20, settings.default.max_examples))
@given(seed=seeds, tie=st.booleans())
def test_equal_texts_and_ties_between_them_add_nothing(name, seed, tie):
    rng = np.random.default_rng(seed)
    families = Families([examples.all_families(rng)[name]])
    row, prompt = examples.row(rng), examples.row(rng)
    assert families.learn(row, row, prompt, tie=tie).tolist() == [0.0] * families.evidence_size


@pytest.mark.parametrize("name", LEARNING)
@settings(max_examples=min(20, settings.default.max_examples))
@given(seed=seeds, share=st.floats(1e-4, 1e-2), tie=st.booleans())
def test_halving_a_small_difference_halves_the_vote_and_quarters_the_precision(name, seed, share, tie):
    rng = np.random.default_rng(seed)
    family = examples.all_families(rng)[name]
    first, second, prompt = examples.row(rng), examples.row(rng), examples.row(rng)
    whole, half = (family.learn(nearly(first, second, part), second, prompt, tie=tie) for part in (share, share / 2))
    # A tie between texts that hardly differ moves as the square at most, unless everybody prefers one of them.
    assert np.linalg.norm(half) <= 0.52 * np.linalg.norm(whole) + 1e-12
    sizes = [float(np.abs(precision_of(family, evidence)).sum()) for evidence in (half, whole)]
    assert sizes[0] == pytest.approx(sizes[1] / 4, rel=0.1, abs=1e-12)


@pytest.mark.parametrize("name", [name for name in LEARNING if name in {"vrf", "additive", "attributes"}])
@settings(max_examples=min(20, settings.default.max_examples))
@given(seed=seeds)
def test_texts_that_differ_more_are_not_less_informative_near_nothing(name, seed):
    rng = np.random.default_rng(seed)
    family = examples.all_families(rng)[name]
    first, second, prompt = examples.row(rng), examples.row(rng), examples.row(rng)
    sizes = [
        float(np.abs(precision_of(family, family.learn(nearly(first, second, share), second, prompt, tie=False))).sum())
        for share in (0.0, 0.01, 0.02, 0.05, 0.1)
    ]
    assert sizes == sorted(sizes)


@pytest.mark.parametrize("name", LEARNING)
def test_two_hundred_choices_between_nearly_equal_texts_leave_what_ten_real_ones_taught(rng, name):
    families = Families([examples.all_families(rng)[name]], {name: 2.0})
    prompt, liked, other = examples.row(rng), examples.row(rng), examples.row(rng)
    near = nearly(liked, other, 2e-3)
    evidence = families.prior()
    for _ in range(10):
        evidence = evidence + families.learn(liked, other, prompt, known=evidence)

    def gap():
        rewards = np.array([row[f"{name}_rewards"] for row in (liked, other)], dtype=np.float64)
        scores = families.score(name, evidence, rewards, prompt).scores
        return float(scores[0] - scores[1])

    before = gap()
    for turn in range(200):
        told = (near, other) if turn % 2 else (other, near)
        evidence = evidence + families.learn(*told, prompt, tie=turn % 5 == 0, known=evidence)
    assert gap() == pytest.approx(before, rel=0.01)
