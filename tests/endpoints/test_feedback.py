"""`POST /feedback`: learned once, by ids or by texts, predicted before it is learned, refused with the reason."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attune.service.errors import AttuneError, DeadlineExceeded, NotYourCandidate, Overloaded, ScorerFailed, StoreUnavailable, UserMerged
from attune.service.ids import candidate_id, new_decision_id
from attune.service.settings import Settings
from attune.service.state.redis_store import RedisStore
from attune.service.state.store import Added, NewComparison, UserKey
from tests.endpoints.conftest import LONG, PROMPT, SHORT, WARM, Service, running
from tests.stores import FreshStore
from tests.tiny_bundle import write_tiny_bundle

TEXTS: dict[str, Any] = {"user": "u1", "prompt": PROMPT, "chosen_text": WARM, "rejected_text": LONG}

# Fixed, so that a test is called the same in every process that collects it.
UNKNOWN = "01a2194c-e8a3-7000-8000-000000000001"


async def pair_of(service: Service, user: str = "u1", prompt: str = PROMPT) -> dict[str, Any]:
    """Returns the body of feedback on a fresh pair."""
    made = await service.post("/generate", {"user": user, "prompt": prompt, "candidates": 2})
    first, second = made["candidates"]
    return {"user": user, "chosen": first["candidate_id"], "rejected": second["candidate_id"]}


async def evidence(service: Service, user: str = "u1") -> list[float]:
    """Returns the user's stored sum."""
    for line in (await service.client.get(f"/users/{user}/export")).text.splitlines():
        if '"type":"sum"' in line:
            import json

            found: list[float] = json.loads(line)["evidence"]
            return found
    return []


async def test_a_pair_of_ids_is_learned_with_the_evidence_that_its_texts_would_give(service: Service):
    made = await service.post("/generate", {"user": "by-ids", "prompt": PROMPT, "candidates": 2})
    first, second = made["candidates"]
    told = await service.post("/feedback", {"user": "by-ids", "chosen": first["candidate_id"], "rejected": second["candidate_id"]})
    assert (told["result"], told["user"]) == ("applied", {"id": "by-ids", "comparisons": 1})
    await service.post("/feedback", TEXTS | {"user": "by-texts", "chosen_text": first["text"], "rejected_text": second["text"]})
    assert await evidence(service, "by-ids") == await evidence(service, "by-texts")


async def test_the_evidence_is_what_the_families_learn(service: Service):
    encoder, families = service.serving.encoder, service.serving.bundle.families
    chosen, rejected, prompt = (
        await service.serving.batcher.submit([*encoder.candidates(PROMPT, [WARM, LONG]), encoder.prompt(PROMPT)], 5)
    ).rows
    await service.post("/feedback", TEXTS)
    assert await evidence(service) == families.learn(chosen, rejected, prompt).tolist()


async def test_turning_a_comparison_round_gives_the_other_user(service: Service):
    await service.post("/feedback", TEXTS)
    await service.post("/feedback", TEXTS | {"user": "u2", "chosen_text": LONG, "rejected_text": WARM})
    one, other = [(await service.get(f"/users/{user}"))["families"]["vrf"]["mean"] for user in ("u1", "u2")]
    assert np.allclose(one, [-value for value in other])


async def test_agreement_is_what_each_family_had_predicted_before(service: Service):
    encoder, families = service.serving.encoder, service.serving.bundle.families
    rows = (await service.serving.batcher.submit([*encoder.candidates(PROMPT, [WARM, LONG]), encoder.prompt(PROMPT)], 5)).rows
    predicted = families.predict(families.prior(), *rows)
    told = await service.post("/feedback", TEXTS)
    assert told["agreement"] == {family: probability > 0.5 for family, probability in predicted.items()}
    for family, probability in predicted.items():
        agreed = "yes" if probability > 0.5 else "no"
        assert await service.metric("attune_prequential_comparisons_total", family=family, agreed=agreed) == 1
        loss = await service.metric("attune_prequential_log_loss_nats_sum", family=family)
        assert loss == pytest.approx(-math.log(probability))
    for _ in range(5):
        told = await service.post("/feedback", TEXTS)
    assert told["agreement"]["vrf"] is True


