"""What is said of an answer that calls a tool is learned, exported, taken back and replayed as of any other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from loadtest.upstream import Upstream
from tests.endpoints.conftest import Service
from tests.endpoints.test_chat_beyond_text import CHAT, TOOLS, calls, chat, says, serve, upstream
from tests.tiny_bundle import write_tiny_bundle

__all__ = ["serve", "upstream"]  # fixtures of the tests of what is passed on


async def compared(service: Service, upstream: Upstream, event: str) -> dict[str, Any]:
    """Returns what `/feedback` answers to a text preferred to a call."""
    ids = []
    for script in (says, calls):
        upstream.answers(script)
        ids.append((await service.post(CHAT, chat(tools=TOOLS)))["choices"][0]["candidate_id"])
    return await service.post("/feedback", {"user": "u1", "event_id": event, "chosen": ids[0], "rejected": ids[1]})


async def weights(service: Service) -> dict[str, float]:
    told = await service.get("/users/u1")
    found: dict[str, float] = told["families"][told["family"]]["weights"]
    return found


async def test_a_comparison_with_a_call_is_exported_as_the_sentence_that_it_is_and_taken_back_exactly(serve, upstream: Upstream):
    async with serve(["tools"]) as service:
        assert (await compared(service, upstream, "kept"))["result"] == "applied"
        before = await weights(service)
        assert (await compared(service, upstream, "taken"))["user"]["comparisons"] == 2
        assert await weights(service) != before
        lines = [json.loads(line) for line in (await service.client.get("/users/u1/export")).text.splitlines()]
        texts = [line["rejected_text"] for line in lines if line["type"] == "comparison"]
        assert texts == ['Called clock with {"zone": "UTC"}'] * 2
        taken = await service.client.delete("/users/u1/comparisons/taken")
        assert (taken.status_code, taken.json()["user"]["comparisons"]) == (200, 1)
        assert await weights(service) == before


async def test_a_comparison_with_a_call_is_replayed_under_another_basis(serve, upstream: Upstream, tmp_path: Path):
    async with serve(["tools"]) as service:
        await compared(service, upstream, "kept")
        await service.post("/admin/reload", {"bundle": str(write_tiny_bundle(tmp_path, salt=0.5))})
        assert (await service.get("/users/u1"))["user"]["comparisons"] == 0
        done = await service.post("/admin/replay", {"user": "u1"})
        assert (done["replayed"], done["without_texts"], done["unusable"], done["damaged"]) == (1, 0, 0, 0)
        assert (await service.get("/users/u1"))["user"]["comparisons"] == 1
