"""Which features `additive` tells people apart by: directions seen in their choices, or what no choice was looked at for."""

from __future__ import annotations

import tracemalloc
from dataclasses import asdict, replace

import numpy as np
import pytest

from attune.models.data.embeddings import Vectors
from attune.models.data.preferences import Comparison, Comparisons
from attune.models.measuring.families.curves import observe
from attune.models.measuring.families.fewshot import cut
from attune.models.measuring.families.learners import served_learners
from attune.models.seam.additive import FORMAT
from attune.models.training.additive import AdditiveSettings, told_apart_by, train_additive, train_in_line_up, with_vote
from attune.models.training.bradley_terry import BradleyTerrySettings, train_bradley_terry
from attune.models.training.features import Calibration, Subspace, _principal_components
from attune.models.training.heads import OF_FIRST_HEAD, load_heads, save_heads
from attune.models.training.hierarchical import PopulationSettings, fit_population
from attune.models.training.loop import TrainingData
from attune.models.training.trainers import LineUp
from tests.models.small_world import HASTY, small_world
from tests.models.test_training_population import FEATURES, gaussian_world

WIDE = 60
TEXTS = 80
QUICK = PopulationSettings(rounds=10)
QUESTION = 5
"""Which number of a vector says, beside the length at its end, that a text asks something."""


def world_of_writers(people: int = 60, each: int = 12, seed: int = 0) -> tuple[TrainingData, Comparisons]:
    """Returns people half of whom like long texts and half short ones; vectors say nothing else that anybody likes."""
    rng = np.random.default_rng(seed)
    asks = rng.random(TEXTS) < 0.5
    texts = [
        f"{' '.join(['word'] * int(count))} {n}{'?' if one else '.'}"
        for n, (count, one) in enumerate(zip(rng.integers(1, 60, size=TEXTS), asks, strict=True))
    ]
    rows = []
    for person in range(people):
        for _ in range(each):
            one, two = rng.choice(TEXTS, 2, replace=False).tolist()
            gap = (len(texts[one].split()) - len(texts[two].split())) * (1 if person % 2 else -1)
            wins = rng.random() < 1 / (1 + np.exp(-0.15 * gap))
            rows.append(Comparison(f"u{person}", "p", texts[one if wins else two], texts[two if wins else one]))
    told = Comparisons.from_records(rows)
    vectors = rng.normal(size=(len(told.texts.candidates), WIDE)).astype(np.float32)
    vectors[:, QUESTION] = [3.0 * ("?" in text) for _, text in told.texts.candidates]
    vectors[:, -1] = [np.log1p(len(text.split())) for _, text in told.texts.candidates]
    prompts = rng.normal(size=(len(told.texts.prompts), WIDE)).astype(np.float32)
    train, validation, strangers = (told.take((told.user >= low) & (told.user < high)) for low, high in ((0, 24), (24, 36), (36, people)))
    return TrainingData(train, validation, Vectors(prompts, vectors)), strangers


def test_few_people_who_differ_in_how_texts_are_written_are_told_apart_by_that():
    data, strangers = world_of_writers()
    line_up = LineUp(Subspace(4), axes=4, most_axes=8, population=QUICK)
    found = train_in_line_up(data, line_up, 0)
    assert found.summary["settings"]["subspace"]["kind"] == "principal"
    assert found.summary["settings"]["subspace"]["style"]
    seen = train_additive(data, AdditiveSettings(4, QUICK, Subspace(4)), 0)
    told = cut(strangers, context=6, targets=6, seed=0)
    ours, theirs = (observe(served_learners([one], data.vectors), *told, counts=(0, 6)).per_user("additive", 1) for one in (found, seen))
    assert ours[0].mean() > theirs[0].mean() + 0.04
    assert ours[1].mean() < theirs[1].mean() - 0.05