async def test_the_weights_answered_are_those_that_score_next(service: Service):
    told = await service.post("/feedback", TEXTS)
    assert (await service.post("/score", {"user": "u1", "prompt": PROMPT, "responses": [SHORT]}))["weights"] == told["weights"]


async def test_a_tie_adds_certainty_and_moves_nobody_and_is_no_agreement(service: Service):
    told = await service.post("/feedback", await pair_of(service) | {"tie": True})
    assert (told["result"], told["agreement"], told["user"]["comparisons"]) == ("applied", {}, 1)
    vrf = (await service.get("/users/u1"))["families"]["vrf"]
    assert vrf["mean"] == [0.0, 0.0, 0.0]
    assert min(vrf["std"]) < 1  # along what the two answers differ in
    assert max(vrf["std"]) <= 1
    assert await service.metric("attune_prequential_comparisons_total", family="vrf") == 0


# --- once -------------------------------------------------------------------------------------------------------------


async def test_a_repeat_is_a_duplicate_and_changes_nothing(service: Service):
    body = await pair_of(service) | {"event_id": "e1"}
    first = await service.post("/feedback", body)
    second = await service.post("/feedback", body)
    assert (first["result"], second["result"]) == ("applied", "duplicate")
    assert second["user"] == first["user"]
    assert second["weights"] == first["weights"]
    assert await service.metric("attune_feedback_total", result="duplicate") == 1
    assert await service.metric("attune_prequential_log_loss_nats_count", family="vrf") == 1


async def test_the_same_event_with_another_body_is_a_conflict_and_changes_nothing(service: Service):
    body = await pair_of(service) | {"event_id": "e1"}
    await service.post("/feedback", body)
    before = await evidence(service)
    for other in (body | {"chosen": body["rejected"], "rejected": body["chosen"]}, body | {"tie": True}, TEXTS | {"event_id": "e1"}):
        assert (await service.post("/feedback", other, status=409))["code"] == "event-conflict"
    assert await evidence(service) == before
    assert await service.metric("attune_feedback_total", result="conflict") == 3


async def test_a_body_that_says_the_same_in_other_words_is_the_same(service: Service):
    body = await pair_of(service) | {"event_id": "e1"}
    await service.post("/feedback", body)
    reordered = dict(reversed(list((body | {"tie": False, "observed_at": None}).items())))
    assert (await service.post("/feedback", reordered))["result"] == "duplicate"


@pytest.mark.parametrize("event_id", ["e1", "événement 1"])
async def test_the_event_id_may_come_in_the_header_and_both_must_agree(service: Service, event_id: str):
    header = {b"idempotency-key": event_id.encode()}
    told = await service.post("/feedback", TEXTS, headers=header)
    assert told["event_id"] == event_id
    assert (await service.post("/feedback", TEXTS, headers=header))["result"] == "duplicate"
    assert (await service.post("/feedback", TEXTS | {"event_id": event_id}, headers=header))["result"] == "duplicate"
    problem = await service.post("/feedback", TEXTS | {"event_id": "e2"}, headers=header, status=422)
    assert problem["errors"][0]["field"] == "event_id"
    problem = await service.post("/feedback", TEXTS, headers={"idempotency-key": "x" * 257}, status=422)
    assert problem["errors"][0]["field"] == "Idempotency-Key"


async def test_without_an_event_id_each_request_is_an_event_of_its_own(service: Service):
    first, second = [await service.post("/feedback", TEXTS) for _ in range(2)]
    assert first["event_id"] != second["event_id"]
    assert second["user"]["comparisons"] == 2


async def test_the_same_event_id_of_two_users_is_two_events(service: Service):
    await service.post("/feedback", TEXTS | {"event_id": "e1"})
    assert (await service.post("/feedback", TEXTS | {"event_id": "e1", "user": "u2"}))["result"] == "applied"


# --- whose, when, which prompt ----------------------------------------------------------------------------------------


async def test_a_regenerated_answer_may_be_compared_with_an_earlier_one(service: Service):
    first, second = await pair_of(service), await pair_of(service)
    told = await service.post("/feedback", {"user": "u1", "chosen": first["chosen"], "rejected": second["rejected"]})
    assert told["result"] == "applied"


