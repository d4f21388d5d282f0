"""What a deployment exports is what off-policy evaluation reads: decisions, laws, and who won."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from attune.models.measuring.policy.estimators import AS_LOGGED
from attune.models.measuring.policy.values_report import evaluate_log
from tests.endpoints.conftest import PROMPT, Service


async def test_an_export_becomes_duels_with_their_logged_propensities(service: Service, tmp_path: Path):
    logs, duels = tmp_path / "exports.jsonl", 0
    with logs.open("w", encoding="utf-8") as file:
        for user in ("ada", "bob", "cleo"):
            for number in range(4):
                policy = "learn" if number == 0 else "sample"
                made = await service.post("/generate", {"user": user, "prompt": PROMPT, "candidates": 2, "policy": policy})
                first, second = made["candidates"]
                body = {"user": user, "chosen": first["candidate_id"], "rejected": second["candidate_id"], "tie": number == 3}
                await service.post("/feedback", body)
                duels += 1
            forced = await service.post("/generate", {"user": user, "prompt": PROMPT, "member": "warm"})
            assert forced["routing"]["propensity"] is None
            await service.post("/feedback", {"user": user, "prompt": PROMPT, "chosen_text": "yes", "rejected_text": "no"})
            file.write((await service.client.get(f"/users/{user}/export")).text)
    results = evaluate_log(logs, logs, tmp_path / "out")
    assert (results["duels"], results["users"], sorted(results["members"])) == (duels, 3, ["concise", "detailed", "warm"])
    assert results["left_out"] == {"comparisons of texts": 3, "decisions nobody compared": 3}
    assert results["policies"]["uniform"]["dr"]["value"] == pytest.approx(0.5)
    assert results["drawn_as_pairs"] == 3
    assert results["policies"][AS_LOGGED]["unsupported"] == 0.0
    decision = await service.get(f"/decisions/{made['decision_id']}")
    kept = [line for line in map(json.loads, logs.read_text("utf-8").splitlines()) if line.get("decision_id") == made["decision_id"]]
    assert kept[0]["routing"]["joint_propensity"] == decision["routing"]["joint_propensity"]
