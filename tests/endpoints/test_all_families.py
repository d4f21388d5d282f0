"""Every kind of family in one bundle and one graph: each may serve, all learn, and each is measured before it learns."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attune.models.seam.registry import KINDS
from attune.service.settings import Settings
from tests.endpoints.conftest import LONG, PROMPT, SHORT, WARM, Service, running
from tests.seam import examples
from tests.stores import FreshStore
from tests.tiny_bundle import read_families_of, tiny_families, write_tiny_bundle

FAMILIES = tuple(KINDS)
LEARNING = tuple(family.name for family in (*tiny_families(), *examples.tiny_families()) if family.evidence_size)
SCORE: dict[str, Any] = {"user": "u1", "prompt": PROMPT, "responses": [SHORT, LONG, WARM], "explain": True}
LIKED: dict[str, Any] = {"user": "u1", "prompt": PROMPT, "chosen_text": WARM, "rejected_text": LONG}


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("every"), every=True)


@pytest.fixture
async def service(settings_of: Callable[..., Settings], every: Path) -> AsyncIterator[Service]:
    async with running(settings_of(bundle=str(every)), FreshStore()) as service:
        yield service


def test_the_bundle_has_every_kind_that_there_is(every: Path):
    assert set(read_families_of(every).names) == set(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_request_may_name_any_family_and_gets_its_scores(service: Service, family: str):
    for _ in range(4):
        await service.post("/feedback", LIKED)
    answer = await service.post("/score", SCORE | {"family": family})
    assert answer["family"] == family
    if family != "attributes":  # whose weights say how much, and may be below 0
        assert math.isclose(sum(answer["weights"].values()), 1.0, rel_tol=1e-9)
    for each in answer["scores"]:
        total = 0.0
        for part in each["explanation"]:
            total += part["contribution"]
        assert total == each["score"]
    assert answer["scores"][2]["rank"] == 1  # everybody's heads like warmth too
    routed = await service.post("/route", {"user": "u1", "prompt": PROMPT, "family": family})
    assert routed["family"] == family
    assert sum(routed["routing"]["propensities"].values()) == pytest.approx(1.0)
    made = await service.post("/generate", {"user": "u1", "prompt": PROMPT, "family": family, "candidates": 2})
    assert len(made["candidates"]) == 2


@pytest.mark.parametrize("family", FAMILIES)
async def test_any_family_may_be_the_one_that_serves(settings_of: Callable[..., Settings], every: Path, family: str):
    async with running(settings_of(bundle=str(every), family=family), FreshStore()) as service:
        assert (await service.post("/score", SCORE))["family"] == family
        told = await service.post("/feedback", LIKED)
        assert set(told["weights"]) == set(service.serving.bundle.families[family].heads)
        assert (await service.get("/bundle"))["family"] == family
        coverage = await service.get("/portfolio/coverage")
        assert coverage["family"] == family


async def test_families_that_do_not_serve_learn_all_the_same(service: Service):
    before = await service.get("/users/u1")
    for _ in range(5):
        await service.post("/feedback", LIKED)
    after = await service.get("/users/u1")
    for family in FAMILIES:
        moved = after["families"][family]["weights"] != before["families"][family]["weights"]
        assert moved == (family in LEARNING), family
    assert after["families"]["additive"]["weights"]["warmer"] > 0
    assert after["families"]["additive"]["mean"][0] > 0
    assert after["families"]["sparse_moe"]["weights"]["warm"] > after["families"]["sparse_moe"]["weights"]["detailed"]


async def test_every_family_is_measured_before_it_learns(service: Service):
    encoder, families = service.serving.encoder, service.serving.bundle.families
    rows = (await service.serving.batcher.submit([*encoder.candidates(PROMPT, [WARM, LONG]), encoder.prompt(PROMPT)], 5)).rows
    evidence, agreed, loss = families.prior(), dict.fromkeys(FAMILIES, 0), dict.fromkeys(FAMILIES, 0.0)
    for _ in range(4):
        predicted = families.predict(evidence, *rows)
        for family, probability in predicted.items():
            agreed[family] += probability > 0.5
            loss[family] -= math.log(probability)
        told = await service.post("/feedback", LIKED)
        assert told["agreement"] == {family: probability > 0.5 for family, probability in predicted.items()}
        evidence = evidence + families.learn(*rows, known=evidence)
    for family in FAMILIES:
        assert await service.metric("attune_prequential_comparisons_total", family=family, agreed="yes") == agreed[family]
        assert await service.metric("attune_prequential_log_loss_nats_count", family=family) == 4
        assert await service.metric("attune_prequential_log_loss_nats_sum", family=family) == pytest.approx(loss[family], rel=1e-6)


async def test_taking_back_restores_every_family_exactly(service: Service):
    await service.post("/feedback", LIKED | {"chosen_text": SHORT, "event_id": "e1"})
    before = await service.get("/users/u1")
    await service.post("/feedback", LIKED | {"event_id": "e2"})
    await service.client.delete("/users/u1/comparisons/e2")
    assert (await service.get("/users/u1"))["families"] == before["families"]


async def test_shadows_are_those_that_are_named(settings_of: Callable[..., Settings], every: Path):
    settings = settings_of(bundle=str(every), family="additive", shadow_families=("sparse_moe", "sparserm"))
    async with running(settings, FreshStore()) as service:
        await service.post("/feedback", LIKED)
        for family in FAMILIES:
            counted = await service.metric("attune_prequential_log_loss_nats_count", family=family)
            assert counted == (family in {"additive", "sparse_moe", "sparserm"})
        users = (await service.get("/users/u1"))["families"]
        assert users["micro"]["weights"] != dict.fromkeys(users["micro"]["weights"], 1 / 3)  # not measured, and learns


@pytest.mark.parametrize("family", ["micro", "sparse_moe"])
async def test_context_reaches_the_router_of_score_route_and_generate(service: Service, family: str):
    bundle, encoder = service.serving.bundle, service.serving.encoder
    text = "lovely friend , dear"
    plain, asked = (await service.serving.batcher.submit([encoder.prompt(PROMPT), encoder.prompt(PROMPT, text)], 5)).rows
    head = bundle.families[family].heads.index("warm")
    prior = bundle.families.part(family, bundle.families.prior())
    expected = [bundle.families[family].weights(prior, row) for row in (plain, asked)]
    assert expected[1][head] > expected[0][head]
    for weights, row, extra in zip(expected, (plain, asked), ({}, {"context": text}), strict=True):
        scored = await service.post("/score", SCORE | {"family": family} | extra)
        assert list(scored["weights"].values()) == pytest.approx(weights.tolist(), abs=1e-6)
        for path in ("/route", "/generate"):
            answer = await service.post(path, {"user": "u1", "prompt": PROMPT, "family": family} | extra)
            kept = await service.get(f"/decisions/{answer['decision_id']}")
            rng = np.random.default_rng(int(kept["seed"]))
            values = service.serving.standings.last("default").values(family, row)[0]
            sampled = bundle.families[family].sample_weights(prior, row, rng, kept["samples"]) @ values.T
            means = [each["mean"] for each in answer["routing"]["expected"].values()]
            assert means == pytest.approx(sampled.mean(axis=0).tolist(), abs=1e-6)


async def test_directions_are_explained_with_texts_that_show_them(service: Service):
    scored = await service.post("/score", SCORE | {"family": "sparserm"})
    parts = {part["head"]: part for part in scored["scores"][2]["explanation"]}
    assert parts["for 5: friend"]["examples"] == ["my friend"]
    assert "examples" not in parts["1 other direction"]
    other = await service.post("/score", SCORE | {"family": "micro"})
    assert not any("examples" in part for each in other["scores"] for part in each["explanation"])


async def test_choices_between_nearly_equal_texts_leave_what_real_ones_taught(service: Service):
    # The tiny graph sees which words there are and not their order, and of fifty words one more is little.
    words = ["put", "it", "in", "water", "for", "six", "minutes", "then", "eat"] * 5
    texts = [" ".join(words), " ".join(words[::-1]), " ".join([*words, "water"])]

    async def gaps() -> dict[str, float]:
        found = {}
        for family in LEARNING:
            scores = (await service.post("/score", SCORE | {"family": family}))["scores"]
            found[family] = scores[2]["score"] - scores[1]["score"]
        return found

    for _ in range(10):
        await service.post("/feedback", LIKED)
    before = await gaps()
    for turn in range(200):
        one, other = texts[turn % 3], texts[(turn + 1 + turn // 3 % 2) % 3]
        told = {"user": "u1", "prompt": PROMPT, "chosen_text": one, "rejected_text": other, "tie": turn % 7 == 0}
        await service.post("/feedback", told)
    assert await gaps() == pytest.approx(before, rel=0.01)
