"""`POST /users/{user}/merge` and `GET /users`: two users become one, once, and an operator sees who is kept."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np

from attune.service.settings import Settings
from tests.endpoints.conftest import LONG, WARM, Service, running
from tests.endpoints.test_feedback import TEXTS, evidence, pair_of
from tests.endpoints.test_feedback_forms import batch, bodies
from tests.stores import FreshStore


async def test_a_merged_user_is_the_sum_of_both_and_a_repeat_changes_nothing(service: Service):
    pair = await pair_of(service, "anonymous")
    await service.post("/feedback", TEXTS | {"user": "anonymous", "event_id": "a"})
    await service.post("/feedback", TEXTS | {"user": "known", "chosen_text": LONG, "rejected_text": WARM, "event_id": "b"})
    one, other = [np.array(await evidence(service, user)) for user in ("anonymous", "known")]
    merged = await service.post("/users/anonymous/merge", {"into": "known"})
    assert merged == {"result": "applied", "comparisons": 1, "decisions": 1, "user": {"id": "known", "comparisons": 2}}
    again = await service.post("/users/anonymous/merge", {"into": "known"})
    assert again == {"result": "duplicate", "comparisons": 0, "decisions": 0, "user": {"id": "known", "comparisons": 2}}
    assert np.array_equal(await evidence(service, "known"), one + other)
    assert (await service.get("/users/anonymous"))["user"]["comparisons"] == 0
    assert (await service.post("/feedback", pair | {"user": "known"}))["user"]["comparisons"] == 3
    lines = [json.loads(line) for line in (await service.client.get("/users/known/export")).text.splitlines()]
    assert {line["event_id"] for line in lines if line["type"] == "comparison"} >= {"a", "b"}
    assert (await service.client.delete("/users/known/comparisons/a")).json()["user"]["comparisons"] == 2


async def test_what_is_learned_after_a_merge_is_moved_by_another_event(service: Service):
    await service.post("/feedback", TEXTS | {"user": "anonymous"})
    await service.post("/users/anonymous/merge", {"into": "known"})
    await service.post("/feedback", TEXTS | {"user": "anonymous"})
    assert (await service.post("/users/anonymous/merge", {"into": "known"}))["result"] == "duplicate"
    assert (await service.get("/users/anonymous"))["user"]["comparisons"] == 1
    merged = await service.post("/users/anonymous/merge", {"into": "known", "event_id": "second-login"})
    assert (merged["result"], merged["user"]["comparisons"]) == ("applied", 2)


async def test_what_is_sent_again_for_a_user_who_was_merged_is_a_duplicate_and_counts_for_nobody(service: Service):
    sent = [body | {"event_id": form} for form, body in (await bodies(service, "anonymous")).items()]
    for body in sent:
        assert (await service.post("/feedback", body))["result"] == "applied", body
    await service.post("/users/anonymous/merge", {"into": "known"})
    await service.settle()
    before = await service.get("/users/known")
    for body in sent:
        again = await service.post("/feedback", body)
        assert (again["result"], again["user"]) == ("duplicate", {"id": "anonymous", "comparisons": 0}), body
    assert [line["result"] for line in await batch(service, [json.dumps(body) for body in sent])] == ["duplicate"] * len(sent)
    assert await service.get("/users/known") == before


async def test_another_body_and_what_was_taken_back_are_told_of_a_user_who_was_merged_too(service: Service):
    by_ids = (await pair_of(service, "anonymous")) | {"event_id": "ids"}
    by_texts = TEXTS | {"user": "anonymous", "event_id": "texts"}
    for body in (by_ids, by_texts):
        await service.post("/feedback", body)
    await service.client.delete("/users/anonymous/comparisons/ids")
    await service.post("/users/anonymous/merge", {"into": "known"})
    assert "was taken back" in (await service.post("/feedback", by_ids, status=409))["detail"]
    turned = by_texts | {"chosen_text": TEXTS["rejected_text"], "rejected_text": TEXTS["chosen_text"]}
    assert "with another body" in (await service.post("/feedback", turned, status=409))["detail"]
    undone = await service.client.delete("/users/anonymous/comparisons/texts")
    assert (undone.status_code, undone.json()["code"]) == (404, "unknown-event")
    assert "take it back from the user who is left" in undone.json()["detail"]
    assert (await service.client.delete("/users/known/comparisons/texts")).json()["user"]["comparisons"] == 0


async def test_what_was_never_learned_is_no_duplicate_after_a_merge(service: Service):
    by_ids = await pair_of(service, "anonymous")
    await service.post("/feedback", TEXTS | {"user": "anonymous", "event_id": "texts"})
    await service.post("/users/anonymous/merge", {"into": "known"})
    assert (await service.post("/feedback", by_ids | {"event_id": "new"}, status=403))["code"] == "not-your-candidate"
    assert (await service.post("/feedback", by_ids | {"event_id": "new", "user": "known"}))["result"] == "applied"
    assert (await service.client.delete("/users/anonymous")).status_code == 200
    assert (await service.post("/feedback", TEXTS | {"user": "anonymous", "event_id": "texts"}, status=409))["code"] == "user-deleted"


async def test_a_merge_into_the_same_user_is_refused(service: Service):
    for body, field in (({"into": "u1"}, "into"), ({}, "into"), ({"into": "u2", "event_id": "a\nb"}, "event_id")):
        problem = await service.post("/users/u1/merge", body, status=422)
        assert problem["errors"][0]["field"] == field


async def test_users_are_listed_by_tag_with_counts_in_pages(service: Service):
    for number in range(5):
        for _ in range(number % 2 + 1):
            await service.post("/feedback", TEXTS | {"user": f"u{number}"})
    found: dict[str, int] = {}
    after, pages = "", 0
    while pages == 0 or after:
        page = await service.get(f"/users?limit=2&after={after}")
        found |= {user["tag"]: user["comparisons"] for user in page["users"]}
        after, pages = page["after"], pages + 1
    assert sorted(found.values()) == [1, 1, 1, 2, 2]
    assert page["basis"] == service.serving.bundle.basis
    tag = json.loads((await service.client.get("/users/u1/export")).text.splitlines()[0])["tag"]
    assert found[tag] == 2
    assert all(user["last_seen"] == "2027-01-15T08:00:00.000Z" for user in page["users"])
    assert (await service.get("/users?after=nonsense", status=422))["errors"][0]["field"] == "after"


async def test_the_list_needs_the_admin_right_and_shows_one_tenant(settings_of: Callable[..., Settings]):
    keys = "plain-key-1:one,admin-key-1:one:admin,admin-key-2:two:admin"
    async with running(settings_of(api_keys=keys), FreshStore()) as service:
        await service.post("/feedback", TEXTS, headers={"authorization": "Bearer plain-key-1"})
        counts = {}
        for key in ("plain-key-1", "admin-key-1", "admin-key-2"):
            answer = await service.client.get("/users", headers={"authorization": f"Bearer {key}"})
            counts[key] = (answer.status_code, len(answer.json().get("users", [])))
        assert counts == {"plain-key-1": (403, 0), "admin-key-1": (200, 1), "admin-key-2": (200, 0)}
