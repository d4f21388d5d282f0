from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from attune.models.measuring.families.fewshot import cut, few_shot
from attune.models.measuring.rows import rows_from_heads
from attune.models.seam.families import Families
from attune.models.training.bradley_terry import BradleyTerrySettings, train_bradley_terry
from attune.models.training.episodes import Episodes, EpisodeSettings, log_uniform
from attune.models.training.features import Subspace
from attune.models.training.heads import TrainedFamily, save_heads
from attune.models.training.loop import LoopSettings, TrainingDiverged, fit, reproducible
from attune.models.training.micro import MicroSettings, train_micro
from attune.models.training.sparse_moe import SparseMoeSettings, train_sparse_moe
from attune.models.training.vrf import VrfSettings, train_vrf
from tests.models.small_world import HASTY, SHORT, small_world

SPACE = Subspace(4)


def trainers(loop: LoopSettings) -> dict[str, Callable[..., TrainedFamily]]:
    """Returns the trainer of each family, small, with so many steps; each takes the data and a seed."""
    one, many = BradleyTerrySettings(subspace=SPACE, loop=loop), MicroSettings(heads=4, router=8, subspace=SPACE, loop=loop)
    sparse = SparseMoeSettings(experts=4, hidden=8, subspace=SPACE, loop=loop)
    latent = VrfSettings(heads=4, latent=4, features=6, prompt_features=2, hidden=(16,), subspace=SPACE, loop=loop)
    return {
        "bradley_terry": lambda data, seed=0: train_bradley_terry(data, one, seed),
        "micro": lambda data, seed=0: train_micro(data, many, seed),
        "sparse_moe": lambda data, seed=0: train_sparse_moe(data, sparse, seed),
        "vrf": lambda data, seed=0: train_vrf(data, latent, seed),
    }


TRAINERS = trainers(SHORT)


def test_one_head_is_at_chance_between_opposed_groups_and_both_mixtures_are_not():
    data, unseen = small_world(opposed=True, users=200)
    trained = [train(data) for train in TRAINERS.values()]
    context, targets = cut(unseen, context=10, targets=20, seed=0)
    found = few_shot(Families([one.family for one in trained]), rows_from_heads(trained, data.vectors), context, targets, counts=(0, 10))
    at = {name: [point.accuracy.mean for point in curve] for name, curve in found.curves.items()}
    assert at["bradley_terry"][1] == pytest.approx(0.5, abs=0.06)
    # Choices flip with probability 0.1, so nobody gets beyond 0.9.
    assert at["micro"][1] > 0.8
    assert at["vrf"][1] > 0.8
    assert at["sparse_moe"][1] > 0.8
    assert at["micro"][0] == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize("name", TRAINERS)
def test_two_trainings_from_one_seed_are_equal_bytes_and_another_seed_is_not(name, tmp_path):
    data, _ = small_world(users=60)
    train = trainers(HASTY)[name]
    for number, seed in enumerate((5, 5, 6)):
        save_heads(tmp_path / str(number), [train(data, seed)], name)
    first, again, other = ((tmp_path / str(number) / "heads.safetensors").read_bytes() for number in range(3))
    assert first == again
    assert first != other


def test_the_global_head_finds_the_direction_that_everybody_likes():
    data, _ = small_world(users=60)
    liked = data.vectors.candidates[:, 2]
    better = liked[data.train.chosen] >= liked[data.train.rejected]
    agreed = data.train.take(np.arange(len(data.train)))
    chosen, rejected = np.where(better, agreed.chosen, agreed.rejected), np.where(better, agreed.rejected, agreed.chosen)
    from dataclasses import replace

    told = replace(
        data,
        train=replace(agreed, chosen=chosen, rejected=rejected),
        validation=replace(agreed, chosen=chosen, rejected=rejected),
    )
    weight = TRAINERS["bradley_terry"](told).heads.outputs["bradley_terry_rewards"][0].weight[0]
    assert float(weight[2] / weight.norm()) > 0.9