async def test_answers_to_two_prompts_cannot_be_compared(service: Service):
    first, second = await pair_of(service), await pair_of(service, prompt="tell me about tea")
    problem = await service.post("/feedback", {"user": "u1", "chosen": first["chosen"], "rejected": second["rejected"]}, status=422)
    assert problem["errors"][0]["field"] == "rejected"


@pytest.mark.parametrize("candidate", ["nonsense", candidate_id(UNKNOWN, 0), UNKNOWN])
async def test_an_unknown_candidate_is_404_and_named(service: Service, candidate: str):
    body = await pair_of(service)
    for field in ("chosen", "rejected"):
        problem = await service.post("/feedback", body | {field: candidate}, status=404)
        assert problem["code"] == "unknown-candidate"
        assert field in problem["detail"]
    assert await service.metric("attune_feedback_total", result="unknown") == 2


async def test_a_candidate_that_its_decision_does_not_have_is_404(service: Service):
    body = await pair_of(service)
    problem = await service.post("/feedback", body | {"chosen": body["chosen"][:-1] + "9"}, status=404)
    assert problem["code"] == "unknown-candidate"
    assert "2 candidates" in problem["detail"]


async def test_another_users_candidate_is_403_and_changes_neither(service: Service):
    body = await pair_of(service)
    problem = await service.post("/feedback", body | {"user": "u2"}, status=403)
    assert problem["code"] == "not-your-candidate"
    for user in ("u1", "u2"):
        assert (await service.get(f"/users/{user}"))["user"]["comparisons"] == 0


async def test_an_expired_candidate_is_410(settings_of: Callable[..., Settings]):
    store = FreshStore()
    async with running(settings_of(decision_ttl_s=60), store) as service:
        body = await pair_of(service)
        store.pass_time(61)
        problem = await service.post("/feedback", body, status=410)
        assert problem["code"] == "expired-candidate"
        assert await service.metric("attune_feedback_total", result="expired") == 1


async def test_observed_at_orders_and_does_not_have_to_be_now(service: Service):
    await service.post("/feedback", TEXTS | {"observed_at": "2020-05-01T12:00:00+02:00"})
    user = (await service.get("/users/u1"))["user"]
    assert user["first_seen"] == "2020-05-01T10:00:00.000Z"
    await service.post("/feedback", TEXTS | {"observed_at": "2027-01-15T08:00:30Z"})  # half a minute ahead: clocks differ
    assert (await service.get("/users/u1"))["user"]["last_seen"] == "2027-01-15T08:00:00.000Z"


async def test_a_decision_named_with_texts_must_be_known_mine_and_of_this_prompt(service: Service):
    routed = (await service.post("/route", {"user": "u1", "prompt": PROMPT}))["decision_id"]
    body = TEXTS | {"decision_id": routed}
    assert (await service.post("/feedback", body))["result"] == "applied"
    problem = await service.post("/feedback", body | {"prompt": "tell me about tea"}, status=422)
    assert problem["errors"][0]["field"] == "prompt"
    assert (await service.post("/feedback", body | {"user": "u2"}, status=403))["code"] == "not-your-candidate"
    for unknown in (new_decision_id(), "nonsense"):
        assert (await service.post("/feedback", body | {"decision_id": unknown}, status=404))["code"] == "unknown-decision"


async def test_a_bundle_whose_families_learn_nothing_counts_and_stays_as_it_is(settings_of: Callable[..., Settings], tmp_path: Path):
    bundle = write_tiny_bundle(tmp_path, only="bradley_terry")
    async with running(settings_of(bundle=str(bundle)), FreshStore()) as service:
        told = await service.post("/feedback", TEXTS)
        assert (told["user"]["comparisons"], told["weights"]) == (1, {"quality": 1.0})
        assert (await service.post("/feedback", await pair_of(service)))["result"] == "applied"
        assert set((await service.get("/users/u1"))["families"]) == {"bradley_terry"}


# --- the store away, the bundle changed -------------------------------------------------------------------------------


