from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from attune.models.data.preferences import Comparison, Comparisons
from attune.models.data.splits import prompt_keys
from attune.models.data.token_states import TokenStates
from attune.models.training.direction_head import HeadSettings
from attune.models.training.directions import SelectionSettings
from attune.models.training.sparse_autoencoder import AutoencoderSettings
from studies.sparserm.comparison import DENSE, PROPOSED, RANDOM, StudySettings, choose_selection, clustered, over_seeds, study
from studies.sparserm.run import draw_sweep, keep_autoencoder, render
from studies.sparserm.tasks import cut_pool, cut_test, demo_pairs, majority, read_tasks, training_states
from tests.models.small_world import small_world
from tests.models.test_sparserm import small_latents


@pytest.fixture(scope="module")
def task():
    data, _ = small_world(users=200, opposed=True)
    everybody = data.train.take(np.arange(200)[data.train.user] % 2 == 0)
    return data, cut_test("small", "what half of the users like", everybody, seed=1)


def test_the_test_and_the_parts_of_every_seed_share_no_prompt(task):
    _, small = task
    held = set(prompt_keys(small.test))
    first, again, other = (cut_pool(small.pool, seed=seed) for seed in (0, 0, 1))
    parts = [set(prompt_keys(part)) for part in (first.selection, first.head, first.validation)]
    assert not held & set.union(*parts)
    assert sum(map(len, parts)) == len(set.union(*parts))
    assert first.selection.sha256() == again.selection.sha256() != other.selection.sha256()


def test_the_majority_decides_and_even_pairs_are_left_out():
    pairs = [("a", "b"), ("a", "b"), ("b", "a"), ("c", "d"), ("d", "c")]
    votes = [Comparison(f"u{number}", "p", chosen, rejected) for number, (chosen, rejected) in enumerate(pairs)]
    votes += [Comparison("u9", "p", "b", "a", tie=True)] * 5
    assert list(majority(Comparisons.from_records(votes)).records()) == [Comparison("majority", "p", "a", "b")]


def test_absent_sets_are_named_and_the_demo_keeps_its_test_topics_apart(tmp_path):
    tasks, absent = read_tasks(tmp_path, seed=0)
    assert absent == ["ukpconvarg1", "helpful", "summeval"]
    (demo,) = tasks
    assert demo.name == "demo"
    assert not set(prompt_keys(demo.pool)) & set(prompt_keys(demo.test))
    assert demo_pairs(0).sha256() == demo_pairs(0).sha256()


def test_the_autoencoder_sees_no_text_of_the_test(task):
    _, small = task
    count = len(small.pool.texts.candidates)
    states = TokenStates(np.arange(count, dtype=np.float16)[:, None], np.arange(count), np.zeros(count, dtype=np.int64))
    kept = set(training_states([small], [states])[:, 0].astype(int).tolist())
    assert not kept & set(np.concatenate([small.test.chosen, small.test.rejected]).tolist())
    assert len(kept) > 0


def test_an_autoencoder_of_the_cache_is_not_one_that_read_another_cuts_test(task, tmp_path):
    data, small = task
    again = cut_test(small.name, small.about, small.pool, seed=2)
    count = len(small.pool.texts.candidates)
    states = TokenStates(data.vectors.candidates.astype(np.float16), np.arange(count), np.zeros(count, dtype=np.int64))
    settings, written = AutoencoderSettings(latents=8, k=2, steps=2, batch=32), tmp_path / "sae_weights.safetensors"
    first = keep_autoencoder(tmp_path, [small], [states], settings, 0, "trunk")
    kept = written.read_bytes()
    assert keep_autoencoder(tmp_path, [small], [states], settings, 0, "trunk") == first
    assert written.read_bytes() == kept
    second = keep_autoencoder(tmp_path, [again], [states], settings, 0, "trunk")
    assert written.read_bytes() != kept
    assert second["states"] != first["states"]


def test_a_study_finds_that_selected_directions_beat_random_ones_where_they_are_what_people_like(task, tmp_path):
    data, small = task
    settings = StudySettings(
        seeds=(0, 1, 2),
        selection=SelectionSettings(each=1, least_texts=5),
        sweep=(1, 2),
        heads={"linear, Bradley-Terry": HeadSettings(ridges=(0.01,)), "linear, margin": HeadSettings(loss="margin", ridges=(0.01,))},
    )
    told: list[str] = []
    found = study(small, data.vectors, small_latents(data), settings, progress=told.append)
    methods = found["methods"]
    assert methods[PROPOSED]["accuracy"]["mean"] > methods[RANDOM]["accuracy"]["mean"] + 0.05
    assert methods[PROPOSED]["accuracy"]["mean"] > 0.65
    assert methods[PROPOSED]["parameters"] == 3
    assert f"{PROPOSED}: K = 2" in methods
    assert f"{DENSE}: linear, margin" in methods
    assert found["selected_minus"][RANDOM]["over_seeds"]["mean"] == pytest.approx(
        methods[PROPOSED]["accuracy"]["mean"] - methods[RANDOM]["accuracy"]["mean"]
    )
    assert len(told) == 3

    results = {
        "attune": None,
        "seed": 0,
        "seeds": [0, 1, 2],
        "trunk": {"name": "small", "layer": 1, "parameters": 290},
        "autoencoder": {"loaded": "x"},
        "selection": {"each": 1, "rank": "t", "length_control": True},
        "choice": [{"rank": "t", "length_control": True, "mean": 0.7}],
        "sweep": [1, 2],
        "absent": ["helpful"],
        "studies": {"small": found},
    }
    text = render(results)
    assert "not on disk, left out: helpful" in text
    assert "NOT MET: small: under 1% of the trunk's parameters trained: 1.7241%" in text  # 5 of 290: the largest of its heads
    draw_sweep(results, tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").stat().st_size > 5000


def test_intervals_over_seeds_are_students_and_those_over_clusters_hold_clusters_together():
    found = over_seeds([0.5, 0.7])
    assert found["mean"] == pytest.approx(0.6)
    assert found["high"] - found["mean"] == pytest.approx(12.706 * 0.1, rel=1e-3)
    values = np.repeat([0.0, 1.0], 500)
    together = clustered(values, np.repeat([0, 1], 500))
    apart = clustered(values, np.arange(1000))
    assert together == (0.0, 1.0)
    assert apart[1] - apart[0] < 0.1


def test_a_task_with_held_prompts_tests_on_these(task):
    _, small = task
    asked = small.pool.texts.prompts[int(small.pool.prompt[0])][0]
    again = cut_test("small", "", small.pool, seed=0, held=frozenset({asked}))
    assert {again.test.texts.prompts[row][0] for row in again.test.prompt} == {asked}
    assert len(again.pool) + len(again.test) == len(small.pool)


def test_the_way_of_ranking_is_chosen_within_the_pool(task):
    data, small = task
    settings = StudySettings(selection=SelectionSettings(each=1, least_texts=5), heads={"linear": HeadSettings(ridges=(0.01,))})
    latents = small_latents(data)
    chosen, found = choose_selection([(small, data.vectors, latents)], settings, seeds=(0,))
    assert [(one["rank"], one["length_control"]) for one in found] == [("t", True), ("t", False), ("frequency", True), ("frequency", False)]
    assert max(one["mean"] for one in found) == next(
        one["mean"] for one in found if (one["rank"], one["length_control"]) == (chosen.rank, chosen.length_control)
    )
    spoiled = small.test.take(np.arange(0))  # a test that holds nothing changes nothing
    assert choose_selection([(replace(small, test=spoiled), data.vectors, latents)], settings, seeds=(0,)) == (chosen, found)
