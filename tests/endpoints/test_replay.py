"""`POST /admin/replay`: users keep what they taught when a bundle of another basis comes, in a real store."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import SecretStr
from redis.asyncio import Redis

from attune.models.seam.bundle import read_bundle
from attune.service.settings import Settings
from attune.service.state.embedded import EmbeddedRedis
from attune.service.state.keys import SUM, UserKey, seal_of, user_tag
from attune.service.state.redis_store import RedisStore
from tests.endpoints.conftest import LONG, PROMPT, SHORT, WARM, Service, running
from tests.stores import FreshStore
from tests.tiny_bundle import write_tiny_bundle

CHOICES = [(WARM, LONG), (SHORT, LONG), (WARM, SHORT), (LONG, SHORT)]


@pytest.fixture
def tenant() -> str:
    return "t" + secrets.token_hex(6)


@pytest.fixture
def start(settings_of: Callable[..., Settings], redis_server: EmbeddedRedis, tenant: str) -> Callable[..., Any]:
    """Starts services of one tenant on the shared server."""
    keys = f"admin-key-of-the-test:{tenant}:admin,other-key-of-the-test:{tenant}"

    def begin(**given: Any) -> Any:
        settings = settings_of(api_keys=SecretStr(keys), user_secret=SecretStr("s" * 32), **given)
        return running(settings, RedisStore(redis_server.url))

    return begin


@pytest.fixture
async def service(start: Callable[..., Any]) -> AsyncIterator[Service]:
    async with start() as service:
        service.client.headers["authorization"] = "Bearer admin-key-of-the-test"
        yield service


@pytest.fixture
def other_basis(tmp_path: Path) -> str:
    return str(write_tiny_bundle(tmp_path, salt=0.5))


async def teach(service: Service, user: str, count: int = 4, prefix: str = "e", **more: Any) -> None:
    for index in range(count):
        chosen, rejected = CHOICES[index % len(CHOICES)]
        seen = {"observed_at": f"2026-05-{1 + index % 28:02d}T12:00:00Z"}
        body = {"user": user, "prompt": PROMPT, "chosen_text": chosen, "rejected_text": rejected, "event_id": f"{prefix}{index}"}
        await service.post("/feedback", body | seen | {"tie": index % 4 == 3} | more)


async def replay_all(service: Service, **request: Any) -> list[dict[str, Any]]:
    answers = [await service.post("/admin/replay", request)]
    while not answers[-1]["done"]:
        answers.append(await service.post("/admin/replay", request | {"cursor": answers[-1]["cursor"]}))
    return answers


async def sums(service: Service, user: str) -> dict[str, tuple[int, list[float]]]:
    lines = [json.loads(line) for line in (await service.client.get(f"/users/{user}/export")).text.splitlines()]
    return {line["basis"]: (line["comparisons"], line["evidence"]) for line in lines if line["type"] == "sum"}


def split(bundle: str, summed: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Returns what the families learned `[E]`, and for each of them the losses `[F, 2]` of the personal and of anybody's prediction."""
    families = read_bundle(Path(bundle)).families
    learned = sum(families[name].evidence_size for name in families.names)
    assert len(summed) == families.evidence_size > learned
    return np.array(summed[:learned]), np.array(summed[learned:]).reshape(-1, 2)


@pytest.mark.parametrize("half_life_days", [0.0, 3.0])
async def test_a_replayed_log_is_the_sum_that_would_have_come_under_the_new_basis(
    start: Callable[..., Any], other_basis: str, half_life_days: float
):
    async with start(half_life_days=half_life_days) as service:
        service.client.headers["authorization"] = "Bearer admin-key-of-the-test"
        await teach(service, "u1", 7)
        made = await service.post("/generate", {"user": "u1", "prompt": PROMPT, "candidates": 2, "context": "be lovely"})
        pair = dict(zip(("chosen", "rejected"), (candidate["candidate_id"] for candidate in made["candidates"]), strict=True))
        await service.post("/feedback", {"user": "u1", "event_id": "by-ids"} | pair)
        await service.post("/admin/reload", {"bundle": other_basis})
        assert (await service.get("/users/u1"))["user"]["comparisons"] == 0
        assert (await replay_all(service))[-1]["done"]
        # The same events as if they had arrived under the new basis.
        await teach(service, "u2", 7)
        texts = dict(zip(("chosen_text", "rejected_text"), (candidate["text"] for candidate in made["candidates"]), strict=True))
        await service.post("/feedback", {"user": "u2", "event_id": "by-ids", "prompt": PROMPT, "context": "be lovely"} | texts)
        one, other = await service.get("/users/u1"), await service.get("/users/u2")
        assert one["user"]["comparisons"] == other["user"]["comparisons"] == 8
        assert one["user"]["first_seen"] == other["user"]["first_seen"]
        kept = next(basis for basis in await sums(service, "u2"))
        (evidence, losses), (told, told_losses) = [split(other_basis, (await sums(service, user))[kept][1]) for user in ("u1", "u2")]
        np.testing.assert_allclose(evidence, told, rtol=1e-9, atol=1e-6)
        # Anybody's losses know no order. The eight are replayed together and predicted from nothing, as anybody's choices are.
        np.testing.assert_allclose(losses[:, 1], told_losses[:, 1], rtol=1e-9, atol=1e-6)
        np.testing.assert_allclose(losses[:, 0], losses[:, 1], rtol=1e-9, atol=1e-6)


