"""`POST /score`: what a client reads is what the families compute, and adds up."""

from __future__ import annotations

from tests.endpoints.conftest import LONG, PROMPT, SHORT, WARM, Service


async def test_contributions_sum_to_the_score_exactly_and_are_sorted_by_size(service: Service):
    answer = await service.post("/score", {"user": "u1", "prompt": PROMPT, "responses": [SHORT, LONG, WARM], "explain": True})
    for scored in answer["scores"]:
        total = 0.0
        for part in scored["explanation"]:
            assert part["contribution"] == part["weight"] * part["reward"]
            total += part["contribution"]
        assert total == scored["score"]
        sizes = [abs(part["contribution"]) for part in scored["explanation"]]
        assert sizes == sorted(sizes, reverse=True)


async def test_generate(service: Service):
    answer = await service.post("/generate", {"user": "u1", "prompt": PROMPT, "candidates": 2})
    print(answer)
    a, b = answer["candidates"]
    fb = await service.post("/feedback", {"user": "u1", "chosen": a["candidate_id"], "rejected": b["candidate_id"]})
    print(fb)
    print(await service.get("/users/u1"))
    print((await service.client.get("/users/u1/export")).text)
    print((await service.client.delete("/users/u1")).text)
    r = await service.client.get("/readyz")
    print(r.text, r.headers)
