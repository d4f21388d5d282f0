"""A family that this version does not know is one more entry of the registry: trained, packed, served and learned from by that alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from attune.models.data.preferences import Comparison, Comparisons
from attune.models.data.trunk import load_trunk
from attune.models.export.pack import pack
from attune.models.measuring.families.own_data import OwnData, train_own
from attune.models.seam.family import Row, Scored, mixed_scores
from attune.models.seam.family_format import Format, Stored, Written
from attune.models.seam.hedge import mixed_probability
from attune.models.seam.registry import KINDS, Kind
from attune.models.seam.reward_heads import RewardHeads
from attune.models.training.heads import Heads, TrainedFamily
from attune.models.training.loop import TrainingData
from attune.models.training.trainers import LineUp, trainers
from attune.service.settings import Settings
from tests.endpoints.conftest import running
from tests.models.tiny_trunk import write_tiny_trunk
from tests.stores import FreshStore

SHORT, LONG = "Yes.", "Boil it, then wait, look again, and if it is not what you wanted, start once more."


@dataclass(frozen=True, slots=True)
class Votes(RewardHeads):
    """Each head's weight is its share of the comparisons that it would have decided as the user did, and one more each."""

    @property
    def evidence_size(self) -> int:
        return len(self.heads)

    def weights(self, evidence: np.ndarray, prompt: Row | None) -> np.ndarray:
        return (1.0 + evidence) / (1.0 + evidence).sum(axis=-1, keepdims=True)

    def score(self, evidence: np.ndarray, rewards: np.ndarray, prompt: Row | None) -> Scored:
        weights = self.weights(evidence, prompt)
        return Scored(mixed_scores(rewards, weights), np.zeros(len(rewards)), weights, rewards)

    def chances(self, evidence: np.ndarray, chosen: Row, rejected: Row, prompt: Row) -> np.ndarray:
        return mixed_probability(self.weights(evidence, prompt), self.margins(chosen, rejected))

    def learn(self, chosen: Row, rejected: Row, prompt: Row, *, tie: bool) -> np.ndarray:
        return np.zeros(len(self.heads)) if tie else (self.margins(chosen, rejected) > 0).astype(np.float64)

    def sample_weights(self, evidence: np.ndarray, prompt: Row | None, rng: np.random.Generator, samples: int) -> np.ndarray:
        return np.tile(self.weights(evidence, prompt), (samples, 1))


def write(family: Votes) -> Written:
    return {"logit_scale": family.logit_scale}, {}


def read(stored: Stored) -> Votes:
    return Votes(stored.name, stored.heads, stored.logit_scale)


def train_in_line_up(data: TrainingData, line_up: LineUp, seed: int) -> TrainedFamily:
    """Returns two heads, one for texts that are long and one for those that are short."""
    layer = nn.Linear(data.vectors.candidates.shape[1], 2)
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()
        layer.weight[:, -1] = torch.tensor([1.0, -1.0])  # the last column of a vector is its text's length
    heads = Heads({"votes_rewards": nn.Sequential(layer)}, {"votes_rewards": "candidate"}).eval().requires_grad_(requires_grad=False)
    return TrainedFamily(Votes("votes", ("long", "short"), 1.0), heads, {"validation_nll": 0.5, "seed": seed})


@pytest.fixture
def one_more() -> Iterator[None]:
    KINDS["votes"] = Kind(Format("votes", Votes, write, read), f"{__name__}:train_in_line_up")
    yield
    del KINDS["votes"]


async def test_a_kind_in_the_registry_is_trained_packed_served_and_learned_from(
    one_more: None, settings_of: Callable[..., Settings], tmp_path: Path
):
    trunk = load_trunk(str(write_tiny_trunk(tmp_path / "trunk", "encoder")))
    told = [(SHORT, LONG), (LONG, SHORT)] * 12
    table = Comparisons.from_records(
        Comparison(prompt=f"What about {turn}?", chosen=chosen, rejected=rejected, user=f"p{turn // 4}")
        for turn, (chosen, rejected) in enumerate(told)
    )
    wanted = OwnData(names=("votes",), personalise=True, folds=1)
    found = train_own(table, trunk, tmp_path / "families", wanted, cache=None, tell=lambda _line: None)
    assert (found["default"], set(found["families"])) == ("votes", {"bradley_terry", "votes"})
    bundle = pack(tmp_path / "families", tmp_path / "bundles", "toy").path
    async with running(settings_of(bundle=str(bundle)), FreshStore(), {}) as service:
        ask = {"user": "u", "prompt": "What about it?", "responses": [SHORT, LONG]}
        before = await service.post("/score", ask)
        assert before["family"] == "votes"
        assert before["weights"] == {"long": 0.5, "short": 0.5}
        for turn in range(8):
            liked = {"user": "u", "prompt": "What about it?", "chosen_text": LONG, "rejected_text": SHORT, "event_id": f"e{turn}"}
            await service.post("/feedback", liked)
        after = await service.post("/score", ask)
    assert after["weights"]["long"] > 0.5
    assert [each["rank"] for each in after["scores"]] == [2, 1]


def test_every_trainer_that_the_registry_names_is_there():
    assert set(trainers()) == {name for name, kind in KINDS.items() if kind.trainer}
    assert all(callable(train) for train in trainers().values())
