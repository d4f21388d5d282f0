"""The torch functions of training and the numpy functions of serving are the same functions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from attune.models.seam import gaussian
from attune.models.seam.families import Families
from attune.models.training.episodes import ComparisonFeatures, EpisodeBatch
from attune.models.training.features import Subspace
from attune.models.training.heads import TrainedFamily, compute_outputs
from attune.models.training.micro import MicroModule, MicroSettings, served_micro
from attune.models.training.sparse_moe import SparseMoeModule, SparseMoeSettings, raw_prompts, served_sparse_moe, with_raw_prompts
from attune.models.training.vrf import VrfModule, VrfSettings
from tests.models.small_world import small_world

SPACE = Subspace(5)

ROUNDING = 1e-4
"""Of a log-loss: what is served learns in half precision, whose numbers are right to one part in two thousand; training does not."""
VRF = VrfSettings(heads=4, latent=6, features=5, prompt_features=3, hidden=(16, 8), subspace=SPACE)


@pytest.fixture(scope="module")
def data():
    return small_world()[0]


def row_of(outputs, index):
    return {name: value[index] for name, value in outputs.items()}


def test_votes_posterior_weights_variance_and_probability_agree_with_the_seam(data):
    calibration = data.calibration(SPACE)
    module = VrfModule(calibration, VRF, torch.Generator().manual_seed(3)).double()
    with torch.no_grad():
        module.log_scale.fill_(0.7)
        module.vote.weight.mul_(4.0)
    family = module.family()
    count, users = 7, 5
    rng = np.random.default_rng(0)
    difference = rng.normal(size=(users, count, 5))
    prompt = rng.normal(size=(users, count, 9))
    margins = rng.normal(size=(users, count, 4))
    tie = rng.random((users, count)) < 0.3
    mask = rng.random((users, count)) < 0.8
    with torch.no_grad():
        precision, vote = module.votes(torch.from_numpy(difference), torch.from_numpy(prompt))
        mean, std = module.posterior(precision, vote, torch.from_numpy(tie), torch.from_numpy(mask))
        weights = module.weights(mean, std)
        logits = module.logits(weights, std, torch.from_numpy(margins))
        read, said = module.features(torch.from_numpy(difference)).numpy(), module.prompt_features(torch.from_numpy(prompt)).numpy()
    for user in range(users):
        evidence = np.zeros(12)
        for index in range(count):
            t, n = family.encoder(read[user, index], said[user, index])
            assert np.allclose(t, precision[user, index], atol=1e-9)
            assert np.allclose(n, vote[user, index], atol=1e-9)
            if mask[user, index]:
                evidence += gaussian.vote_evidence(t, n, tie=bool(tie[user, index]))
        mu, sigma = gaussian.posterior(evidence, family.floor)
        assert np.allclose(mu, mean[user], atol=1e-9)
        assert np.allclose(sigma, std[user], atol=1e-9)
        mine = gaussian.matching_weights(mu, sigma, family.bases)
        assert np.allclose(mine, weights[user], atol=1e-9)
        for index in range(count):
            variance = gaussian.margin_variance(mine, margins[user, index], sigma, family.bases)
            found = gaussian.attenuated_probability(float(mine @ margins[user, index]), float(variance))
            assert found == pytest.approx(float(torch.sigmoid(logits[user, index])), abs=1e-9)


def test_swapping_winner_and_loser_turns_the_vote_round_in_training_too(data):
    module = VrfModule(data.calibration(SPACE), VRF, torch.Generator().manual_seed(3)).double()
    difference, prompt = torch.randn(3, 5, dtype=torch.float64), torch.randn(3, 9, dtype=torch.float64)
    precision, vote = module.votes(difference, prompt)
    other_precision, other_vote = module.votes(-difference, prompt)
    assert torch.allclose(precision, other_precision)
    assert torch.allclose(vote, -other_vote)
    nothing = module.votes(torch.zeros(1, 5, dtype=torch.float64), prompt[:1])
    assert all(torch.count_nonzero(part) == 0 for part in nothing)


def one_user(data, count, user=0):
    """Returns an episode of one user: `count` context comparisons and five targets."""
    mine = list(data.train.rows_of_users().values())[user]
    context, targets = mine[:count] if count else mine[:1], mine[10:15]
    return EpisodeBatch(
        torch.from_numpy(context[None]),
        torch.full((1, len(context)), bool(count)),
        torch.from_numpy(targets[None]),
        torch.ones((1, len(targets)), dtype=torch.bool),
    )


def served_loss(trained, data, batch):
    """Returns the mean log-loss of the targets through graph outputs and the seam alone."""
    candidates, prompts = (compute_outputs([trained], part) for part in (data.vectors.candidates, data.vectors.prompts))

    def told(row):
        return (
            row_of(candidates, data.train.chosen[row]),
            row_of(candidates, data.train.rejected[row]),
            row_of(prompts, data.train.prompt[row]),
        )

    families = Families([trained.family])
    evidence = families.prior()
    for row in batch.context[batch.context_mask].tolist():
        evidence = evidence + families.learn(*told(row), tie=bool(data.train.tie[row]))
    return -np.mean([np.log(families.predict(evidence, *told(row))[trained.family.name]) for row in batch.targets[0].tolist()])


@pytest.mark.parametrize("count", [0, 4])
def test_what_vrf_minimises_is_the_log_loss_of_what_is_served(data, count):
    calibration = data.calibration(SPACE)
    module = VrfModule(calibration, VRF, torch.Generator().manual_seed(3))
    with torch.no_grad():
        module.vote.weight.mul_(4.0)
    batch = one_user(data, count)
    minimised = float(module.episode_loss(ComparisonFeatures.of(data.train, data, calibration), batch)[0])
    served = served_loss(TrainedFamily(module.family(), module.fold(calibration)), data, batch)
    assert served == pytest.approx(minimised, abs=ROUNDING)


@pytest.mark.parametrize("count", [0, 4])
def test_what_micro_minimises_is_the_log_loss_of_what_is_served(data, count):
    calibration = data.calibration(SPACE)
    settings = MicroSettings(heads=4, eta=0.6, subspace=SPACE)
    module = MicroModule(calibration, settings, torch.Generator().manual_seed(3))
    batch = one_user(data, count)
    minimised = float(module.episode_loss(ComparisonFeatures.of(data.train, data, calibration), batch))
    assert served_loss(served_micro(module, calibration, data, settings, {}), data, batch) == pytest.approx(minimised, abs=ROUNDING)


@pytest.mark.parametrize("sleeping", [False, True])
@pytest.mark.parametrize("count", [0, 4])
def test_what_sparse_moe_minimises_is_the_log_loss_of_what_is_served_the_cut_included(data, count, sleeping):
    calibration = data.calibration(SPACE)
    settings = SparseMoeSettings(experts=4, active=2, hidden=8, temperature=0.7, eta=0.6, sleeping=sleeping, subspace=SPACE)
    module = SparseMoeModule(calibration, raw_prompts(data), settings, torch.Generator().manual_seed(3))
    with torch.no_grad():
        module.gate[3].weight.mul_(30.0)  # a gate that differs between prompts, so that the cut does too
    features = with_raw_prompts(ComparisonFeatures.of(data.train, data, calibration), data)
    trained = served_sparse_moe(module, calibration, data, settings, {})
    what_the_cut_changes = []
    for user in range(6):
        batch = one_user(data, count, user)
        minimised, dense = (float(module.episode(features, batch, dense=dense)[0]) for dense in (False, True))
        assert served_loss(trained, data, batch) == pytest.approx(minimised, abs=ROUNDING)
        what_the_cut_changes.append(abs(dense - minimised))
    assert max(what_the_cut_changes) > 1e-3  # of one user alone it can be anything, zero too
    gate = compute_outputs([trained], data.vectors.prompts)["sparse_moe_gate"]
    np.testing.assert_allclose(np.exp(gate.astype(np.float64)).sum(axis=1), 1.0, atol=1e-6)
    assert len({tuple(np.argsort(-row[1:])[:2]) for row in gate}) > 1
