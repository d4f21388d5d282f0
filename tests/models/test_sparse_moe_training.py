"""The regularisers of the sparse mixture do what their names say, and starts find groups."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from attune.models.training.features import Subspace
from attune.models.training.mixture import directions_of_kinds, directions_of_users, k_means
from attune.models.training.sparse_moe import SparseMoeModule, SparseMoeSettings, raw_prompts, train_sparse_moe
from tests.models.small_world import SHORT, small_world

SPACE = Subspace(5)


def module_with(**terms: float) -> SparseMoeModule:
    data, _ = small_world(users=30)
    settings = SparseMoeSettings(experts=4, **{"local": 0.0, "balance": 0.0, "diversity": 0.0, "ema": 0.0, **terms}, subspace=SPACE)
    return SparseMoeModule(data.calibration(SPACE), raw_prompts(data), settings, torch.Generator().manual_seed(0))


def log_shares(rows: list[list[float]]) -> torch.Tensor:
    return torch.log(torch.tensor(rows))


def test_local_sparsity_is_the_mean_entropy_of_a_prompts_gate():
    # (ln 2 + 0 + ln 4) / 3
    gates = log_shares([[0.5, 0.5, 1e-30, 1e-30], [1.0, 1e-30, 1e-30, 1e-30], [0.25, 0.25, 0.25, 0.25]])
    assert float(module_with(local=1.0).regularisers(gates).detach()) == pytest.approx(np.log(8) / 3, abs=1e-5)


def test_balance_is_least_when_all_experts_are_used_alike_however_sparse_each_prompt_is():
    module = module_with(balance=1.0)
    one_each = log_shares((np.eye(4) * (1 - 4e-9) + 1e-9).tolist())
    collapsed = log_shares([[1.0, 1e-9, 1e-9, 1e-9]] * 4)
    assert float(module.regularisers(one_each).detach()) == pytest.approx(-np.log(4), abs=1e-5)
    assert float(module.regularisers(collapsed).detach()) == pytest.approx(0.0, abs=1e-5)


def test_the_running_mean_remembers_experts_that_a_batch_did_not_use():
    module = module_with(balance=1.0, ema=0.5)
    for _ in range(8):
        module.regularisers(log_shares([[1.0, 1e-9, 1e-9, 1e-9]]))
    assert module.usage.tolist() == pytest.approx([1 - 0.75 / 256, 0.25 / 256, 0.25 / 256, 0.25 / 256], rel=1e-4)


def test_the_gradient_of_the_balance_is_that_of_the_mean_over_all_prompts():
    """A running mean makes the batch a small part of the mean; its gradient must not be as small."""
    logits = torch.tensor([[2.0, 0.0, 0.0, 0.0]], requires_grad=True)
    gradients = []
    for ema in (0.0, 0.9):
        module = module_with(balance=1.0, ema=ema)
        module.usage.copy_(torch.softmax(logits.detach(), -1)[0])
        (found,) = torch.autograd.grad(module.regularisers(torch.log_softmax(logits, -1)), logits)
        gradients.append(found)
    assert torch.allclose(gradients[0], gradients[1], atol=1e-6)
    assert float(gradients[0].abs().max()) > 0.1


def test_diversity_is_the_mean_squared_correlation_of_routed_experts():
    module = module_with(diversity=1.0)
    with torch.no_grad():
        module.heads.directions[2] = -3.0 * module.heads.directions[1]
    correlation = module.heads.correlation()[1:, 1:].detach()
    assert float(correlation[0, 1]) == pytest.approx(-1.0, abs=1e-5)
    pairs = [float(correlation[i, j]) ** 2 for i in range(4) for j in range(i)]
    assert float(module.regularisers(log_shares([[0.25] * 4])).detach()) == pytest.approx(np.mean(pairs), abs=1e-5)


def test_the_cut_lets_no_gradient_into_experts_that_are_closed():
    module = module_with()
    logits = torch.tensor([0.1, 0.5, -2.0, 0.3, 0.4], requires_grad=True)
    weights = module.cut(torch.log_softmax(logits, -1)).exp()
    assert (weights > 0).tolist() == [True, True, False, False, True]
    (gradient,) = torch.autograd.grad(weights[1], logits)
    assert (gradient != 0).tolist() == [True, True, False, False, True]


def test_the_summary_watches_for_collapse():
    data, _ = small_world(users=60)
    trained = train_sparse_moe(data, SparseMoeSettings(experts=4, subspace=SPACE, loop=SHORT), 0)
    assert 1.0 <= trained.summary["experts_per_prompt"] <= trained.summary["effective_experts"] <= 4.0 + 1e-6
    assert sum(trained.summary["gate_mean"]) == pytest.approx(1.0, abs=1e-3)
    assert 0.0 < trained.summary["max_abs_correlation"] <= 1.0 + 1e-6


def test_more_active_experts_than_there_are_is_refused():
    with pytest.raises(ValueError, match="active is 5 of 4"):
        SparseMoeSettings(experts=4, active=5)


def test_users_of_three_tastes_give_one_start_for_each_of_them():
    data, _ = small_world(users=90)
    calibration = data.calibration(SPACE)
    features = calibration.candidate(data.vectors.candidates)
    difference = features[data.train.chosen] - features[data.train.rejected]
    found = directions_of_users(data.train, difference, calibration.moment, 3, np.random.default_rng(0))
    tastes = np.linalg.qr(np.random.default_rng(0).normal(size=(9, 3)))[0].T  # as the small world draws them
    gaps = data.vectors.candidates[data.train.chosen] - data.vectors.candidates[data.train.rejected]
    agree = np.abs(np.corrcoef(found @ difference.T, tastes @ gaps.T)[:3, 3:])
    assert sorted(agree.argmax(axis=1).tolist()) == [0, 1, 2]
    assert agree.max(axis=1).min() > 0.9


def test_k_means_finds_clusters_that_are_far_apart_and_survives_fewer_points_than_clusters():
    rng = np.random.default_rng(0)
    points = np.concatenate([centre + 0.1 * rng.normal(size=(20, 2)) for centre in ((0, 0), (5, 0), (0, 5), (5, 5))])
    centres, label = k_means(points, 4, rng)
    assert [len(set(label[start : start + 20])) for start in range(0, 80, 20)] == [1, 1, 1, 1]
    assert len(set(label)) == 4
    assert centres.shape == k_means(points[:2], 4, rng)[0].shape == (4, 2)


def test_where_the_prompt_tells_the_axis_and_the_user_the_end_starts_find_both():
    rng = np.random.default_rng(0)
    data, _ = small_world(users=60)
    train = data.train
    # Two kinds of prompts, far apart; on either, users like one feature or the opposite of it.
    kind = np.arange(30) % 2
    prompts = np.column_stack([8.0 * kind, rng.normal(size=30)])
    difference = rng.normal(size=(len(train), 4)).astype(np.float32)
    axis = kind[train.prompt]
    side = np.where((train.user >> axis) & 1, 1.0, -1.0)
    signs = np.sign(difference[np.arange(len(train)), axis] * side).astype(np.float32)
    difference *= signs[:, None]
    moment = difference.T @ difference / len(train)
    found = directions_of_kinds(train, difference, prompts, moment, (4, 2), rng)
    strongest = [(int(np.abs(one).argmax()), float(np.sign(one[np.abs(one).argmax()]))) for one in found]
    assert sorted(strongest) == [(0, -1.0), (0, 1.0), (1, -1.0), (1, 1.0)]
    assert [axis for axis, _ in strongest[:2]].count(strongest[0][0]) == 2


def test_a_gate_cannot_escape_losses_by_falling_asleep():
    module = module_with()
    prompts = torch.randn(3, 10)
    prompts = prompts[:, : module.gate[1].in_features]
    assert not module.awake(prompts).requires_grad
    assert module.awake(prompts)[:, 0].tolist() == [1.0, 1.0, 1.0]


def test_where_nobody_decided_anything_heads_start_anywhere():
    data, _ = small_world(users=30)
    difference = data.vectors.candidates[data.train.chosen] - data.vectors.candidates[data.train.rejected]
    moment = difference.T.astype(float) @ difference / len(difference)
    kinds = np.arange(len(data.train.texts.prompts)) % 2
    undecided = replace(data.train, tie=kinds[data.train.prompt] == 0)  # a kind of prompts on which all are ties
    prompts = 10.0 * np.eye(2)[kinds]
    found = directions_of_kinds(undecided, difference, prompts, moment, (4, 2), np.random.default_rng(0))
    nowhere = directions_of_users(
        replace(data.train, tie=np.ones(len(data.train), dtype=bool)), difference, moment, 3, np.random.default_rng(0)
    )
    for starts in (found, nowhere):
        assert np.linalg.norm(starts, axis=1) == pytest.approx(np.full(len(starts), np.sqrt(difference.shape[1])), rel=1e-5)
        assert np.linalg.matrix_rank(starts) == len(starts)
