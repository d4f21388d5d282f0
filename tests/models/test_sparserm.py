from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import sparse

from attune.models.data.embeddings import Vectors
from attune.models.data.splits import SplitInvalid, prompt_keys
from attune.models.seam.families import Families
from attune.models.training.direction_head import HeadSettings, fit_temperature, train_head
from attune.models.training.directions import SelectionInvalid, SelectionSettings, halves, select
from attune.models.training.features import VectorsInvalid
from attune.models.training.heads import compute_outputs, load_heads, save_heads
from attune.models.training.latents import Latents
from attune.models.training.loop import LoopSettings
from attune.models.training.sparserm import SparseRmSettings, train_sparserm
from tests.models.small_world import WIDTH, small_world

LATENTS = 24
FAST = HeadSettings(loop=LoopSettings(steps=150, learning_rate=1e-2, weight_decay=0.0, evaluate_every=10))
SETTINGS = SparseRmSettings(selection=SelectionSettings(each=2, least_texts=5), head=FAST, shown=2)


def small_latents(data, *, seed=0) -> Latents:
    """Latents that fire on one side of random directions; the last two, of the one along which users of the world choose, both ways."""
    rng = np.random.default_rng(seed)
    difference = (data.vectors.candidates[data.train.chosen] - data.vectors.candidates[data.train.rejected]).mean(axis=0)[: WIDTH - 1]
    rows = rng.normal(size=(LATENTS, WIDTH - 1))
    rows[-2], rows[-1] = difference, -difference
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    centred = data.vectors.candidates[:, : WIDTH - 1] - data.vectors.candidates[:, : WIDTH - 1].mean(axis=0)
    strength = np.maximum(centred @ rows.T, 0.0).astype(np.float32)
    fires = strength * (rng.random(strength.shape) < 0.9)
    texts = data.train.texts
    place = np.arange(len(fires))
    return Latents(texts, rows, slice(0, WIDTH - 1), fires, fires, sparse.csr_matrix(fires), place, np.zeros_like(place))


@pytest.fixture(scope="module")
def world():
    """Everybody likes one direction: what a global family can learn."""
    data, test = small_world(users=200, opposed=True)
    group = np.arange(200) % 2 == 0
    data = replace(data, train=data.train.take(group[data.train.user]), validation=data.validation.take(group[data.validation.user]))
    return data, test.take(group[test.user]), small_latents(data)


@pytest.fixture(scope="module")
def trained(world):
    data, _, latents = world
    return train_sparserm(data, SETTINGS, 0, latents=latents)


# --- selection ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", ["t", "frequency"])
def test_latents_that_tell_every_pair_apart_alike_are_the_first(world, rank):
    data, _, latents = world
    comparisons = data.train.take(np.unique(data.train.chosen, return_index=True)[1])  # no text on both sides
    comparisons = comparisons.take(~np.isin(comparisons.rejected, comparisons.chosen))
    frequency = latents.frequency.copy()
    frequency[:, :2] = 0.0
    frequency[comparisons.chosen, 0] = frequency[comparisons.rejected, 1] = 9.0
    found = select(frequency, np.zeros(len(frequency)), comparisons, SelectionSettings(each=1, least_texts=2, rank=rank))
    assert found.latents.tolist() == [0, 1]


def test_the_latents_that_tell_the_sides_apart_are_chosen(world):
    data, _, latents = world
    length = data.vectors.candidates[:, -1].astype(float)
    for rank in ("frequency", "t"):
        found = select(latents.frequency, length, data.train, SelectionSettings(each=3, least_texts=5, rank=rank))
        assert found.chosen[0] == LATENTS - 2
        assert LATENTS - 1 in found.rejected


def test_the_score_is_the_mean_difference_worked_out_by_hand(world):
    data, _, latents = world
    three = data.train.take(np.arange(3))
    settings = SelectionSettings(each=1, least_texts=0, rank="frequency", length_control=False)
    found = select(latents.frequency, np.zeros(len(latents.frequency)), three, settings)
    pairs = zip(three.chosen, three.rejected, strict=True)
    expected = np.mean([latents.frequency[one].astype(float) - latents.frequency[other] for one, other in pairs], axis=0)
    assert found.score == pytest.approx(expected)