async def test_a_second_replay_adds_nothing_and_a_repeat_of_the_feedback_neither(service: Service, other_basis: str):
    await teach(service, "u1")
    await service.post("/admin/reload", {"bundle": other_basis})
    assert sum(answer["replayed"] for answer in await replay_all(service)) >= 4
    before = await sums(service, "u1")
    assert sum(answer["replayed"] for answer in await replay_all(service)) == 0
    await teach(service, "u1")
    assert await sums(service, "u1") == before


async def test_a_replay_goes_on_where_it_was_broken_off(service: Service, tenant: str, other_basis: str):
    for user in ("u1", "u2", "u3"):
        await teach(service, user, 20)
    await service.post("/admin/reload", {"bundle": other_basis})
    first = await service.post("/admin/replay", {"tenant": tenant, "limit_s": 0})
    assert (first["done"], first["replayed"]) == (False, 8)
    # The answer is lost: the same request once more, then on to the end.
    answers = await replay_all(service, tenant=tenant, limit_s=0)
    assert len(answers) > 3
    assert first["replayed"] + sum(answer["replayed"] for answer in answers) == 60
    assert sum(answer["users"] for answer in answers) == 3
    for user in ("u1", "u2", "u3"):
        assert (await service.get(f"/users/{user}"))["user"]["comparisons"] == 20


async def test_one_user_alone_is_replayed(service: Service, other_basis: str):
    await teach(service, "u1")
    await teach(service, "u2")
    await service.post("/admin/reload", {"bundle": other_basis})
    (answer,) = await replay_all(service, user="u1")
    assert (answer["users"], answer["replayed"]) == (1, 4)
    assert (await service.get("/users/u2"))["user"]["comparisons"] == 0
    (nobody,) = await replay_all(service, user="nobody")
    assert (nobody["done"], nobody["replayed"]) == (True, 0)


async def test_what_was_taken_back_is_not_replayed_and_what_was_replayed_is_taken_back_everywhere(
    service: Service, bundle: Path, other_basis: str
):
    await teach(service, "u1")
    await service.client.delete("/users/u1/comparisons/e0")
    await service.post("/admin/reload", {"bundle": other_basis})
    assert sum(answer["replayed"] for answer in await replay_all(service, user="u1")) == 3
    taken = await service.client.delete("/users/u1/comparisons/e1")
    assert taken.json()["user"]["comparisons"] == 2
    await service.post("/admin/reload", {"bundle": str(bundle)})
    assert (await service.get("/users/u1"))["user"]["comparisons"] == 2
    kinds = [json.loads(line)["type"] for line in (await service.client.get("/users/u1/export")).text.splitlines()]
    assert kinds.count("replayed") == 2
    deleted = (await service.client.delete("/users/u1")).json()["deleted"]
    assert deleted["comparisons"] == 2
    assert await sums(service, "u1") == {}


async def test_without_texts_a_comparison_is_counted_and_left(start: Callable[..., Any], other_basis: str):
    async with start(keep_text=False) as service:
        service.client.headers["authorization"] = "Bearer admin-key-of-the-test"
        await teach(service, "u1", 20)
        await service.post("/admin/reload", {"bundle": other_basis})
        (answer,) = await replay_all(service, user="u1", limit_s=0)
        assert (answer["done"], answer["replayed"], answer["without_texts"]) == (True, 0, 20)