def test_what_people_are_told_apart_by_is_said_in_words():
    data, _ = world_of_writers()
    family = train_additive(data, AdditiveSettings(2, QUICK, Subspace(2)), 0)

    def words(subspace: Subspace) -> str:
        return told_apart_by(replace(family, summary={"settings": {"subspace": asdict(subspace)}}))

    assert words(Subspace(2)) == "the directions in which people's choices differed most"
    assert words(Subspace(0, kind="principal", style=True)) == "how texts are written"
    assert words(Subspace(8, kind="principal", style=True)) == "what texts vary most in, and how texts are written"
    assert words(Subspace(8, kind="principal")) == "what texts vary most in, and their length"
    assert told_apart_by(replace(family, summary={})) == ""  # an imported one
    assert told_apart_by(train_bradley_terry(data, BradleyTerrySettings(subspace=Subspace(2), loop=HASTY), 0)) == ""


def test_directions_in_which_many_people_were_seen_to_differ_are_better_than_what_nobody_looked_at():
    # Three tastes within nine dimensions of very unlike width: the widest are no taste of anybody's.
    data, _ = small_world(users=200, per_user=40)
    found = train_in_line_up(data, LineUp(Subspace(3, 0.1), axes=3, most_axes=3, population=QUICK), 0)
    assert found.summary["settings"]["subspace"]["kind"] == "tastes"


def test_the_features_of_least_loss_are_taken():
    data, _ = world_of_writers(seed=1)
    line_up = LineUp(Subspace(2), axes=2, most_axes=6, population=QUICK)
    apart = replace(QUICK, pseudo_users=20.0, pseudo="uncorrelated")
    several = [
        AdditiveSettings(2, QUICK, Subspace(2)),
        AdditiveSettings(6, QUICK, Subspace(6)),
        AdditiveSettings(6, QUICK, Subspace(0, kind="principal", style=True)),
        AdditiveSettings(6, apart, Subspace(6, kind="principal", style=True)),
    ]
    losses = [float(train_additive(data, one, 0).summary["validation_nll"]) for one in several]
    assert len(set(losses)) == 4
    assert train_in_line_up(data, line_up, 0).summary["validation_nll"] == min(losses)


def test_people_are_not_said_to_be_nearer_to_the_average_than_their_choices_bear_out():
    # Sharp tastes: the bound, fixed at what a stranger would say, leans to the middle.
    data, strangers = gaussian_world(users=600, sharpness=2.0)
    plain = train_additive(data, AdditiveSettings(FEATURES, QUICK, Subspace(None)), 0)
    found = with_vote(plain, data)
    assert found.family.vote > 1.0
    told = cut(strangers, context=10, targets=15, seed=0)
    curves = (observe(served_learners([one], data.vectors), *told, counts=(0, 10)) for one in (found, plain))
    ours, theirs = (curve.per_user("additive", 1)[1].mean() for curve in curves)
    assert ours < theirs - 0.004
    few = replace(data, validation=data.validation.take(data.validation.user % 10 == 6))
    few = replace(few, validation=few.validation.take(few.validation.user < 500))
    assert with_vote(plain, few) == plain
    # Who chose once is nobody's judge: what a choice says of a person is seen in another one of theirs.
    once = [mine if user in few.validation.user else mine[:1] for user, mine in data.validation.rows_of_users().items()]
    assert with_vote(plain, replace(data, validation=data.validation.take(np.concatenate(once)))) == plain


def test_a_stranger_is_told_as_much_as_the_head_that_is_known_says_of_people_in_general():
    # Tastes are wide, so that what is said under all of them is nearer to a half than the head alone.
    data, strangers = gaussian_world(users=400, sharpness=2.0)
    space = Subspace(None, everybody=True)
    anchored = replace(QUICK, sizes=(), widths=(1.0,))
    plain, sized = (
        train_additive(data, AdditiveSettings(FEATURES, replace(anchored, anchor_sizes=one), space), 0)
        for one in ((1.0,), anchored.anchor_sizes)
    )
    assert float(sized.summary[OF_FIRST_HEAD]) > 1.0
    told = cut(strangers, context=1, targets=15, seed=0)
    found = [observe(served_learners([one], data.vectors), *told, counts=(0,)).per_user("additive", 0)[1].mean() for one in (sized, plain)]
    assert found[0] < found[1] - 0.002


