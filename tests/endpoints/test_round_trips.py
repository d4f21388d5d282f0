"""What a request costs the store: commands of a real server, counted by the server itself, with members that only a roster names."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Self

import pytest
from redis.asyncio import Redis

from attune.service.settings import Settings
from attune.service.state.embedded import EmbeddedRedis
from attune.service.state.redis_store import RedisStore
from tests.endpoints.conftest import LONG, PROMPT, SHORT, Service, running
from tests.endpoints.voices import Voice
from tests.tiny_bundle import write_tiny_bundle

TIMES = 4
USERS = ":u:"
"""In the name of every key of a user, and of no other."""


class Watched:
    """The commands that a server ran for one tenant's users, as it says itself; those that scripts ran are not sent by anybody."""

    def __init__(self, server: EmbeddedRedis) -> None:
        self._raw = Redis.from_url(server.url, protocol=2)
        self._monitor = self._raw.monitor()

    async def __aenter__(self) -> Self:
        await self._monitor.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._monitor.__aexit__(*exc_info)
        await self._raw.aclose()

    async def since(self) -> list[str]:
        """Returns the names of the commands about users since it was asked last."""
        await self._raw.execute_command("ECHO", "so far")
        found = []
        while "so far" not in (said := await self._monitor.next_command())["command"]:
            if said["client_type"] != "lua" and USERS in said["command"]:
                found.append(said["command"].split()[0].upper())
        return found


@pytest.fixture
async def own(settings_of: Callable[..., Settings], redis_server: EmbeddedRedis, tmp_path: Path) -> AsyncIterator[Service]:
    """A service on a real store whose bundle knows no members."""
    roster = tmp_path / "roster.json"
    members = {"terse": Voice("terse", (SHORT,)), "chatty": Voice("chatty", (LONG,))}
    place = {"kind": "openai", "base_url": "http://127.0.0.1:9/v1", "model": "m"}
    roster.write_text(json.dumps(dict.fromkeys(members, place)), encoding="utf-8")
    bundle = write_tiny_bundle(tmp_path / "bundles", members=False)
    settings = settings_of(bundle=str(bundle), roster=str(roster))
    async with running(settings, RedisStore(redis_server.url), members) as service:
        yield service


async def test_a_decision_is_one_reading_and_one_writing_and_so_is_feedback(own: Service, redis_server: EmbeddedRedis):
    ask = {"user": "rounds", "prompt": PROMPT}

    async def generate(number: int) -> None:
        made = await own.post("/generate", ask | {"candidates": 2})
        first, second = (candidate["candidate_id"] for candidate in made["candidates"])
        pairs.append({"user": "rounds", "chosen": first, "rejected": second, "event_id": f"rounds-{number}"})

    pairs: list[dict[str, str]] = []
    await own.post("/route", ask)  # scripts are sent once, and known from then on
    await generate(TIMES)
    await own.post("/feedback", pairs.pop())
    async with Watched(redis_server) as watched:
        for _ in range(TIMES):
            await own.post("/route", ask)
        assert await watched.since() == ["MGET", "EVALSHA"] * TIMES
        for number in range(TIMES):
            await generate(number)
        assert await watched.since() == ["MGET", "EVALSHA"] * TIMES
        for pair in pairs:
            await own.post("/feedback", pair)
        assert await watched.since() == ["MGET", "EVALSHA"] * TIMES
        # Deciding without keeping writes nothing.
        await own.post("/route", ask | {"record": False})
        assert await watched.since() == ["MGET"]
        chat = {"model": "auto", "user": "rounds", "messages": [{"role": "user", "content": PROMPT}]}
        await own.post("/v1/chat/completions", chat)
        assert (await watched.since())[:2] == ["MGET", "EVALSHA"]