def test_micro_without_users_learns_heads_that_the_prompt_alone_tells_apart():
    """The paper's own loss: groups differ by prompt, so the router can separate them and one head cannot."""
    data, _ = small_world(users=120)
    from dataclasses import replace

    side = data.vectors.prompts[:, 0] > np.median(data.vectors.prompts[:, 0])
    liked = data.vectors.candidates[:, 1]

    def retold(part):
        wanted = np.where(side[part.prompt], 1, -1)
        right = (liked[part.chosen] - liked[part.rejected]) * wanted > 0
        return replace(part, chosen=np.where(right, part.chosen, part.rejected), rejected=np.where(right, part.rejected, part.chosen))

    told = replace(data, train=retold(data.train), validation=retold(data.validation))
    loop = LoopSettings(steps=600, evaluate_every=100)
    trained = train_micro(
        told, MicroSettings(heads=2, alpha=0.0, learn_from="prompts", learn_eta=False, subspace=Subspace(None), loop=loop), 0
    )
    assert trained.summary["validation_nll"] < 0.45
    assert trained.summary["heads_per_prompt"] < 1.7
    assert trained.family.settings.eta == pytest.approx(1.0)


def test_episodes_never_predict_what_they_were_told():
    data, _ = small_world(users=30)
    episodes = Episodes(data.train, EpisodeSettings(users=40))
    batch = episodes.draw(np.random.default_rng(0))
    for user in range(40):
        context = set(batch.context[user][batch.context_mask[user]].tolist())
        targets = set(batch.targets[user][batch.target_mask[user]].tolist())
        assert targets
        assert not context & targets
        assert len(set(data.train.user[list(context | targets)])) == 1


def test_context_lengths_are_log_uniform_from_none_to_the_most():
    drawn = log_uniform(np.random.default_rng(0), 32, 100_000)
    assert drawn.min() == 0
    assert drawn.max() == 32
    # P(n) = log((n + 2) / (n + 1)) / log 34
    for count in (0, 1, 7):
        assert np.mean(drawn == count) == pytest.approx(np.log((count + 2) / (count + 1)) / np.log(34), abs=0.005)


def test_users_with_one_comparison_make_no_episode():
    data, _ = small_world(users=30)
    firsts = np.array([rows[0] for rows in data.train.rows_of_users().values()])
    with pytest.raises(ValueError, match="no user has two comparisons among 18"):
        Episodes(data.train.take(firsts), EpisodeSettings())


class Parabola(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.at = torch.nn.Parameter(torch.tensor(4.0))


def test_the_weights_of_the_least_validation_loss_are_kept():
    module = Parabola()
    seen = []

    def validate():
        # Improves until 2 and gets worse beyond, while the training loss goes on to 0.
        seen.append(float(module.at))
        return abs(float(module.at) - 2.0)

    history = fit(
        module,
        lambda step: module.at.square(),
        validate,
        LoopSettings(steps=400, learning_rate=0.05, weight_decay=0, evaluate_every=5, patience=3),
    )
    assert abs(float(module.at.detach()) - 2.0) == min(abs(value - 2.0) for value in seen) == history.best_loss
    assert len(seen) < 80
    assert history.validation[-1][0] - history.best_step == 15


def test_the_step_that_stops_a_training_early_is_told_as_its_last():
    module, told = Parabola(), []
    history = fit(
        module,
        lambda _: module.at.square(),
        lambda: 1.0,
        LoopSettings(steps=50, evaluate_every=5, patience=2),
        lambda *now: told.append(now),
    )
    assert history.validation[-1][0] == 10
    assert told == [*((step, 50) for step in range(1, 11)), (10, 10)]


def test_a_loss_that_is_not_finite_stops_the_training_with_its_step():
    module = Parabola()
    with pytest.raises(TrainingDiverged, match="nan at step 3"):
        fit(module, lambda step: module.at * (float("nan") if step == 3 else 1.0), lambda: 0.0, LoopSettings(steps=10))


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_validation_loss_that_is_not_finite_keeps_no_weights(wrong):
    module, losses = Parabola(), iter([0.5, wrong, 0.25])
    with pytest.raises(TrainingDiverged, match=f"validation loss is {wrong} at step 5"):
        fit(module, lambda _: module.at.square(), lambda: next(losses), LoopSettings(steps=10, evaluate_every=5))


def test_settings_of_torch_are_restored_after_a_training_even_when_it_fails():
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()

    def fail():
        with reproducible(0):
            assert torch.get_num_threads() == 1
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        fail()
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before