async def test_with_redis_away_it_is_503_and_never_applied(settings_of: Callable[..., Settings], tmp_path: Path):
    async with running(settings_of(), RedisStore(f"unix://{tmp_path}/nobody.sock", timeout_s=0.2)) as service:
        answer = await service.client.post("/feedback", json=TEXTS)
        assert (answer.status_code, answer.json()["code"]) == (503, "store-unavailable")
        assert "retry-after" in answer.headers
        for path in ("/users/u1", "/users/u1/export", f"/decisions/{new_decision_id()}"):
            assert (await service.get(path, status=503))["code"] == "store-unavailable"
        assert (await service.client.delete("/users/u1")).status_code == 503
        assert await service.metric("attune_feedback_total", result="unavailable") == 1
        ready = await service.get("/readyz")
        assert ready["store"].startswith("unavailable")


class Failing(FreshStore):
    """A store that keeps no comparison, for a reason."""

    def __init__(self, reason: AttuneError) -> None:
        super().__init__()
        self.reason = reason

    async def add_comparison(self, key: UserKey, comparison: NewComparison, *, era: bytes | None = None) -> Added:
        raise self.reason


@pytest.mark.parametrize(
    ("reason", "status", "result"),
    [
        (Overloaded("32 of 32 places at the store are taken"), 429, "overloaded"),
        (DeadlineExceeded("too late"), 504, "failed"),
        (ScorerFailed("no finite number"), 500, "failed"),
        (StoreUnavailable("gone"), 503, "unavailable"),
        (NotYourCandidate("somebody else's"), 403, "refused"),
        (UserMerged("merged"), 409, "refused"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_only_what_the_caller_has_to_change_counts_as_refused(
    settings_of: Callable[..., Settings], reason: AttuneError, status: int, result: str
):
    async with running(settings_of(), Failing(reason)) as service:
        assert (await service.post("/feedback", TEXTS, status=status))["code"] == reason.code
        counted = {
            one: await service.metric("attune_feedback_total", result=one) for one in ("refused", "overloaded", "failed", "unavailable")
        }
        assert counted == dict.fromkeys(counted, 0) | {result: 1}


async def test_after_a_bundle_of_another_basis_a_stored_pair_is_scored_again_from_its_texts(service: Service, tmp_path: Path):
    made = await service.post("/generate", {"user": "u1", "prompt": PROMPT, "candidates": 2})
    first, second = made["candidates"]
    await service.post("/admin/reload", {"bundle": str(write_tiny_bundle(tmp_path, salt=0.5))})
    told = await service.post("/feedback", {"user": "u1", "chosen": first["candidate_id"], "rejected": second["candidate_id"]})
    assert told["result"] == "applied"
    await service.post("/feedback", TEXTS | {"user": "u2", "chosen_text": first["text"], "rejected_text": second["text"]})
    assert await evidence(service) == await evidence(service, "u2")


async def test_after_a_bundle_of_another_basis_a_pair_without_texts_is_410_and_says_why(
    settings_of: Callable[..., Settings], tmp_path: Path
):
    async with running(settings_of(keep_text=False), FreshStore()) as service:
        body = await pair_of(service)
        await service.post("/admin/reload", {"bundle": str(write_tiny_bundle(tmp_path, salt=0.5))})
        problem = await service.post("/feedback", body, status=410)
        assert problem["code"] == "expired-candidate"
        assert service.serving.bundle.basis in problem["detail"]


async def test_without_texts_kept_a_routed_decision_asks_for_its_prompt(settings_of: Callable[..., Settings]):
    async with running(settings_of(keep_text=False), FreshStore()) as service:
        routed = (await service.post("/route", {"user": "u1", "prompt": PROMPT}))["decision_id"]
        body = {"user": "u1", "decision_id": routed, "chosen_text": WARM, "rejected_text": LONG}
        assert (await service.post("/feedback", body, status=422))["errors"][0]["field"] == "prompt"
        assert (await service.post("/feedback", body | {"prompt": PROMPT}))["result"] == "applied"


async def test_an_answer_that_others_judged_before_is_not_computed_again_and_is_worth_the_same(service: Service):
    await service.post("/feedback", TEXTS | {"user": "first"})
    computed = await service.metric("attune_batch_texts_sum")
    await service.post("/feedback", TEXTS | {"user": "second"})
    assert await service.metric("attune_batch_texts_sum") == computed
    assert await evidence(service, "second") == await evidence(service, "first")
    await service.post("/feedback", TEXTS | {"user": "third", "rejected_text": SHORT})
    assert await service.metric("attune_batch_texts_sum") == computed + 1
