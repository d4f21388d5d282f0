"""`POST /feedback` in its further forms: each learned once, in the log, replayed, taken back exactly, and refused with the reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attune.models.seam.weighted import IMPLICIT, graded, pair, ranked
from attune.service.api.feedback import AHEAD
from attune.service.ids import candidate_id, new_decision_id
from attune.service.settings import Settings
from tests.endpoints.conftest import LONG, PROMPT, SHORT, WARM, Service, running
from tests.endpoints.test_feedback import TEXTS, evidence
from tests.stores import FreshStore
from tests.tiny_bundle import write_tiny_bundle

FORMS = ("rating", "rating-text", "ranking", "kept", "kept-text", "edited")


async def bodies(service: Service, user: str = "u1") -> dict[str, dict[str, Any]]:
    """Returns a body of each form, about answers that were given to this user."""
    made = await service.post("/generate", {"user": user, "prompt": PROMPT, "candidates": 3})
    await service.settle()  # a rating is against what members usually give, which these answers change
    first, second, third = (candidate["candidate_id"] for candidate in made["candidates"])
    return {
        "rating": {"user": user, "candidate": first, "rating": 1.0},
        "rating-text": {"user": user, "prompt": PROMPT, "response_text": WARM, "rating": 0.2},
        "ranking": {"user": user, "ranking": [third, first, second]},
        "kept": {"user": user, "kept": second, "over": first, "how": "regenerate"},
        "kept-text": {"user": user, "prompt": PROMPT, "kept": WARM, "over": LONG, "how": "copy"},
        "edited": {"user": user, "kept": WARM, "over": first, "how": "edit"},
    }


async def lines_of(service: Service, user: str = "u1") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (await service.client.get(f"/users/{user}/export")).text.splitlines()]


async def rows_of(service: Service, *texts: str) -> tuple[Any, ...]:
    encoder = service.serving.encoder
    return tuple((await service.serving.batcher.submit([*encoder.candidates(PROMPT, list(texts)), encoder.prompt(PROMPT)], 5)).rows)


@pytest.mark.parametrize("form", FORMS)
async def test_a_form_is_applied_once_conflicts_with_another_and_is_taken_back_exactly(service: Service, form: str):
    await service.post("/feedback", TEXTS | {"event_id": "before"})
    before, told_before = await evidence(service), await service.get("/users/u1")
    body = (await bodies(service))[form] | {"event_id": "e1"}
    told = await service.post("/feedback", body)
    assert (told["result"], told["user"]["comparisons"], set(told["agreement"])) == ("applied", 2, {"bradley_terry", "micro", "vrf"})
    after = await evidence(service)
    assert after != before
    again = await service.post("/feedback", body)
    assert (again["result"], again["weights"]) == ("duplicate", told["weights"])
    for other in [made | {"event_id": "e1"} for name, made in (await bodies(service)).items() if name != form]:
        assert (await service.post("/feedback", other, status=409))["code"] == "event-conflict"
    assert await evidence(service) == after
    logged = [line for line in await lines_of(service) if line["type"] == "comparison"]
    assert [line["event_id"] for line in logged] == ["before", "e1"]
    assert logged[1]["kind"] == {"edited": "kept"}.get(form, form.removesuffix("-text"))
    assert np.array_equal(np.array(before) + np.array(logged[1]["evidence"]), after)
    taken = await service.client.delete("/users/u1/comparisons/e1")
    assert taken.json()["user"]["comparisons"] == 1
    assert await evidence(service) == before
    now = await service.get("/users/u1")
    assert (now["families"], now["user"]["comparisons"]) == (told_before["families"], 1)


UUID = "f47ac10b-58cc-4372-a567-0e02b2c3d479"


@pytest.mark.parametrize(
    "said",
    [
        {"chosen_text": UUID, "rejected_text": LONG},
        {"response_text": UUID, "rating": 1.0},
        {"kept": UUID, "over": LONG, "how": "copy"},
        {"kept": SHORT, "over": UUID, "how": "edit"},
    ],
)
async def test_a_random_uuid_is_the_text_of_an_answer_and_no_id(service: Service, said: dict[str, Any]):
    told = await service.post("/feedback", {"user": "u1", "prompt": "Make me a UUID.", **said})
    assert told["result"] == "applied"


async def test_what_was_kept_is_a_pair_that_weighs_less(service: Service):
    families = service.serving.bundle.families
    rows = await rows_of(service, WARM, LONG)
    for how, weight in IMPLICIT.items():
        body = {"user": how, "prompt": PROMPT, "kept": WARM, "over": LONG, "how": how}
        await service.post("/feedback", body)
        assert await evidence(service, how) == families.study_all(families.prior(), pair(*rows, how=how))[0].tolist()
        line = (await lines_of(service, how))[2]
        assert (line["how"], line["weight"], line["chosen_text"], line["rejected_text"]) == (how, weight, WARM, LONG)


@pytest.mark.parametrize("names_decision", [False, True])
async def test_an_edited_answer_is_compared_with_the_candidate_that_it_was_made_of(service: Service, names_decision: bool):
    made = await service.post("/generate", {"user": "u1", "prompt": PROMPT})
    (candidate,) = made["candidates"]
    named = {"decision_id": made["decision_id"]} if names_decision else {}
    await service.post("/feedback", {"user": "u1", "kept": WARM, "over": candidate["candidate_id"], "how": "edit", **named})
    await service.post("/feedback", {"user": "u2", "prompt": PROMPT, "kept": WARM, "over": candidate["text"], "how": "edit"})
    assert await evidence(service) == await evidence(service, "u2")


async def test_a_ranking_is_its_stages_as_one_event(service: Service):
    made = await service.post("/generate", {"user": "u1", "prompt": PROMPT, "candidates": 3})
    told = await service.post("/feedback", {"user": "u1", "ranking": [one["candidate_id"] for one in made["candidates"]]})
    assert told["user"]["comparisons"] == 1
    families = service.serving.bundle.families
    *rows, prompt = await rows_of(service, *(one["text"] for one in made["candidates"]))
    assert await evidence(service) == families.study_all(families.prior(), ranked(rows, prompt))[0].tolist()
    line = (await lines_of(service))[2]
    assert (line["ranking"], line["weights"]) == ([one["candidate_id"] for one in made["candidates"]], [0.5, 0.5, 1.0])
    assert line["members"] == [one["member"] for one in made["candidates"]]


async def test_a_rating_by_id_and_by_text_say_the_same_and_thumbs_move_the_user(service: Service):
    made = await service.post("/generate", {"user": "by-id", "prompt": PROMPT, "member": "warm"})
    (candidate,) = made["candidates"]
    await service.post("/feedback", {"user": "by-id", "candidate": candidate["candidate_id"], "rating": 1})
    await service.post("/feedback", {"user": "by-text", "prompt": PROMPT, "response_text": candidate["text"], "rating": 1.0})
    assert await evidence(service, "by-id") == await evidence(service, "by-text")
    for user, rating in (("likes", 1.0), ("dislikes", 0.0), ("neither", 0.5)):
        for _ in range(5):
            told = await service.post("/feedback", {"user": user, "prompt": PROMPT, "response_text": WARM, "rating": rating})
        assert bool(told["agreement"]) is (rating != 0.5)
    warm = {
        user: (await service.get(f"/users/{user}"))["families"]["micro"]["weights"]["warm"] for user in ("likes", "neither", "dislikes")
    }
    assert warm["likes"] > warm["neither"] > warm["dislikes"]


async def test_one_answer_is_compared_with_the_mean_of_the_members(service: Service):
    await service.post("/feedback", {"user": "u1", "prompt": PROMPT, "response_text": WARM, "rating": 1.0})
    families, portfolio = service.serving.bundle.families, service.serving.bundle.portfolio
    answer, prompt = await rows_of(service, WARM)
    usual = {"micro_rewards": portfolio.values_for("micro", prompt).mean(axis=0).astype(np.float32)}
    (compared,) = graded({"micro_rewards": answer["micro_rewards"]}, usual, prompt, 1.0)
    expected = families["micro"].learn(compared.chosen, compared.rejected, prompt, tie=False)
    assert np.allclose(families.part("micro", np.array(await evidence(service))), expected, atol=2e-3)


async def test_without_members_one_answer_has_nothing_to_be_compared_with(settings_of: Callable[..., Settings], tmp_path: Path):
    async with running(settings_of(bundle=str(write_tiny_bundle(tmp_path, members=False))), FreshStore(), members={}) as service:
        body = {"user": "u1", "prompt": PROMPT, "response_text": WARM, "rating": 1.0}
        problem = await service.post("/feedback", body, status=422)
        assert problem["errors"][0]["field"] == "rating"
        assert "send two answers" in problem["detail"]
        assert (await service.get("/users/u1"))["user"]["comparisons"] == 0


async def test_every_form_is_replayed_under_another_basis(service: Service, tmp_path: Path):
    made = await bodies(service)
    for form in FORMS:
        await service.post("/feedback", made[form] | {"event_id": form})
    await service.post("/admin/reload", {"bundle": str(write_tiny_bundle(tmp_path, salt=0.5))})
    assert (await service.get("/users/u1"))["user"]["comparisons"] == 0
    done = await service.post("/admin/replay", {"user": "u1"})
    assert (done["done"], done["replayed"], done["without_texts"], done["unusable"]) == (True, len(FORMS), 0, 0)
    assert (await service.get("/users/u1"))["user"]["comparisons"] == len(FORMS)
    for form in FORMS:
        await service.client.delete(f"/users/u1/comparisons/{form}")
    assert not any(await evidence(service))


async def test_a_form_names_its_decision_and_asks_whose_it_is(service: Service):
    made = await bodies(service)
    for form in ("rating", "ranking", "kept", "edited"):
        assert (await service.post("/feedback", made[form] | {"user": "u2"}, status=403))["code"] == "not-your-candidate"
    unknown = candidate_id(new_decision_id(), 0)
    for body in (made["rating"] | {"candidate": unknown}, made["ranking"] | {"ranking": [unknown, made["ranking"]["ranking"][0]]}):
        assert (await service.post("/feedback", body, status=404))["code"] == "unknown-candidate"
    routed = (await service.post("/route", {"user": "u1", "prompt": PROMPT}))["decision_id"]
    told = await service.post("/feedback", {"user": "u1", "decision_id": routed, "response_text": WARM, "rating": 1.0})
    assert told["result"] == "applied"


ONE, TWO = (candidate_id(new_decision_id(), 0) for _ in range(2))
WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"candidate": ONE}, "rating", "is missing"),
    ({"rating": 1}, "candidate", "is missing"),
    ({"candidate": ONE, "rating": 1.5}, "rating", "less than or equal to 1"),
    ({"candidate": ONE, "rating": -1}, "rating", "greater than or equal to 0"),
    ({"candidate": ONE, "rating": True}, "rating", "valid number"),
    ({"candidate": ONE, "rating": 1, "prompt": PROMPT}, "prompt", "beside candidate ids"),
    ({"candidate": ONE, "response_text": SHORT, "rating": 1}, "response_text", "one answer is rated"),
    ({"response_text": SHORT, "rating": 1}, "prompt", "is missing"),
    ({"candidate": ONE, "rating": 1, "tie": True}, "tie", "belongs to a pair"),
    ({"candidate": ONE, "rating": 1, "chosen": TWO}, "rating", "one form of feedback"),
    ({"candidate": ONE, "rating": 1, "decision_id": new_decision_id()}, "decision_id", "not the decision"),
    ({"ranking": [ONE]}, "ranking", "at least 2"),
    ({"ranking": [ONE, TWO, ONE]}, "ranking[2]", "same candidate as ranking[0]"),
    ({"ranking": [ONE] * 17}, "ranking", "at most 16"),
    ({"kept": ONE, "over": TWO}, "how", "`regenerate`, `edit` or `copy`"),
    ({"kept": ONE, "over": TWO, "how": "liked"}, "how", "'regenerate'"),
    ({"kept": ONE, "over": ONE, "how": "copy"}, "over", "equals kept"),
    ({"kept": SHORT, "over": LONG, "how": "copy"}, "prompt", "is missing"),
    ({"kept": ONE, "over": TWO, "how": "copy", "prompt": PROMPT}, "prompt", "beside candidate ids"),
    ({"kept": SHORT, "over": TWO, "how": "edit", "prompt": PROMPT}, "prompt", "beside candidate ids"),
    ({"kept": ONE, "over": LONG, "how": "copy", "prompt": PROMPT}, "over", "is a text beside `kept`, a candidate id"),
    ({"kept": ONE, "over": LONG, "how": "copy", "decision_id": new_decision_id()}, "over", "is a text beside `kept`, a candidate id"),
    ({"kept": SHORT, "over": TWO, "how": "edit", "decision_id": new_decision_id()}, "decision_id", "not the decision"),
    ({"chosen_text": ONE, "rejected_text": LONG, "prompt": PROMPT}, "chosen_text", "is a candidate id, and no text"),
    ({"response_text": ONE, "rating": 1, "prompt": PROMPT}, "response_text", "is a candidate id, and no text"),
    ({"prompt": PROMPT}, "chosen", "is missing"),
]


@pytest.mark.parametrize(("body", "field", "message"), WRONG)
async def test_a_form_that_is_not_whole_is_refused_by_its_field(service: Service, body: dict[str, Any], field: str, message: str):
    problem = await service.post("/feedback", {"user": "u1"} | body, status=422)
    told = {error["field"]: error["message"] for error in problem["errors"]}
    assert message in told[field]
    assert "beside candidate ids" not in str(told) or field == "prompt"


# --- many at once -------------------------------------------------------------------------------------------------


async def batch(service: Service, lines: list[str], status: int = 200) -> list[dict[str, Any]]:
    answer = await service.client.post("/feedback/batch", content="\n".join(lines), headers={"content-type": "application/x-ndjson"})
    assert answer.status_code == status, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


async def test_a_batch_answers_line_by_line_and_a_bad_line_costs_only_itself(service: Service):
    made = await bodies(service)
    sent = [json.dumps(made[form] | {"event_id": form}) for form in FORMS]
    sent[2:2] = [
        "{",
        json.dumps({"user": "u1", "rating": 3, "candidate": "x"}),
        json.dumps({"user": "u2", "kept": ONE, "over": TWO, "how": "copy"}),
    ]
    told = await batch(service, sent)
    assert [line.get("event_id", line.get("code")) for line in told] == [
        *FORMS[:2],
        "invalid-request",
        "invalid-request",
        "unknown-candidate",
        *FORMS[2:],
    ]
    assert [line["user"]["comparisons"] for line in told if "user" in line] == [1, 2, 3, 4, 5, 6]
    again = await batch(service, sent)
    assert [line["result"] for line in again if "result" in line] == ["duplicate"] * len(FORMS)
    alone = await bodies(service, "alone")
    for form in ("rating-text", "kept-text"):
        await service.post("/feedback", alone[form])
    both = [json.dumps(alone[form] | {"user": "together"}) for form in ("rating-text", "kept-text")]
    await batch(service, both)
    assert await evidence(service, "alone") == await evidence(service, "together")


async def test_a_batchs_texts_are_scored_together_and_each_once(service: Service):
    lines = [
        {
            "user": f"u{number}",
            "prompt": " ".join([PROMPT] * (1 + number % 3)),
            "chosen_text": WARM,
            "rejected_text": LONG * (1 + number % 5),
        }
        for number in range(AHEAD + 6)
    ]
    before = await service.metric("attune_queue_wait_seconds_count"), await service.metric("attune_batch_texts_sum")
    told = await batch(service, [json.dumps(line | {"event_id": str(number)}) for number, line in enumerate(lines)])
    assert [line["result"] for line in told] == ["applied"] * len(lines)
    # 3 prompts, WARM after each, and 15 pairs of a prompt and a longer answer: all are in the first part, in one submission.
    assert await service.metric("attune_batch_texts_sum") - before[1] == 3 + 3 + 15
    batches = await service.metric("attune_batch_texts_count")
    assert 1 <= await service.metric("attune_queue_wait_seconds_count") - before[0] <= batches
    for number in (0, 4, AHEAD + 5):
        await service.post("/feedback", lines[number] | {"user": f"alone{number}"})
        assert await evidence(service, f"alone{number}") == await evidence(service, f"u{number}")


async def test_lines_of_one_user_are_learned_in_their_order_over_all_parts_of_a_batch(service: Service):
    line = json.dumps({"user": "u1", "prompt": PROMPT, "chosen_text": WARM, "rejected_text": LONG})
    told = await batch(service, [line] * (2 * AHEAD + 1))
    assert [each["user"]["comparisons"] for each in told] == list(range(1, 2 * AHEAD + 2))


async def test_a_byte_order_mark_in_front_of_a_batch_is_no_part_of_its_first_line(service: Service):
    made = json.dumps((await bodies(service))["kept-text"])
    (told,) = await batch(service, [f"\ufeff{made}"])
    assert told["result"] == "applied"


async def test_a_batch_has_lines_and_not_too_many(service: Service):
    assert (await batch(service, ["", " "], status=422))[0]["errors"][0]["field"] == "body"
    problem = (await batch(service, ["{}"] * 1001, status=413))[0]
    assert "1,001 lines; the limit is 1,000" in problem["detail"]
