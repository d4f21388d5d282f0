from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from attune.models.data.embeddings import Vectors
from attune.models.training.features import Calibration, StandardisedHeads, Subspace, VectorsInvalid
from tests.models.small_world import small_vectors, small_world


@pytest.mark.parametrize("subspace", [Subspace(None), Subspace(4), Subspace(9, 0.1)])
def test_every_head_spreads_by_one_over_the_calibration_set_whatever_its_direction(subspace):
    data, _ = small_world()
    calibration = Calibration.of(data.train, data.vectors, subspace)
    heads = StandardisedHeads(5, calibration.moment, torch.Generator().manual_seed(1))
    with torch.no_grad():
        heads.directions.mul_(torch.tensor([[0.01], [1.0], [3.0], [-7.0], [100.0]]))
        rewards = heads(torch.from_numpy(calibration.candidate(data.vectors.candidates))).numpy()
    differences = rewards[data.train.chosen] - rewards[data.train.rejected]
    assert np.allclose(np.mean(differences.astype(float) ** 2, axis=0), 1.0, atol=1e-4)
    used = np.concatenate([data.train.chosen, data.train.rejected])
    assert np.allclose(rewards[used].mean(axis=0), 0.0, atol=1e-4)


def test_folded_heads_give_on_raw_vectors_what_heads_give_on_features():
    data, _ = small_world()
    calibration = Calibration.of(data.train, data.vectors, Subspace(4))
    heads = StandardisedHeads(3, calibration.moment, torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = heads(torch.from_numpy(calibration.candidate(data.vectors.candidates)))
        found = heads.fold(calibration.candidate)(torch.from_numpy(data.vectors.candidates))
    assert torch.allclose(found, expected, atol=1e-5)


def test_standardisation_is_part_of_the_gradient():
    data, _ = small_world()
    heads = StandardisedHeads(1, Calibration.of(data.train, data.vectors, Subspace(None)).moment, torch.Generator().manual_seed(1))
    heads(torch.ones(1, 9)).sum().backward()
    # Growing a head along its own direction changes nothing, so the gradient must be orthogonal to it.
    assert abs(float((heads.directions.detach() * heads.directions.grad).sum())) < 1e-5
    assert float(heads.directions.grad.norm()) > 1e-3


def test_the_directions_in_which_users_differ_are_found_without_being_told():
    data, _ = small_world(users=200, per_user=40)
    calibration = Calibration.of(data.train, data.vectors, Subspace(3, 0.1))
    truth = np.linalg.qr(np.random.default_rng(0).normal(size=(9, 3)))[0].T
    span = np.linalg.qr(calibration.candidate.matrix.T)[0]
    kept = np.linalg.norm(truth @ span, axis=1)
    assert kept.min() > 0.95


def test_one_comparison_a_user_has_no_common_directions():
    data, _ = small_world()
    firsts = np.array([rows[0] for rows in data.train.rows_of_users().values()])
    with pytest.raises(VectorsInvalid, match="none of 120 users has two comparisons"):
        Calibration.of(data.train.take(firsts), data.vectors, Subspace(3))


def test_vectors_that_cannot_be_learned_from_are_refused_with_the_numbers():
    data, _ = small_world()
    broken = data.vectors.candidates.copy()
    broken[5, 2] = np.inf
    with pytest.raises(VectorsInvalid, match="1 of 240 candidate vectors are not finite"):
        Calibration.of(data.train, replace(data.vectors, candidates=broken), Subspace())
    with pytest.raises(VectorsInvalid, match=r"prompt vectors are \(29, 9\); one row for each of 30 texts"):
        Calibration.of(data.train, replace(data.vectors, prompts=data.vectors.prompts[1:]), Subspace())
    alike = Vectors(data.vectors.prompts, np.ones_like(data.vectors.candidates))
    with pytest.raises(VectorsInvalid, match="nothing to learn"):
        Calibration.of(data.train, alike, Subspace())


def test_a_dimension_that_never_varies_is_left_alone():
    data, _ = small_world()
    vectors = small_vectors(data.train.texts)
    vectors.candidates[:, 4] = 7.0
    calibration = Calibration.of(data.train, vectors, Subspace(None))
    assert np.allclose(calibration.candidate(vectors.candidates)[:, 4], 0.0)


def test_what_was_found_on_some_comparisons_is_not_taken_for_what_is_found_on_others():
    data, _ = small_world(users=30)
    fewer = data.train.take(np.arange(len(data.train) // 2))
    data.first_head()
    data.calibration(Subspace(4))
    changed, anew = replace(data, train=fewer), type(data)(fewer, data.validation, data.vectors)
    np.testing.assert_array_equal(changed.first_head().weights, anew.first_head().weights)
    np.testing.assert_array_equal(changed.calibration(Subspace(4)).moment, anew.calibration(Subspace(4)).moment)