def test_what_only_follows_length_is_not_chosen_under_length_control(world):
    data, _, latents = world
    rng = np.random.default_rng(0)
    length = rng.normal(size=len(latents.frequency))
    length[data.train.chosen] += 0.5  # chosen answers are longer on average
    following = latents.frequency.copy()
    following[:, 0] = (5.0 + length + 0.1 * rng.normal(size=len(length))).astype(np.float32)
    settings = SelectionSettings(each=1, least_texts=5)
    free = select(following, length, data.train, replace(settings, length_control=False))
    held = select(following, length, data.train, replace(settings, length_control=True))
    assert abs(held.score[0]) < 0.2 * abs(free.score[0])


def test_a_latent_without_support_is_not_chosen(world):
    data, _, latents = world
    rare = latents.frequency.copy()
    rare[:, 3] = 0.0
    rare[data.train.chosen[:4], 3] = 1000.0
    length = np.zeros(len(rare))
    settings = SelectionSettings(each=1, least_texts=20, rank="frequency")
    assert select(rare, length, data.train, replace(settings, least_texts=1)).chosen.tolist() == [3]
    assert select(rare, length, data.train, settings).chosen.tolist() != [3]


def test_too_few_latents_or_comparisons_and_wrong_shapes_are_refused_with_numbers(world):
    data, _, latents = world
    length = np.zeros(len(latents.frequency))
    with pytest.raises(SelectionInvalid, match=r"\d+ latents fire more in chosen answers and in 5 texts or more; 23 are to be chosen"):
        select(latents.frequency, length, data.train, SelectionSettings(each=23, least_texts=5))
    with pytest.raises(SelectionInvalid, match="0 decided comparisons"):
        select(latents.frequency, length, data.train.take(np.array([], dtype=np.int64)), SelectionSettings())
    with pytest.raises(SelectionInvalid, match=r"frequency is \(3, 24\)"):
        select(latents.frequency[:3], length, data.train, SelectionSettings())


def test_selection_and_head_share_no_prompt(world):
    data, _, _ = world
    first, second = halves(data.train, share=0.5, seed=3)
    assert not set(prompt_keys(first)) & set(prompt_keys(second))
    assert len(first) + len(second) == len(data.train)
    with pytest.raises(SplitInvalid, match="30 prompts are too few"):
        halves(data.train, share=0.0, seed=0)


# --- heads ----------------------------------------------------------------------------------------------------------


def test_the_temperature_is_the_one_of_the_least_loss():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=4000) * 2.0
    signs = np.where(rng.random(4000) < 1 / (1 + np.exp(-logits)), 1.0, -1.0)
    found, loss = fit_temperature(signs * logits / 7.0, np.zeros(4000, dtype=bool), np.ones(4000))
    assert found == pytest.approx(7.0, rel=0.1)
    assert loss < np.log(2)
    assert fit_temperature(np.zeros(3), np.zeros(3, dtype=bool), np.ones(3)) == (1.0, pytest.approx(np.log(2)))


@pytest.mark.parametrize("kind", ["linear", "mlp"])
@pytest.mark.parametrize("loss", ["bradley_terry", "margin"])
def test_every_head_learns_and_gives_probabilities(world, kind, loss):
    data, test, _ = world
    settings = replace(FAST, kind=kind, loss=loss, hidden=16, ridges=(0.001, 0.1))
    head = train_head(data.vectors.candidates, data.train, data.validation, settings, torch.Generator().manual_seed(0))
    scores = head.scores(data.vectors.candidates)
    margins = head.temperature * (scores[test.chosen] - scores[test.rejected])
    assert np.mean(margins > 0) > 0.8  # a tenth of the labels is wrong
    assert -np.mean(np.log(1 / (1 + np.exp(-margins)))) < 0.5


