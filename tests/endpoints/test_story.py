"""One user's whole story on a real, embedded Redis: score, generate, learn, move, restart, export, take back, delete."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from redis.asyncio import Redis

from attune.service.settings import Settings
from attune.service.state.redis_store import RedisStore
from attune.service.usecases.decision_record import pack, unpack
from tests.endpoints.conftest import LONG, PROMPT, SHORT, WARM, Service, running

PROMPTS = [PROMPT, "tell me about tea", "what is the best way to travel ?"]


async def likes_warm(service: Service, prompt: str) -> None:
    """Asks the warm member and another one, and says what somebody who likes warm answers would say; no draw decides who answers."""
    ask = {"user": "ada", "prompt": prompt}
    warm, other = [await service.post("/generate", ask | {"member": member}) for member in ("warm", "detailed")]
    chosen, rejected = warm["candidates"][0]["candidate_id"], other["candidates"][0]["candidate_id"]
    told = await service.post("/feedback", {"user": "ada", "chosen": chosen, "rejected": rejected})
    assert told["result"] == "applied"


async def keys_of(service: Service, tmp_path: Path) -> list[bytes]:
    """Returns every key of the embedded server."""
    async with Redis.from_url(f"unix://{tmp_path}/redis/redis.sock", protocol=2) as client:
        return [key async for key in client.scan_iter()]


async def test_a_user_from_the_first_score_to_the_last_key(settings_of: Callable[..., Settings], tmp_path: Path):
    ask = {"user": "ada", "prompt": PROMPT, "responses": [SHORT, LONG, WARM]}
    async with running(settings_of()) as service:
        cold = await service.post("/score", ask)
        assert cold["personalization"] == "prior"
        for index in range(12):
            await likes_warm(service, PROMPTS[index % 3])
        warm = await service.post("/score", ask)
        assert warm["personalization"] == "applied"
        assert warm["weights"]["warm"] > cold["weights"]["warm"] + 0.3
        assert warm["scores"][2]["rank"] == 1
        routed = await service.post("/route", {"user": "ada", "prompt": PROMPT})
        assert routed["routing"]["propensities"]["warm"] > 0.7
        before = await service.get("/users/ada")
        assert before["portfolio"]["member"] == "warm"

    async with running(settings_of()) as service:
        after = await service.get("/users/ada")
        # What members are worth goes on being added for a second after their last answer; what is known of the user is the same.
        assert after["portfolio"]["member"] == before["portfolio"]["member"]
        assert {**after, "portfolio": None} == {**before, "portfolio": None}
        kept = await service.get(f"/decisions/{routed['decision_id']}")
        assert kept["routing"] == routed["routing"]
        again = await service.post("/score", ask)
        assert again["scores"] == warm["scores"]
        told = await service.post(
            "/feedback", {"user": "ada", "decision_id": routed["decision_id"], "chosen_text": WARM, "rejected_text": LONG}
        )
        assert told["user"]["comparisons"] == before["user"]["comparisons"] + 1

        lines = [json.loads(line) for line in (await service.client.get("/users/ada/export")).text.splitlines()]
        comparisons = [line for line in lines if line["type"] == "comparison"]
        assert len(comparisons) == told["user"]["comparisons"]
        taken = await service.client.delete(f"/users/ada/comparisons/{told['event_id']}")
        assert taken.json()["user"]["comparisons"] == before["user"]["comparisons"]
        assert (await service.get("/users/ada"))["families"] == before["families"]

        await service.post("/feedback", {"user": "bob", "prompt": PROMPT, "chosen_text": SHORT, "rejected_text": LONG})
        receipt = (await service.client.delete("/users/ada")).json()["deleted"]
        assert receipt["comparisons"] == before["user"]["comparisons"]
        assert receipt["decisions"] == 12 * 2 + 1
        left = await keys_of(service, tmp_path)
        assert left
        assert (await service.client.delete("/users/bob")).status_code == 200
        # What is left of the two is the mark of their deletion, which holds nothing of them and goes by itself.
        async with Redis.from_url(f"unix://{tmp_path}/redis/redis.sock", protocol=2) as client:
            marks = {key: await client.ttl(key) async for key in client.scan_iter("*:u:*")}
        assert {key.rsplit(b":", 1)[-1] for key in marks} == {b"deleted", b"refused"}
        assert all(0 < ttl_s <= 86_400 for ttl_s in marks.values())


async def test_two_replicas_on_one_redis_are_one_service(settings_of: Callable[..., Settings], redis_server):
    secret = "a secret that both replicas have"
    async with (
        running(settings_of(user_secret=secret), RedisStore(redis_server.url)) as one,
        running(settings_of(user_secret=secret), RedisStore(redis_server.url)) as other,
    ):
        made = await one.post("/generate", {"user": "eve", "prompt": PROMPT, "candidates": 2})
        first, second = (candidate["candidate_id"] for candidate in made["candidates"])
        body = {"user": "eve", "chosen": first, "rejected": second, "event_id": "e1"}
        assert (await other.post("/feedback", body))["result"] == "applied"
        assert (await one.post("/feedback", body))["result"] == "duplicate"
        seen, same = await one.get("/users/eve"), await other.get("/users/eve")
        # What members are worth to everybody reaches the others within two seconds; what is known of the user is there at once.
        assert seen.pop("portfolio")["member"] == same.pop("portfolio")["member"]
        assert seen == same
        assert (await one.client.delete("/users/eve")).status_code == 200


async def test_what_a_user_and_a_decision_occupy_is_bounded(settings_of: Callable[..., Settings], tmp_path: Path):
    async with running(settings_of()) as service:
        made = await service.post("/generate", {"user": "ada", "prompt": PROMPT, "candidates": 2})
        first, second = (candidate["candidate_id"] for candidate in made["candidates"])
        await service.post("/feedback", {"user": "ada", "chosen": first, "rejected": second})
        async with Redis.from_url(f"unix://{tmp_path}/redis/redis.sock", protocol=2) as client:
            sizes = {key: await client.memory_usage(key) async for key in client.scan_iter()}
            for key, size in sizes.items():
                assert await client.pttl(key) > 0, f"{key!r} never goes"
                # What the members are worth to everybody is written a second after an answer, and is nobody's own.
                if b":u:" in key and b":sum:" in key:
                    assert size < 1024
                if b":decision:" in key:
                    assert size < 4096
                    record = unpack((await client.get(key))[17:])
                    assert record.prompt == PROMPT
                    assert unpack(pack(record)).routing == record.routing
