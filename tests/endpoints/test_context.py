"""What a user says they want: `context` reaches the router over HTTP, is logged, and retrains it without taking users' evidence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from attune.models.data.logged import read_logged
from attune.models.data.preferences import Comparisons
from attune.models.export.router import retrain_router
from attune.models.training.micro_context import RouterSettings
from attune.service.settings import Settings
from attune.service.state.embedded import EmbeddedRedis
from tests.endpoints.conftest import LONG, PROMPT, SHORT, WARM, Service, running
from tests.tiny_bundle import PLAIN
from tests.tiny_bundle import WARM as WARM_WORDS

ASK = {"user": "u1", "prompt": PROMPT, "responses": [SHORT, LONG, WARM], "family": "micro"}


async def test_a_context_moves_the_weights_of_a_router_and_of_nobody_else(service: Service) -> None:
    plain = await service.post("/score", ASK)
    asked = await service.post("/score", ASK | {"context": "lovely friend , dear"})
    assert asked["weights"]["warm"] > plain["weights"]["warm"]
    assert asked["scores"] != plain["scores"]
    without_router = [await service.post("/score", ASK | {"family": "vrf"} | extra) for extra in ({}, {"context": "dear"})]
    assert without_router[0]["scores"] == without_router[1]["scores"]


async def test_logged_comparisons_retrain_the_router_and_users_keep_what_they_taught(
    settings_of: Callable[..., Settings], bundle: Path, tmp_path: Path, redis_server: EmbeddedRedis
) -> None:
    log = tmp_path / "log.jsonl"
    rng = np.random.default_rng(0)
    async with running(settings_of(redis_url=redis_server.url)) as service:
        for index in range(80):
            wants_warm = index % 2 == 0
            context = " ".join(rng.choice(WARM_WORDS if wants_warm else PLAIN, size=2))
            pair = {"chosen_text": WARM, "rejected_text": SHORT} if wants_warm else {"chosen_text": SHORT, "rejected_text": WARM}
            prompt = " ".join(rng.choice(PLAIN, size=4))
            await service.post("/feedback", {"user": f"u{index % 20}", "prompt": prompt, "context": context, **pair})
        exports = [(await service.client.get(f"/users/u{index}/export")).text for index in range(20)]
        before = [
            await service.post("/score", ASK | {"user": user, "context": "dear friend , sunny , glad"}) for user in ("u1", "stranger")
        ]
    log.write_text("".join(exports), encoding="utf-8")
    logged = read_logged(log)
    assert (len(logged.records), logged.without_texts) == (80, 0)
    told = Comparisons.from_records(logged.records)
    done = retrain_router(bundle, told, tmp_path / "bundles", settings=RouterSettings(learning_rate=2e-2, epochs=30))
    async with running(settings_of(bundle=str(done.path), redis_url=redis_server.url)) as service:
        after = [await service.post("/score", ASK | {"user": user, "context": "dear friend , sunny , glad"}) for user in ("u1", "stranger")]
        other = await service.post("/score", ASK | {"user": "stranger", "context": "in water"})
    assert (after[0]["user"], after[0]["personalization"]) == (before[0]["user"], "applied")
    assert after[0]["user"]["comparisons"] == 4
    assert after[1]["weights"]["warm"] > before[1]["weights"]["warm"]
    assert after[1]["weights"]["warm"] > 0.7 > 0.3 > other["weights"]["warm"]