def test_features_that_are_not_numbers_or_of_other_texts_are_refused(world):
    data, _, _ = world
    broken = data.vectors.candidates.copy()
    broken[7, 2] = np.nan
    for features, message in ((broken, "features of 1 of 240 candidates are not finite"), (broken[:5], r"features are \(5, 9\)")):
        with pytest.raises(VectorsInvalid, match=message):
            train_head(features, data.train, data.validation, FAST, torch.Generator())


# --- the family -----------------------------------------------------------------------------------------------------


def rows_of(outputs, *indices):
    return [{name: value[index] for name, value in outputs.items()} for index in indices]


def test_the_served_family_predicts_strangers_and_says_by_which_directions(world, trained):
    data, test, _ = world
    outputs = compute_outputs([trained], data.vectors.candidates)
    family = trained.family
    assert family.heads[-2:] == ("2 other directions", "length")
    assert len(family.heads) == 4
    pairs = zip(test.chosen, test.rejected, strict=True)
    right = [family.predict(np.zeros(0), *rows_of(outputs, chosen, rejected, 0)) > 0.5 for chosen, rejected in pairs]
    assert np.mean(right) > 0.75


def test_the_heads_add_up_to_the_head_that_was_trained(world, trained):
    data, _, latents = world
    rewards = compute_outputs([trained], data.vectors.candidates)["sparserm_rewards"].astype(float)
    scored = trained.family.score(np.zeros(0), rewards, None)
    assert (scored.rewards * scored.weights).sum(axis=1) == pytest.approx(scored.scores, abs=1e-12)
    _, second = halves(data.train, share=0.5, seed=0)
    spread = np.sqrt(np.mean((rewards[second.chosen] - rewards[second.rejected]) ** 2, axis=0))
    assert spread == pytest.approx(1.0, abs=1e-4)  # standardised on the comparisons that trained the head
    # The dense state alone decides: of two vectors that differ off the directions only, the scores are equal.
    chosen = latents.directions[[*trained.summary["chosen_latents"], *trained.summary["rejected_latents"]]]
    off = np.linalg.svd(chosen)[2][-1]
    moved = data.vectors.candidates[:1].copy()
    moved[0, : WIDTH - 1] += 3.0 * off.astype(np.float32)
    again = compute_outputs([trained], moved)["sparserm_rewards"].astype(float)
    assert again @ trained.family.shares == pytest.approx(rewards[:1] @ trained.family.shares, abs=1e-3)


def test_an_mlp_is_served_as_one_head_with_the_same_probabilities(world):
    data, test, latents = world
    settings = replace(SETTINGS, head=replace(FAST, kind="mlp", loss="margin", hidden=16, ridges=(0.001,)))
    found = train_sparserm(data, settings, 0, latents=latents)
    assert found.family.heads == ("quality",)
    outputs = compute_outputs([found], data.vectors.candidates)
    pairs = zip(test.chosen, test.rejected, strict=True)
    probabilities = np.array([found.family.predict(np.zeros(0), *rows_of(outputs, chosen, rejected, 0)) for chosen, rejected in pairs])
    assert np.mean(probabilities > 0.5) > 0.75
    assert -np.mean(np.log(probabilities)) < 0.55


def test_it_is_saved_with_other_families_and_learns_nothing(trained, world, tmp_path):
    data, _, _ = world
    save_heads(tmp_path, [trained], "sparserm")
    loaded, default = load_heads(tmp_path)
    assert default == "sparserm"
    before, after = (compute_outputs([one], data.vectors.candidates)["sparserm_rewards"] for one in (trained, *loaded))
    assert np.array_equal(before, after)
    assert Families([loaded[0].family]).learn(*rows_of({"sparserm_rewards": after}, 0, 1, 2)).size == 0


def test_the_same_seed_gives_the_same_family(world, trained):
    data, _, latents = world
    again = train_sparserm(data, SETTINGS, 0, latents=latents)
    states = zip(trained.heads.state_dict().values(), again.heads.state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in states)


