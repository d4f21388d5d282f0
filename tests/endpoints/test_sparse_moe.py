"""A sparse mixture from training to HTTP: trained, exported, packed, loaded, asked for by name, and explained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from attune.models.data.embeddings import Vectors
from attune.models.data.trunk import load_trunk
from attune.models.export.onnx import ScorerGraph, export_scorer
from attune.models.seam.bundle import Probes, basis_id, write_bundle
from attune.models.seam.families_file import write_families
from attune.models.seam.portfolio import Portfolio, PortfolioMember, write_portfolio
from attune.models.training.bradley_terry import BradleyTerrySettings, train_bradley_terry
from attune.models.training.features import Subspace
from attune.models.training.heads import TrainedFamily
from attune.models.training.loop import LoopSettings
from attune.models.training.sparse_moe import SparseMoeSettings, train_sparse_moe
from attune.service.settings import Settings
from tests.endpoints.conftest import running
from tests.models.small_world import small_world
from tests.models.tiny_trunk import write_tiny_trunk
from tests.stores import FreshStore
from tests.tiny_bundle import MEMBERS

PROMPTS, RESPONSES = ("how are you today?", "boil the egg"), ("perhaps", "")


def write_trained_bundle(folder: Path) -> Path:
    """Returns a bundle of a global head and a sparse mixture on a tiny random trunk, through the real export."""
    trunk = load_trunk(str(write_tiny_trunk(folder / "trunk", "encoder")))
    data, _ = small_world(users=40)
    rng = np.random.default_rng(0)
    texts = data.train.texts
    vectors = Vectors(*(rng.normal(size=(len(part), trunk.width)).astype(np.float32) for part in (texts.prompts, texts.candidates)))
    data = replace(data, vectors=vectors)
    space, loop = Subspace(6), LoopSettings(steps=30)
    trained: list[TrainedFamily] = [
        train_bradley_terry(data, BradleyTerrySettings(subspace=space, loop=loop), 0),
        train_sparse_moe(data, SparseMoeSettings(experts=5, active=2, hidden=8, temperature=0.7, subspace=space, loop=loop), 0),
    ]
    graph = ScorerGraph(trunk, [one.heads for one in trained])
    pairs = zip(PROMPTS, RESPONSES, strict=True)
    rows = [trunk.encoder.candidates(prompt, [response])[0] if response else trunk.encoder.prompt(prompt) for prompt, response in pairs]
    assert export_scorer(graph, rows, folder / "scorer.onnx") < 1e-4
    values = {one.family.name: rng.normal(size=(len(MEMBERS), len(one.family.heads))) for one in trained}
    members = tuple(PortfolioMember(name, name, {name: 1.0}) for name in MEMBERS)
    files = write_families([one.family for one in trained], "sparse_moe")
    contents: dict[str, bytes | Path] = {
        "scorer.onnx": folder / "scorer.onnx",
        "tokenizer.json": trunk.tokenizer_json,
        "portfolio.json": write_portfolio(Portfolio(members, values, {name: np.abs(value) for name, value in values.items()}, None)),
        "probes.npz": Probes(PROMPTS, RESPONSES, graph.answers(rows), 1e-3).to_bytes(),
        **files,
    }
    return write_bundle(folder, "moe", contents, basis=basis_id(files), template=trunk.template, metadata={})


@pytest.fixture(scope="module")
def trained_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_trained_bundle(tmp_path_factory.mktemp("moe"))


async def test_a_trained_sparse_mixture_is_served_explained_and_learns(settings_of: Callable[..., Settings], trained_bundle: Path) -> None:
    ask = {"user": "u1", "prompt": "how are you today?", "responses": ["boil the egg for nine minutes", "perhaps"], "explain": True}
    async with running(settings_of(bundle=str(trained_bundle), family="sparse_moe"), FreshStore()) as service:
        before = await service.post("/score", ask)
        assert before["family"] == "sparse_moe"
        assert before["weights"]["quality"] > 0
        # The shared expert and two routed ones.
        assert sum(weight > 0 for weight in before["weights"].values()) == 3
        for scored in before["scores"]:
            assert sum(part["contribution"] for part in scored["explanation"]) == pytest.approx(scored["score"], abs=1e-12)
        for _ in range(12):
            chosen, rejected = ask["responses"]
            await service.post("/feedback", {"user": "u1", "prompt": ask["prompt"], "chosen_text": chosen, "rejected_text": rejected})
        after = await service.post("/score", ask)
        assert after["user"]["comparisons"] == 12
        margins = [one["scores"][0]["score"] - one["scores"][1]["score"] for one in (before, after)]
        assert margins[1] > margins[0]
        routed = await service.post("/route", {"user": "u1", "prompt": ask["prompt"]})
        assert set(routed["routing"]["propensities"]) == set(MEMBERS)
        known = await service.get("/users/u1")
        assert set(known["families"]) == {"bradley_terry", "sparse_moe"}