@pytest.mark.parametrize("kind", ["payload", "entry", "sum"])
async def test_a_damaged_record_of_one_user_stops_nobody_else(
    service: Service, redis_server: EmbeddedRedis, tenant: str, other_basis: str, kind: str
):
    for index in range(5):
        await teach(service, f"u{index}")
    await service.post("/admin/reload", {"bundle": other_basis})
    basis = read_bundle(Path(other_basis)).basis
    broken = UserKey(tenant, user_tag(b"s" * 32, tenant, "u2"))
    async with Redis.from_url(redis_server.url) as raw:
        if kind == "sum":
            await raw.set(broken.sum(basis), seal_of(SUM, broken) + b"not a sum")
        else:
            entry = (await raw.lrange(broken.log, 0, -1))[2]
            await raw.lset(broken.log, 2, entry[:-9] if kind == "payload" else entry[:9])
    answers = await replay_all(service, tenant=tenant)
    found = [sum(answer[name] for answer in answers) for name in ("users", "damaged", "unusable", "replayed")]
    assert found == ([5, 0, 1, 19] if kind == "payload" else [5, 1, 0, 16])
    for index in (0, 1, 3, 4):
        assert (await service.get(f"/users/u{index}"))["user"]["comparisons"] == 4
    assert [answer["replayed"] for answer in await replay_all(service, tenant=tenant)] == [0], "there is nothing left to do"
    if kind == "payload":  # what was learned of it is whole, and is exported and taken back
        lines = [json.loads(line) for line in (await service.client.get("/users/u2/export")).text.splitlines()]
        kept = [line for line in lines if line["type"] == "comparison"]
        assert ["unreadable" in line and "prompt" not in line for line in kept] == [False, False, True, False]
        assert (await service.client.delete("/users/u2/comparisons/e2")).status_code == 200


async def test_a_short_queue_makes_a_replay_slower_and_does_not_stop_it(start: Callable[..., Any], other_basis: str):
    async with start(queue_max_items=4) as service:
        service.client.headers["authorization"] = "Bearer admin-key-of-the-test"
        await teach(service, "u1", 20)
        await service.post("/admin/reload", {"bundle": other_basis})
        (answer,) = await replay_all(service, user="u1")
        assert (answer["done"], answer["replayed"]) == (True, 20)


async def test_a_replay_counts_no_predictions(service: Service, other_basis: str):
    await teach(service, "u1", 3)
    before = await service.metric("attune_prequential_log_loss_nats_count", family="vrf")
    await service.post("/admin/reload", {"bundle": other_basis})
    await replay_all(service, user="u1")
    assert await service.metric("attune_prequential_log_loss_nats_count", family="vrf") == before


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"cursor": "x"}, "cursor"),
        ({"tenant": "a:b"}, "tenant"),
        ({"tenant": "*"}, "tenant"),
        ({"limit_s": -1}, "limit_s"),
        ({"user": ""}, "user"),
    ],
)
async def test_a_request_that_makes_no_sense_is_refused(service: Service, body: dict[str, Any], field: str):
    problem = await service.post("/admin/replay", body, status=422)
    assert problem["errors"][0]["field"] == field


async def test_only_admins_replay(service: Service):
    answer = await service.client.post("/admin/replay", json={}, headers={"authorization": "Bearer other-key-of-the-test"})
    assert answer.status_code == 403


async def test_tenants_whose_names_begin_alike_are_all_replayed(settings_of: Callable[..., Settings], other_basis: str):
    """`t`, `t-2` and `t2`: a colon stands behind the shorter name in a cursor, and some signs of names come before it."""
    tenants = ["t", "t-2", "t2"]
    keys = [f"key-of-the-tenant-{tenant}:{tenant}:admin" for tenant in tenants]
    async with running(settings_of(api_keys=SecretStr(",".join(keys)), user_secret=SecretStr("s" * 32)), FreshStore()) as service:
        for limit_s in (20, 0):  # on one page, and with a cursor from one user to the next
            for tenant in tenants:
                service.client.headers["authorization"] = f"Bearer key-of-the-tenant-{tenant}"
                await teach(service, "u1", 9, prefix=f"of-{limit_s}-")
            await service.post("/admin/reload", {"bundle": other_basis})
            assert sum(answer["replayed"] for answer in await replay_all(service, limit_s=limit_s)) == 27
            await service.post("/admin/reload", {})