def test_vectors_and_latents_that_do_not_fit_are_refused(world):
    data, _, latents = world
    broken = data.vectors.candidates.copy()
    broken[3] = np.inf
    with pytest.raises(VectorsInvalid, match="1 of 240 candidate vectors are not finite"):
        train_sparserm(replace(data, vectors=Vectors(data.vectors.prompts, broken)), SETTINGS, 0, latents=latents)
    with pytest.raises(VectorsInvalid, match=r"latents are \(5, 24\); one row for each of 240 texts"):
        train_sparserm(data, SETTINGS, 0, latents=replace(latents, frequency=latents.frequency[:5]))
    with pytest.raises(VectorsInvalid, match="latents read columns up to 99"):
        train_sparserm(data, SETTINGS, 0, latents=replace(latents, columns=slice(0, 99)))


def test_the_scorer_graph_serves_it_with_names_and_examples_from_texts(tmp_path):
    """From texts to the graph: a tiny trunk, an autoencoder of its middle layer, a head, an export, and the seam's explanation."""
    from tokenizers import Tokenizer

    from attune.models.data.embeddings import embed_texts
    from attune.models.data.graph import answers_of
    from attune.models.data.preferences import Comparison, Comparisons
    from attune.models.data.splits import split
    from attune.models.data.token_states import encode_candidates
    from attune.models.data.trunk import load_trunk
    from attune.models.export.onnx import ScorerGraph, export_scorer
    from attune.models.seam.families_file import read_families, write_families
    from attune.models.seam.sparserm import examples_of
    from attune.models.training.latents import learn_latents
    from attune.models.training.loop import TrainingData
    from attune.models.training.sparse_autoencoder import AutoencoderSettings
    from tests.models.tiny_trunk import write_tiny_trunk

    trunk = load_trunk(str(write_tiny_trunk(tmp_path / "trunk", "encoder")), layers=(1, 2))
    pairs = [
        Comparison("ann", f"question {n}", f"perhaps you should ask {n}", f"boil the egg for {n} minutes, hello world") for n in range(40)
    ]
    pairs += [Comparison("ann", one.prompt, one.chosen, one.rejected + " today") for one in pairs]
    parts = split(Comparisons.from_records(pairs), "prompt", (0.8, 0.2, 0.0), seed=0)

    def quiet(done, total):
        pass

    vectors = embed_texts(parts.train.texts, trunk, progress=quiet)
    settings = AutoencoderSettings(latents=32, k=4, steps=60, batch=64)
    _, latents = learn_latents(parts.train.texts, trunk, settings, 0, layer=1, cache=tmp_path, progress=quiet)
    tokenizer = Tokenizer.from_str(trunk.tokenizer_json.decode())
    chosen = SparseRmSettings(selection=SelectionSettings(each=3, least_texts=3), head=FAST, shown=4)
    found = train_sparserm(TrainingData(parts.train, parts.validation, vectors), chosen, 0, latents=latents, tokenizer=tokenizer)

    rows = encode_candidates(parts.train.texts, trunk)[:6]
    export_scorer(ScorerGraph(trunk, [found.heads]), rows, tmp_path / "scorer.onnx")
    rewards = answers_of(tmp_path / "scorer.onnx", rows)["sparserm_rewards"].astype(float)
    files = write_families([found.family], "sparserm")
    family = read_families(files["families.json"], files["families.npz"])[0]["sparserm"]
    assert rewards.shape == (6, len(family.heads))
    assert rewards == pytest.approx(compute_outputs([found], vectors.candidates[:6])["sparserm_rewards"], abs=1e-4)
    scored = family.score(np.zeros(0), rewards, None)
    assert (rewards * family.weights(np.zeros(0), None)).sum(axis=1) == pytest.approx(scored.scores)
    assert all(name.startswith(("for ", "against ")) and ": " in name for name in family.heads[:4])
    assert all(examples_of(family, head) for head in range(4))
    texts = " | ".join(response for _, response in parts.train.texts.candidates)
    assert all(piece.strip() in texts for head in range(4) for piece in examples_of(family, head))
