"""Choices that are predicted together: each as it is alone, whoever stands beside it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attune.models.data.preferences import Comparison, Comparisons
from attune.models.measuring.families.learners import ServedLearner
from attune.models.measuring.rows import Rows
from attune.models.seam.families import Families
from attune.models.seam.family import reward_difference
from attune.models.seam.trust import ALWAYS, NEVER
from tests.seam import examples
from tests.seam.users import FAMILY_NAMES, evidence_of, seeds

TRUSTS = st.sampled_from([ALWAYS, NEVER, 0.0, 2.0])


def some_choices(rng, count):
    """Returns choices among which is one between equal texts."""
    made = [(examples.row(rng), examples.row(rng), examples.row(rng)) for _ in range(count)]
    return [(made[0][0], made[0][0], made[0][2]), *made[1:]]


@settings(max_examples=min(25, settings.default.max_examples))
@given(seed=seeds, count=st.integers(1, 17), trust=TRUSTS, known=st.booleans())
def test_choices_predicted_together_are_predicted_as_each_is_alone(seed, count, trust, known):
    rng = np.random.default_rng(seed)
    families = Families(examples.families(rng), dict.fromkeys(FAMILY_NAMES, trust))
    assert set(families.names) == set(FAMILY_NAMES)
    evidence = evidence_of(families, rng) if known else families.prior()
    choices = some_choices(rng, count)
    together = families.predict_all(evidence, *families.stacked(choices))
    alone = [families.predict(evidence, *one) for one in choices]
    for name in FAMILY_NAMES:
        assert together[name].shape == (count,)
        assert together[name] == pytest.approx([one[name] for one in alone], rel=1e-12, abs=1e-15)
        assert together[name][0] == pytest.approx(0.5, abs=1e-12)


@settings(max_examples=min(25, settings.default.max_examples))
@given(seed=seeds)
def test_a_prediction_does_not_depend_on_what_is_predicted_beside_it(seed):
    rng = np.random.default_rng(seed)
    families = examples.all_families(rng)
    evidence = evidence_of(families, rng)
    choices = some_choices(rng, 9)
    whole = families.predict_all(evidence, *families.stacked(choices))
    part = families.predict_all(evidence, *families.stacked(choices[3:8]))
    for name in FAMILY_NAMES:
        assert np.array_equal(whole[name][3:8], part[name])


@pytest.mark.parametrize("name", FAMILY_NAMES)
@pytest.mark.parametrize("trust", [ALWAYS, 1.0])
def test_a_learner_says_of_many_targets_what_the_server_says_of_each(name, trust, rng):
    families = Families(examples.families(rng), dict.fromkeys(FAMILY_NAMES, trust))
    texts = [examples.row(rng) for _ in range(12)]
    rows = Rows(tuple(examples.row(rng) for _ in range(3)), tuple(texts))
    places = np.arange(6)
    table = Comparisons.from_records(Comparison("ann", f"p{at % 3}", f"a{at}", f"b{at}", tie=at == 5) for at in range(6))
    told = replace(table, chosen=places, rejected=places + 6, prompt=places % 3)
    said = ServedLearner(families[name], rows, trust).predict(told, told)
    one = Families([families[name]], {name: trust})
    evidence = one.prior()
    for at in range(6):
        evidence = evidence + one.learn(texts[at], texts[at + 6], rows.prompts[at % 3], tie=at == 5, known=evidence)
    weights = []
    for at in range(6):
        choice = (texts[at], texts[at + 6], rows.prompts[at % 3])
        scored = one.score(name, evidence, reward_difference(f"{name}_rewards", *choice[:2])[None], choice[2])
        weights.append(scored.weights)
        assert said.probabilities[at] == pytest.approx(one.predict(evidence, *choice)[name], rel=1e-12)
        assert said.spreads[at] == pytest.approx(one[name].logit_scale * scored.stds[0], rel=1e-12)
    assert said.weights == pytest.approx(np.mean(weights, axis=0), rel=1e-12)