def test_a_vote_is_kept_in_the_file_and_absent_where_the_bound_is_taken_as_it_is(tmp_path):
    data, _ = world_of_writers()
    plain = train_additive(data, AdditiveSettings(2, QUICK, Subspace(2)), 0)
    for name, family in (("louder", replace(plain.family, vote=1.35)), ("plain", plain.family)):
        (tmp_path / name).mkdir()
        save_heads(tmp_path / name, [replace(plain, family=family)], "additive")
        assert load_heads(tmp_path / name)[0][0].family == family
        assert ("vote" in FORMAT.write(family)[0]) == (name == "louder")
    with pytest.raises(ValueError, match="vote is 0"):
        replace(plain.family, vote=0.0)


def test_how_texts_are_written_is_found_without_a_look_at_choices_and_varies_by_one():
    data, _ = world_of_writers()
    found = Calibration.of(data.train, data.vectors, Subspace(0, kind="principal", style=True))
    other_way = replace(data.train, chosen=data.train.rejected, rejected=data.train.chosen)
    again = Calibration.of(other_way, data.vectors, Subspace(0, kind="principal", style=True))
    np.testing.assert_array_equal(found.candidate.matrix, again.candidate.matrix)
    used = np.unique(np.concatenate([data.train.chosen, data.train.rejected]))
    features = found.candidate(data.vectors.candidates)[used]
    np.testing.assert_allclose(features.std(axis=0), 1.0, atol=1e-5)
    asks = np.array(["?" in data.train.texts.candidates[row][1] for row in used])
    lengths = data.vectors.candidates[used, -1]
    assert np.abs(np.corrcoef(features[:, 0], lengths)[0, 1]) > 0.999
    assert max(abs(np.corrcoef(features[:, at], asks)[0, 1]) for at in range(1, features.shape[1])) > 0.9


@pytest.mark.parametrize("texts", [12, 200])
def test_components_are_what_texts_vary_most_in_also_where_texts_are_fewer_than_dimensions(texts, rng):
    vectors = (rng.normal(size=(texts, 40)) * np.linspace(3.0, 0.5, 40)).astype(np.float32)
    components = min(20, texts - 1)
    found = _principal_components(vectors, 20)[:-1]
    assert len(found) == components
    features = (vectors - vectors.mean(axis=0)) @ found.T
    np.testing.assert_allclose(features.T @ features / texts, np.eye(components), atol=1e-5)
    spreads = np.linalg.svd(vectors[:, :-1] - vectors[:, :-1].mean(axis=0))[1][:components] / np.sqrt(texts)
    np.testing.assert_allclose(1.0 / np.linalg.norm(found, axis=1), spreads, rtol=1e-4)


def test_components_of_many_texts_take_room_for_their_vectors_once(rng):
    vectors = rng.normal(size=(20_000, 40)).astype(np.float32)
    tracemalloc.start()
    try:
        _principal_components(vectors, 8)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.5 * vectors.astype(np.float64).nbytes  # 8 of 40 directions beside them


def test_texts_without_a_length_and_without_a_style_leave_the_other_features():
    data, _ = small_world(users=40)
    data.vectors.candidates[:, -1] = 1.0
    assert len(data.calibration(Subspace(0, kind="principal", style=True)).candidate.matrix) == 0
    found = train_in_line_up(data, LineUp(Subspace(3), axes=3, most_axes=3, population=QUICK), 0)
    assert np.isfinite(found.summary["validation_nll"])


@pytest.mark.parametrize("pseudo", ["start", "uncorrelated"])
def test_pseudo_users_hold_a_population_back(pseudo):
    data, _ = world_of_writers()
    features = Calibration.of(data.train, data.vectors, Subspace(10, kind="principal")).candidate(data.vectors.candidates)
    exactly = replace(QUICK, widths=(1.0,), sizes=(1.0,), pseudo=pseudo)
    free, held = (fit_population(data, features, replace(exactly, pseudo_users=users)).covariance for users in (0.5, 200.0))

    def apart(covariance: np.ndarray) -> float:
        spreads = np.sqrt(np.diagonal(covariance))
        return float(np.abs(covariance / np.outer(spreads, spreads) - np.eye(len(covariance))).max())

    assert apart(held) < 0.5 * apart(free)
    widths = np.diagonal(held) / np.diagonal(held)[-1]
    # What people were seen to differ in, the length, stays wide beside the others only where pseudo users are like them.
    assert (widths[:-1].max() < 0.5) == (pseudo == "uncorrelated")
