"""Somebody's own gateway: `/route`, its own request to the member, and what it tells afterwards."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from attune.service.errors import Overloaded, StoreUnavailable
from attune.service.live.standing import kept_under
from tests.endpoints.conftest import LONG, PROMPT, SHORT, WARM, Service, running
from tests.stores import FreshStore

ASK = {"user": "u1", "prompt": PROMPT}


async def answered(service: Service, body: dict[str, object], **answers: str) -> dict[str, object]:
    given = [{"member": member, "text": text} for member, text in answers.items()]
    return await service.post(f"/decisions/{body['decision_id']}/answers", {"user": "u1", "answers": given})


async def test_answers_of_a_gateway_are_scored_counted_once_and_learned_from_by_id(settings_of):
    store = FreshStore()
    async with running(settings_of(), store) as service:
        decision = await service.post("/route", ASK | {"candidates": 2})
        first, second = decision["routing"]["members"]
        made = await answered(service, decision, **{first: WARM, second: LONG})
        again = await answered(service, decision, **{first: WARM, second: LONG})
        assert (made["result"], again["result"]) == ("applied", "duplicate")
        assert [(one["member"], one["text"]) for one in made["candidates"]] == [(first, WARM), (second, LONG)]
        assert all(one["score"] is not None for one in made["candidates"])
        assert made["routing"]["joint_propensity"] == pytest.approx(decision["routing"]["joint_propensity"])
        await service.app.state.live.runtime.tally.flush()
        sums = await store.read_members("default", kept_under(service.serving.bundle.basis))
        assert {name: kept.total.count for name, kept in sums.items()} == {first: 1.0, second: 1.0}
        ids = [one["candidate_id"] for one in again["candidates"]]
        learned = await service.post("/feedback", {"user": "u1", "chosen": ids[0], "rejected": ids[1]})
        assert learned["user"]["comparisons"] == 1
        assert learned["weights"]["warm"] > learned["weights"]["detailed"]


async def test_another_member_than_the_one_drawn_leaves_no_propensity(service):
    decision = await service.post("/route", ASK | {"policy": "best"})
    other = next(name for name in decision["routing"]["propensities"] if name != decision["routing"]["member"])
    made = await answered(service, decision, **{other: SHORT})
    assert (made["routing"]["member"], made["routing"]["propensity"]) == (other, None)
    assert made["routing"]["fallback"]["wanted"] == decision["routing"]["member"]
    kept = await service.get(f"/decisions/{decision['decision_id']}")
    assert kept["routing"]["fallback"]["served"] == other


async def test_what_cannot_be_attached_is_refused_and_changes_nothing(service):
    decision = await service.post("/route", ASK)
    at, member = f"/decisions/{decision['decision_id']}/answers", decision["routing"]["member"]
    given = [{"member": member, "text": WARM}]
    assert (await service.post(at, {"user": "somebody", "answers": given}, status=403))["code"] == "not-your-candidate"
    assert (await service.post("/decisions/none/answers", {"user": "u1", "answers": given}, status=404))["code"] == "unknown-decision"
    assert (await service.post(at, {"user": "u1", "answers": [{"member": "nobody", "text": "x"}]}, status=404))["code"] == "unknown-member"
    assert (await service.post(at, {"user": "u1", "answers": given, "prompt": "another"}, status=422))["code"] == "invalid-request"
    assert (await service.post(at, {"user": "u1", "answers": given * 16}, status=422))["code"] == "invalid-request"
    assert (await service.get(f"/decisions/{decision['decision_id']}"))["candidates"] == []
    await service.post(at, {"user": "u1", "answers": given})
    assert (await service.post(at, {"user": "u1", "answers": [{"member": member, "text": LONG}]}, status=409))["code"] == "event-conflict"


async def test_answers_to_decisions_of_a_user_who_was_merged_come_under_the_name_that_is_left(service: Service):
    first, second = [await service.post("/route", ASK | {"user": "anonymous"}) for _ in range(2)]
    made = [{"member": one["routing"]["member"], "text": text} for one, text in ((first, WARM), (second, SHORT))]
    places = [f"/decisions/{one['decision_id']}/answers" for one in (first, second)]
    kept = await service.post(places[0], {"user": "anonymous", "answers": made[:1]})
    await service.post("/users/anonymous/merge", {"into": "known"})
    # What was kept before is so under either name, and what is new belongs to the one who is left.
    for user in ("anonymous", "known"):
        again = await service.post(places[0], {"user": user, "answers": made[:1]})
        assert (again["result"], again["candidates"]) == ("duplicate", kept["candidates"]), user
    for answers in (made[1:], made[:1]):
        refused = await service.post(places[1], {"user": "anonymous", "answers": answers}, status=403)
        assert refused["code"] == "not-your-candidate"
        assert "went with this user, when they were merged, to the one who is left; send it for that one" in refused["detail"]
    assert (await service.post(places[1], {"user": "somebody", "answers": made[1:]}, status=403))["code"] == "not-your-candidate"
    added = await service.post(places[1], {"user": "known", "answers": made[1:]})
    assert added["result"] == "applied"
    ids = [one["candidates"][0]["candidate_id"] for one in (kept, added)]
    told = await service.post("/feedback", {"user": "anonymous", "chosen": ids[0], "rejected": ids[1]}, status=403)
    assert "send it for that one" in told["detail"]
    assert (await service.post("/feedback", {"user": "known", "chosen": ids[0], "rejected": ids[1]}))["result"] == "applied"


async def test_of_answers_that_come_at_once_one_request_keeps_its_own_and_the_others_are_told(settings_of):
    store = FreshStore()
    async with running(settings_of(), store) as service:
        decision = await service.post("/route", ASK)
        at, member = f"/decisions/{decision['decision_id']}/answers", decision["routing"]["member"]
        bodies = [{"user": "u1", "answers": [{"member": member, "text": text}]} for text in (WARM, LONG, SHORT, WARM, LONG, SHORT)]
        answers = await asyncio.gather(*(service.client.post(at, json=body) for body in bodies))
        kept = (await service.get(f"/decisions/{decision['decision_id']}"))["candidates"][0]["text"]
        results = [(answer.status_code, answer.json().get("result")) for answer in answers]
        for body, result in zip(bodies, results, strict=True):
            assert (body["answers"][0]["text"] == kept) == (result[0] == 200), (body, result)
        assert sorted(result for _, result in results if result) == ["applied", "duplicate"]
        assert [status for status, _ in results].count(409) == 4
        await service.app.state.live.runtime.tally.flush()
        sums = await store.read_members("default", kept_under(service.serving.bundle.basis))
        assert {name: one.total.count for name, one in sums.items()} == {member: 1.0}


async def test_answers_that_the_store_did_not_take_are_told_as_such_and_counted_when_they_come_again(settings_of):
    class Refusing(FreshStore):
        trouble: Exception | None = None

        async def write_decision(self, *given: Any, **options: Any) -> bool:
            if self.trouble is not None:
                raise self.trouble
            return await super().write_decision(*given, **options)

    store = Refusing()
    async with running(settings_of(), store) as service:
        decision = await service.post("/route", ASK)
        at, member = f"/decisions/{decision['decision_id']}/answers", decision["routing"]["member"]
        body = {"user": "u1", "answers": [{"member": member, "text": WARM}]}
        for trouble, status in ((StoreUnavailable("no room"), 503), (Overloaded("full", 1.0), 429)):
            store.trouble = trouble
            assert (await service.post(at, body, status=status))["code"] == trouble.code
        store.trouble = None
        assert (await service.post(at, body))["result"] == "applied"
        await service.app.state.live.runtime.tally.flush()
        sums = await store.read_members("default", kept_under(service.serving.bundle.basis))
        assert {name: one.total.count for name, one in sums.items()} == {member: 1.0}


async def test_where_no_texts_are_kept_the_prompt_comes_again(settings_of):
    async with running(settings_of(keep_text=False), FreshStore()) as service:
        decision = await service.post("/route", ASK)
        at = f"/decisions/{decision['decision_id']}/answers"
        body = {"user": "u1", "answers": [{"member": decision["routing"]["member"], "text": WARM}]}
        assert (await service.post(at, body, status=422))["errors"][0]["field"] == "prompt"
        made = await service.post(at, body | {"prompt": PROMPT})
        rated = await service.post("/feedback", {"user": "u1", "candidate": made["candidates"][0]["candidate_id"], "rating": 1})
        assert rated["result"] == "applied"
