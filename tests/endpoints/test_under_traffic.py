"""Things that happen at once: a merge while feedback arrives, a member renamed while it writes, a user deleted while users are listed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

from attune.service.settings import Settings
from tests.endpoints.conftest import LONG, PROMPT, SHORT, WARM, Service, running
from tests.endpoints.voices import Voice
from tests.stores import FreshStore
from tests.tiny_bundle import write_tiny_bundle

NOWHERE = {"kind": "openai", "base_url": "http://127.0.0.1:9/v1", "model": "m"}


async def test_feedback_that_arrives_during_a_merge_counts_once_or_is_refused(service: Service):
    async def tell(user: str, number: int) -> int:
        body = {"user": user, "prompt": PROMPT, "chosen_text": WARM, "rejected_text": LONG, "event_id": f"{user}-{number}"}
        return (await service.client.post("/feedback", json=body)).status_code

    for number in range(3):
        assert await tell("anonymous", number) == 200
    told = [tell("anonymous", number) for number in range(3, 9)] + [tell("known", number) for number in range(6)]
    merges = [service.client.post("/users/anonymous/merge", json={"into": "known"}) for _ in range(2)]
    statuses = await asyncio.gather(*told[:6], merges[0], *told[6:], merges[1])
    applied = 3 + sum(status == 200 for status in statuses if isinstance(status, int))
    assert {status for status in statuses if isinstance(status, int)} <= {200, 409}
    left = (await service.get("/users/anonymous"))["user"]["comparisons"]
    assert (await service.get("/users/known"))["user"]["comparisons"] + left == applied
    await service.post("/users/anonymous/merge", {"into": "known", "event_id": "again"})
    assert (await service.get("/users/known"))["user"]["comparisons"] == applied
    assert (await service.get("/users/anonymous"))["user"]["comparisons"] == 0


async def test_a_member_that_is_renamed_while_it_writes_ends_its_answer_and_begins_anew(
    settings_of: Callable[..., Settings], tmp_path: Path
):
    roster = tmp_path / "roster.json"
    members = {"old": Voice("old", (WARM,)), "other": Voice("other", (SHORT,))}

    def write_roster() -> None:
        roster.write_text(json.dumps(dict.fromkeys(members, NOWHERE)), encoding="utf-8")

    write_roster()
    bundle = write_tiny_bundle(tmp_path / "bundles", members=False, effects=True)
    async with running(settings_of(bundle=str(bundle), roster=str(roster)), FreshStore(), members) as service:
        held = members["old"]
        held.gate.clear()
        writing = asyncio.create_task(service.post("/generate", {"user": "u1", "prompt": PROMPT, "member": "old"}))
        await held.began.wait()
        members["new"] = Voice("new", (LONG,))
        del members["old"]
        write_roster()
        await service.post("/admin/reload", {})
        held.gate.set()
        first = (await writing)["candidates"][0]
        assert (first["member"], first["text"]) == ("old", WARM)
        second = (await service.post("/generate", {"user": "u1", "prompt": PROMPT, "member": "new"}))["candidates"][0]
        body = {"user": "u1", "chosen": first["candidate_id"], "rejected": second["candidate_id"]}
        assert (await service.post("/feedback", body))["result"] == "applied"
        await service.app.state.live.runtime.tally.flush()
        told = {member["name"]: member for member in (await service.get("/portfolio"))["members"]}
        assert (told["new"]["evidence"]["answers"], told["other"]["evidence"]["answers"]) == (1.0, 0.0)
        effects = (await service.get("/users/u1"))["portfolio"]["effects"]
        assert effects["new"]["mean"] < 0.0
        assert abs(effects["other"]["mean"]) < 1e-9  # what was said of two others says nothing of it
        refused = await service.client.post("/generate", json={"user": "u1", "prompt": PROMPT, "member": "old"})
        assert refused.status_code == 404


async def test_a_user_who_is_deleted_between_two_pages_is_not_listed_and_hides_nobody(service: Service):
    for number in range(6):
        body = {"user": f"user-{number}", "prompt": PROMPT, "chosen_text": WARM, "rejected_text": LONG}
        await service.post("/feedback", body)
    everybody = {one["tag"] for one in (await service.get("/users?limit=1000"))["users"]}
    assert len(everybody) == 6
    page = await service.get("/users?limit=1")
    seen = {one["tag"] for one in page["users"]}
    assert (await service.client.delete("/users/user-5")).status_code == 200
    while page["after"] is not None:
        page = await service.get(f"/users?limit=1&after={page['after']}")
        seen |= {one["tag"] for one in page["users"]}
    left = {one["tag"] for one in (await service.get("/users?limit=1000"))["users"]}
    assert left <= seen <= everybody
    assert len(left) == 5
