"""Families learn: vectors, swaps, ties, order; and what does not fit is refused."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from attune.models.seam.bradley_terry import BradleyTerry
from attune.models.seam.evidence import GRID, half, quantise
from attune.models.seam.families import Families
from attune.models.seam.gaussian import Bases
from attune.models.seam.trust import LOSSES
from attune.models.seam.vrf import Vrf
from tests.seam import examples
from tests.seam.users import LN3, finite, hedge_pair, seeds

# --- learning


def test_one_comparison_gives_every_familys_vector_side_by_side_on_the_grid(rng):
    families = examples.all_families(rng)
    chosen, rejected, prompt = examples.row(rng), examples.row(rng), examples.row(rng)
    learned = families.learn(chosen, rejected, prompt)
    # Two losses for each of the two families that learn come after all slices.
    assert examples.first_families(rng).evidence_size == 0 + examples.HEADS + 2 * examples.LATENT + 2 * LOSSES
    sizes = [families[name].evidence_size for name in families.names]
    assert learned.shape == (families.evidence_size,) == (sum(sizes) + LOSSES * sum(size > 0 for size in sizes),)
    assert np.all(learned / GRID == np.rint(learned / GRID))
    for name in families.names:
        alone = families[name].learn(chosen, rejected, prompt, tie=False)
        assert families.part(name, learned).tobytes() == half(quantise(alone)).tobytes()


@settings(max_examples=min(50, settings.default.max_examples))
@given(seed=seeds)
def test_swapping_winner_and_loser_moves_the_user_the_other_way(seed):
    rng = np.random.default_rng(seed)
    families = examples.all_families(rng)
    chosen, rejected, prompt = examples.row(rng), examples.row(rng), examples.row(rng)
    forward, backward = families.learn(chosen, rejected, prompt), families.learn(rejected, chosen, prompt)
    precision, votes = np.split(families.part("vrf", forward), 2)
    swapped_precision, swapped_votes = np.split(families.part("vrf", backward), 2)
    assert np.array_equal(precision, swapped_precision)
    assert np.array_equal(votes, -swapped_votes)
    margins = chosen["micro_rewards"].astype(float) - rejected["micro_rewards"].astype(float)
    best, worst = int(np.argmax(margins)), int(np.argmin(margins))
    ours, theirs = families.part("micro", forward), families.part("micro", backward)
    assert (np.argmin(ours), np.argmax(ours)) == (best, worst)
    assert (np.argmin(theirs), np.argmax(theirs)) == (worst, best)


@settings(max_examples=min(50, settings.default.max_examples))
@given(seed=seeds)
def test_a_tie_is_the_same_comparison_in_either_order(seed):
    rng = np.random.default_rng(seed)
    families = examples.all_families(rng)
    first, second, prompt = examples.row(rng), examples.row(rng), examples.row(rng)
    forward, backward = families.learn(first, second, prompt, tie=True), families.learn(second, first, prompt, tie=True)
    assert forward.tobytes() == backward.tobytes()
    assert not families.part("vrf", forward)[examples.LATENT :].any()
    untied = families.part("vrf", families.learn(first, second, prompt))
    assert families.part("vrf", forward)[: examples.LATENT].tobytes() == untied[: examples.LATENT].tobytes()


@settings(max_examples=min(30, settings.default.max_examples))
@given(seed=seeds, order=st.permutations(range(8)))
def test_the_order_of_comparisons_does_not_matter_and_one_can_be_taken_back(seed, order):
    rng = np.random.default_rng(seed)
    families = examples.all_families(rng)
    events = [families.learn(examples.row(rng), examples.row(rng), examples.row(rng), tie=index % 3 == 0) for index in range(8)]
    first, second = families.prior(), families.prior()
    for index in range(8):
        first, second = first + events[index], second + events[order[index]]
    assert first.tobytes() == second.tobytes()
    without = families.prior()
    for index in range(7):
        without = without + events[index]
    assert (second - events[7]).tobytes() == without.tobytes()


@settings(max_examples=min(100, settings.default.max_examples))
@given(
    rewards=st.tuples(arrays(np.float32, examples.HEADS, elements=finite), arrays(np.float32, examples.HEADS, elements=finite)),
    cumulative=arrays(np.float64, examples.HEADS, elements=st.floats(-20, 20)),
    seed=seeds,
)
def test_a_learned_comparison_moves_a_mixture_towards_the_chosen_one_every_time(rewards, cumulative, seed):
    family, prompt = examples.micro(np.random.default_rng(seed)), examples.row(np.random.default_rng(seed))
    chosen, rejected = {"micro_rewards": rewards[0]}, {"micro_rewards": rewards[1]}
    families = Families([family])
    evidence = np.concatenate([quantise(cumulative), np.zeros(LOSSES)])
    before = families.predict(evidence, chosen, rejected, prompt)["micro"]
    for _ in range(5):
        evidence = evidence + families.learn(chosen, rejected, prompt)
        after = families.predict(evidence, chosen, rejected, prompt)["micro"]
        assert after >= before - 1e-6  # half a step of the grid
        before = after


def test_repeated_comparisons_convince_a_mixture():
    family, chosen, rejected, prompt = hedge_pair((LN3, -LN3))
    families = Families([family])
    learned = families.learn(chosen, rejected, prompt)
    # After n the odds of the heads are 3**n to 1; at 10 the prediction is 3/4 less next to nothing.
    assert families.predict(10 * learned, chosen, rejected, prompt)["micro"] == pytest.approx(3 / 4, abs=1e-4)


def test_repeated_comparisons_convince_the_gaussian_user():
    family = examples.pointing_vrf()
    families = Families([family])
    chosen, rejected = (
        {"vrf_rewards": rewards, "vrf_features": rewards}
        for rewards in (np.array([1.0, 0.0, 0.0], dtype=np.float32), np.array([0.0, 1.0, 0.0], dtype=np.float32))
    )
    prompt = {"vrf_prompt_features": np.zeros(2, dtype=np.float32)}
    learned = families.learn(chosen, rejected, prompt)
    predictions, weights = [], []
    for comparisons in range(12):
        evidence = comparisons * learned
        predictions.append(families.predict(evidence, chosen, rejected, prompt)["vrf"])
        weights.append(family.weights(families.part("vrf", evidence), None))
    assert predictions[0] == pytest.approx(0.5, abs=1e-12)
    assert predictions == sorted(predictions)
    assert predictions[-1] > 0.6
    assert [weight[0] for weight in weights] == sorted(weight[0] for weight in weights)
    assert [weight[1] for weight in weights] == sorted((weight[1] for weight in weights), reverse=True)


def test_a_user_who_is_surer_is_predicted_with_less_attenuation():
    family = examples.pointing_vrf()
    chosen, rejected = ({"vrf_rewards": np.array(rewards)} for rewards in ([3.0, 0.0, 0.0], [0.0, 3.0, 0.0]))
    position = np.array([1.0, -1.0, 0.0])
    vague, sure = (np.concatenate([np.full(3, precision), (1 + precision) * position]) for precision in (0.5, 500.0))
    margin = 3.0 * float(family.weights(sure, None) @ [1.0, -1.0, 0.0])
    assert family.predict(sure, chosen, rejected, {}) == pytest.approx(1 / (1 + math.exp(-margin)), abs=1e-3)
    assert family.predict(vague, chosen, rejected, {}) < family.predict(sure, chosen, rejected, {})


# --- all families of a bundle


def test_the_prior_is_empty_evidence(rng):
    families = examples.all_families(rng)
    assert families.prior().tolist() == [0.0] * families.evidence_size
    mean, std = families["vrf"].posterior(families.part("vrf", families.prior()))
    assert (mean.tolist(), std.tolist()) == ([0.0] * examples.LATENT, [1.0] * examples.LATENT)
    assert families["micro"].posterior(families.part("micro", families.prior())) is None


def test_parts_tile_the_evidence_in_order(rng):
    families = examples.all_families(rng)
    evidence = np.arange(families.evidence_size, dtype=float)
    parts = np.concatenate([families.part(name, evidence) for name in families.names])
    assert parts.tolist() == evidence[: len(parts)].tolist()


@pytest.mark.parametrize("shape", [(13,), (15,), (14, 1), (1, 14), ()])
def test_evidence_of_another_size_is_refused_with_both_sizes(rng, shape):
    families = examples.first_families(rng)
    with pytest.raises(ValueError, match=r"evidence is \(.*these families read \(14,\)"):
        families.part("vrf", np.zeros(shape))
    with pytest.raises(ValueError, match="these families read"):
        families.predict(np.zeros(shape), examples.row(rng), examples.row(rng), examples.row(rng))


def test_rows_of_another_width_are_refused_and_never_learned(rng):
    families = Families([examples.micro(rng)])
    narrow = {"micro_rewards": np.zeros(examples.HEADS - 1, dtype=np.float32)}
    with pytest.raises(ValueError, match="'micro': 3"):
        families.learn(narrow, narrow, {})


@pytest.mark.filterwarnings("ignore:invalid value")
def test_rows_that_are_not_finite_are_never_learned(rng):
    families = Families([examples.micro(rng)])
    broken = {"micro_rewards": np.array([0, np.nan, 0, 0], dtype=np.float32)}
    with pytest.raises(ValueError, match="not finite"):
        families.learn(broken, examples.row(rng), examples.row(rng))


def test_a_row_without_an_output_is_named(rng):
    with pytest.raises(KeyError, match="vrf_features"):
        examples.vrf(rng).learn({"vrf_rewards": np.zeros(4)}, examples.row(rng), examples.row(rng), tie=False)


def test_two_families_of_one_name_are_refused(rng):
    with pytest.raises(ValueError, match="repeat"):
        Families([examples.micro(rng), examples.micro(rng)])


def test_a_decision_keeps_what_learning_reads_and_nothing_twice(rng):
    candidate, prompt = examples.first_families(rng).outputs_to_keep()
    assert candidate == ("bradley_terry_rewards", "micro_rewards", "vrf_rewards", "vrf_features")
    assert prompt == ("micro_gate", "vrf_prompt_features")
    families = examples.first_families(rng)
    kept = [{name: row[name] for name in names} for row, names in ((examples.row(rng), candidate), (examples.row(rng), candidate))]
    asked = {name: value for name, value in examples.row(rng).items() if name in prompt}
    assert families.learn(*kept, asked).shape == (families.evidence_size,)
    assert set(families.predict(families.prior(), *kept, asked)) == set(families.names)


def test_families_that_learn_nothing_give_an_empty_vector():
    families = Families([examples.bradley_terry()])
    row = {"bradley_terry_rewards": np.zeros(1)}
    assert families.learn(row, row, {}).shape == families.prior().shape == (0,)
    assert "micro" not in families


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": ("a", "b", "c")}, "log_prior"),
        ({"mask": np.ones(3, dtype=bool)}, "mask"),
        ({"mask": np.zeros(4, dtype=bool)}, "mask closes all 4 heads"),
        ({"log_prior": np.array([0.0, 0.0, np.nan, 0.0])}, "log_prior"),
        ({"heads": ("a", "b", "c", "a")}, "heads"),
        ({"heads": ()}, "heads"),
        ({"logit_scale": 0.0}, "logit_scale"),
        ({"logit_scale": math.nan}, "logit_scale"),
    ],
)
def test_a_mixture_whose_parts_do_not_fit_is_refused_by_name(rng, changes, message):
    with pytest.raises(ValueError, match=message):
        replace(examples.micro(rng), **changes)


def test_a_masked_head_may_have_no_prior(rng):
    family = replace(examples.micro(rng, mask=(True, True, True, False)), log_prior=np.array([0.0, 0.0, 0.0, -np.inf]))
    np.testing.assert_allclose(family.weights(np.zeros(4), None), [1 / 3, 1 / 3, 1 / 3, 0.0])


def test_a_gaussian_family_whose_parts_do_not_fit_is_refused_by_name(rng):
    family = examples.vrf(rng)
    with pytest.raises(ValueError, match="base_means"):
        Vrf("vrf", (*examples.NAMES, "one more"), 1.0, family.bases, family.encoder)
    with pytest.raises(ValueError, match="vote"):
        Vrf("vrf", examples.NAMES, 1.0, Bases(np.zeros((4, 2)), np.ones((4, 2)), 1.0), family.encoder)


def test_the_global_family_has_one_head():
    with pytest.raises(ValueError, match="one head"):
        BradleyTerry("bt", ("a", "b"), 1.0)
