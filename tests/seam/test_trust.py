"""How far a user's own evidence is trusted: what is summed, what is mixed, and that nobody is much worse off than a stranger."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attune.models.seam import trust
from attune.models.seam.evidence import half, quantise
from attune.models.seam.families import Families
from tests.seam import examples
from tests.seam.users import evidence_of, seeds


def test_a_coins_prediction_costs_nothing_and_a_slip_no_more_than_the_cap():
    assert trust.losses(0.5, 0.25, tie=False).tolist() == pytest.approx([0.0, math.log(2.0)])
    assert trust.losses(0.0, 1e-9, tie=False).tolist() == pytest.approx([trust.MOST_LOSS - math.log(2.0)] * 2)
    # Of a tie both orders are half right: 0.5 (ln 4 + ln 4/3) - ln 2.
    assert trust.losses(0.5, 0.25, tie=True).tolist() == pytest.approx([0.0, 0.5 * math.log(16 / 3) - math.log(2.0)])


def test_the_share_is_the_logistic_of_the_difference_of_losses():
    assert trust.share(np.array([3.0, 3.0]), 0.0) == 0.5
    assert trust.share(np.array([1.0, 2.0]), 0.5) == pytest.approx(1 / (1 + math.exp(-1.5)))
    assert trust.share(np.array([2000.0, 0.0]), 0.0) == 0.0
    assert trust.share(np.array([9.0, 0.0]), trust.ALWAYS) == 1.0
    assert trust.share(np.array([0.0, 9.0]), trust.NEVER) == 0.0


@settings(max_examples=min(60, settings.default.max_examples))
@given(seed=seeds, prior=st.sampled_from([-1.0, 0.0, 2.0]))
def test_the_mixture_never_loses_more_than_its_prior_odds_to_either_view(seed, prior):
    rng = np.random.default_rng(seed)
    said = rng.uniform(0.05, 0.95, size=(200, 2))  # below the cap
    summed, mixed = np.zeros(2), 0.0
    for personal, anybody in said:
        share = trust.share(summed, prior)
        mixed -= math.log(share * personal + (1 - share) * anybody)
        summed += trust.losses(personal, anybody, tie=False)
    total = -np.log(said).sum(axis=0)
    assert mixed <= total[1] + math.log1p(math.exp(prior)) + 1e-9
    assert mixed <= total[0] + math.log1p(math.exp(-prior)) + 1e-9


@pytest.mark.parametrize("with_prompt", [True, False])
@pytest.mark.parametrize("name", ["micro", "vrf", "sparse_moe", "additive", "attributes"])
def test_scores_weights_samples_and_predictions_are_mixed_by_one_share(rng, name, with_prompt):
    family = examples.all_families(rng)[name]
    families = Families([family], {name: 0.5})
    evidence, prompt = evidence_of(families, rng), examples.row(rng) if with_prompt else None
    share, own, nobody = families.share(name, evidence), families.part(name, evidence), np.zeros(family.evidence_size)
    assert 0 < share < 1
    weights = share * family.weights(own, prompt) + (1 - share) * family.weights(nobody, prompt)
    np.testing.assert_allclose(families.weights(name, evidence, prompt), weights)
    rewards = np.array([examples.row(rng)[f"{name}_rewards"] for _ in range(3)], dtype=np.float64)
    scored = families.score(name, evidence, rewards, prompt)
    np.testing.assert_allclose(scored.scores, rewards @ weights)
    np.testing.assert_allclose(scored.stds, share * family.score(own, rewards, prompt).stds)
    drawn = family.sample_weights(own, prompt, np.random.default_rng(3), 5)
    mixed = families.sample_weights(name, evidence, prompt, np.random.default_rng(3), 5)
    np.testing.assert_allclose(mixed, share * drawn + (1 - share) * family.weights(nobody, prompt))
    rows = examples.row(rng), examples.row(rng), prompt or examples.row(rng)
    expected = share * family.predict(own, *rows) + (1 - share) * family.predict(nobody, *rows)
    assert families.predict(evidence, *rows)[name] == pytest.approx(expected)


def test_a_family_that_nobody_is_trusted_with_sees_everybody_alike(rng):
    families = Families([examples.additive()], {"additive": trust.NEVER})
    rows, prompt = [examples.row(rng) for _ in range(2)], examples.row(rng)
    evidence = evidence_of(families, rng)
    assert families.predict(evidence, *rows, prompt) == families.predict(families.prior(), *rows, prompt)
    assert families.weights("additive", evidence, prompt).tolist() == families.weights("additive", families.prior(), prompt).tolist()


def test_studying_gives_the_evidence_the_losses_and_the_prediction_at_once_and_undo_takes_all_back(rng):
    families = Families([examples.attributes(rng)], {"attributes": 1.0})
    known, rows = evidence_of(families, rng), [examples.row(rng) for _ in range(3)]
    added, said = families.study(known, *rows)
    assert said == families.predict(known, *rows)
    family = families["attributes"]
    views = family.predict(families.part("attributes", known), *rows), family.predict(np.zeros(family.evidence_size), *rows)
    whole = np.concatenate([family.learn(*rows, tie=False), trust.losses(*views, tie=False)])
    np.testing.assert_array_equal(added, half(quantise(whole)))
    assert ((known + added) - added).tobytes() == known.tobytes()


def test_a_trust_that_is_no_number_is_refused(rng):
    with pytest.raises(ValueError, match="trust of \\['micro'\\]"):
        Families([examples.micro(rng)], {"micro": math.nan})
