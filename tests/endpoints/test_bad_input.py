"""Bad input: each kind has its documented status and code, names the field, and changes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from attune.service.ids import candidate_id
from attune.service.settings import Settings
from tests.endpoints.conftest import LONG, PROMPT, SHORT, Service, running
from tests.stores import FreshStore

SCORE: dict[str, Any] = {"user": "u1", "prompt": PROMPT, "responses": [SHORT, LONG]}
GENERATE: dict[str, Any] = {"user": "u1", "prompt": PROMPT}
FEEDBACK: dict[str, Any] = {"user": "u1", "prompt": PROMPT, "chosen_text": SHORT, "rejected_text": LONG}
# Fixed, so that a test is called the same in every process that collects it.
DECISIONS = ("01a2194c-e8a3-7000-8000-000000000001", "01a2194c-e8a3-7000-8000-000000000002", "01a2194c-e8a3-7000-8000-000000000003")
PAIR: dict[str, Any] = {"user": "u1", "chosen": candidate_id(DECISIONS[0], 0), "rejected": candidate_id(DECISIONS[1], 1)}
ABSENT = object()


def changed(body: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {name: value for name, value in (body | fields).items() if value is not ABSENT}


FIELDS = [
    ("/score", changed(SCORE, user=""), "user", "at least 1 character"),
    ("/score", changed(SCORE, user="u" * 257), "user", "at most 256 characters"),
    ("/score", changed(SCORE, user=7), "user", "valid string"),
    ("/score", changed(SCORE, user=ABSENT), "user", "is missing"),
    ("/score", changed(SCORE, user="a\0b"), "user", "NUL at character 1"),
    ("/score", changed(SCORE, user="a\ud800"), "user", "lone surrogate"),
    ("/score", changed(SCORE, prompt=""), "prompt", "is empty"),
    ("/score", changed(SCORE, prompt=" \n\t"), "prompt", "3 characters, all of them blank"),
    ("/score", changed(SCORE, prompt="a\0"), "prompt", "NUL at character 1"),
    ("/score", changed(SCORE, prompt="\udfff"), "prompt", "lone surrogate"),
    ("/score", changed(SCORE, prompt=ABSENT), "prompt", "is missing"),
    ("/score", changed(SCORE, messages=[{"role": "user", "content": "x"}]), "prompt", "both there"),
    ("/score", changed(SCORE, prompt=ABSENT, messages=[]), "messages", "has 0 items; at least 1 item is needed"),
    (
        "/score",
        changed(SCORE, prompt=ABSENT, messages=[{"role": "user", "content": "x"}] * 257),
        "messages",
        "257 items; at most 256",
    ),
    ("/admin/reload", {"bundle": "x" * 5000}, "bundle", "has 5,000 characters; at most 4,096 characters are allowed"),
    ("/score", changed(SCORE, prompt=ABSENT, messages=[{"role": "tool", "content": "x"}]), "messages[0].role", "'system'"),
    ("/score", changed(SCORE, prompt=ABSENT, messages=[{"role": "user", "content": ""}]), "messages[0].content", "is empty"),
    ("/score", changed(SCORE, responses=[]), "responses", "0 items; 1 to 64"),
    ("/score", changed(SCORE, responses=["x"] * 65), "responses", "65 items; 1 to 64"),
    ("/score", changed(SCORE, responses=["x", ""]), "responses[1]", "is empty"),
    ("/score", changed(SCORE, responses=["\ud83d"]), "responses[0]", "lone surrogate"),
    ("/score", changed(SCORE, responses=["x\0"]), "responses[0]", "NUL at character 1"),
    ("/score", changed(SCORE, responses="x"), "responses", "valid list"),
    ("/score", changed(SCORE, context="\0"), "context", "NUL"),
    ("/score", changed(SCORE, context="c" * 4097), "context", "at most 4,096"),
    ("/score", changed(SCORE, family="none"), "family", "bradley_terry, micro, vrf"),
    ("/score", changed(SCORE, explain=1), "explain", "valid boolean"),
    ("/score", changed(SCORE, surprise=1), "surprise", "not a field"),
    ("/score", changed(SCORE, **{"\ud800": 1}), "body", "lone surrogate"),
    ("/generate", changed(GENERATE, candidates=0), "candidates", "greater than or equal to 1"),
    ("/generate", changed(GENERATE, candidates=9), "candidates", "is 9; at most 8"),
    ("/generate", changed(GENERATE, candidates=4), "candidates", "3 members"),
    ("/generate", changed(GENERATE, candidates="2"), "candidates", "valid integer"),
    ("/generate", changed(GENERATE, candidates=True), "candidates", "valid integer"),
    ("/generate", changed(GENERATE, policy="greedy"), "policy", "'sample'"),
    ("/generate", changed(GENERATE, max_tokens=0), "max_tokens", "greater than or equal to 1"),
    ("/generate", changed(GENERATE, max_tokens=4097), "max_tokens", "is 4097; at most 4096"),
    ("/generate", changed(GENERATE, temperature=-1), "temperature", "greater than or equal to 0"),
    ("/generate", changed(GENERATE, temperature=float("nan")), "temperature", "finite"),
    ("/generate", changed(GENERATE, temperature=float("inf")), "temperature", "finite"),
    ("/generate", changed(GENERATE, top_p=0), "top_p", "greater than 0"),
    ("/generate", changed(GENERATE, stop=[""]), "stop[0]", "at least 1 character"),
    ("/generate", changed(GENERATE, stop=["x"] * 9), "stop", "at most 8"),
    ("/generate", changed(GENERATE, seed=-1), "seed", "greater than or equal to 0"),
    ("/route", changed(GENERATE, stream=True), "stream", "not a field"),
    ("/feedback", {"user": "u1"}, "chosen", "is missing"),
    ("/feedback", changed(PAIR, rejected=ABSENT), "rejected", "is missing"),
    ("/feedback", changed(PAIR, rejected=PAIR["chosen"]), "rejected", "same candidate"),
    ("/feedback", changed(PAIR, chosen_text="x"), "chosen_text", "either two ids or two texts"),
    ("/feedback", changed(PAIR, prompt="x"), "prompt", "beside candidate ids"),
    ("/feedback", changed(PAIR, decision_id=DECISIONS[2]), "decision_id", "not the decision of either"),
    ("/feedback", changed(FEEDBACK, prompt=ABSENT), "prompt", "is missing"),
    ("/feedback", changed(FEEDBACK, rejected_text=ABSENT), "rejected_text", "is missing"),
    ("/feedback", changed(FEEDBACK, rejected_text=SHORT), "rejected_text", "equals chosen_text"),
    ("/feedback", changed(FEEDBACK, rejected_text=" "), "rejected_text", "blank"),
    ("/feedback", changed(FEEDBACK, event_id=""), "event_id", "at least 1 character"),
    ("/feedback", changed(FEEDBACK, event_id="é" * 129), "event_id", "258 bytes"),
    ("/feedback", changed(FEEDBACK, event_id="a\nb"), "event_id", "control character"),
    ("/feedback", changed(FEEDBACK, tie="no"), "tie", "valid boolean"),
    ("/feedback", changed(FEEDBACK, observed_at="yesterday"), "observed_at", "valid datetime"),
    ("/feedback", changed(FEEDBACK, observed_at="2026-01-01T00:00:00"), "observed_at", "timezone"),
    ("/feedback", changed(FEEDBACK, observed_at=1_700_000_000), "observed_at", "as RFC 3339 writes it"),
    ("/feedback", changed(FEEDBACK, observed_at="1700000000000"), "observed_at", "as RFC 3339 writes it"),
    ("/feedback", changed(FEEDBACK, observed_at="2028-01-01T00:00:00Z"), "observed_at", "in the future"),
]


@pytest.mark.parametrize(
    ("path", "body", "field", "message"), FIELDS, ids=lambda value: str(value)[:40].encode("ascii", "replace").decode()
)
async def test_a_field_that_is_wrong_is_named_with_what_is_wrong(service: Service, path: str, body: Any, field: str, message: str):
    content = json.dumps(body)
    answer = await service.client.post(path, content=content, headers={"content-type": "application/json"})
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (422, "invalid-request"), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    named = {error["field"]: error["message"] for error in problem["errors"]}
    assert field in named, problem
    assert message in named[field]
    assert field in problem["detail"]
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert (await service.get("/users/u1"))["user"]["comparisons"] == 0


BEYOND_LIMITS = [
    ("/score", changed(SCORE, responses=["x"] * 65, family="none"), {"responses", "family"}),
    ("/score", changed(SCORE, prompt=ABSENT, family="none"), {"prompt", "family"}),
    ("/generate", changed(GENERATE, candidates=9, family="none"), {"candidates", "family"}),
    ("/route", changed(GENERATE, candidates=4, prompt=ABSENT), {"candidates", "prompt"}),
    ("/feedback", changed(PAIR, rejected=ABSENT, event_id="a\nb"), {"rejected", "event_id"}),
    ("/feedback", changed(FEEDBACK, rejected_text=SHORT, observed_at="2028-01-01T00:00:00Z"), {"rejected_text", "observed_at"}),
]


@pytest.mark.parametrize(
    ("path", "body", "fields"), BEYOND_LIMITS, ids=lambda value: str(sorted(value) if isinstance(value, set) else value)[:40]
)
async def test_fields_beyond_the_deployments_limits_are_named_together_once_the_shape_is_right(
    service: Service, path: str, body: Any, fields: set[str]
):
    of_shape = await service.post(path, body | {"surprise": 1}, status=422)
    assert {error["field"] for error in of_shape["errors"]} == {"surprise"}
    of_limits = await service.post(path, body, status=422)
    assert {error["field"] for error in of_limits["errors"]} == fields


async def test_an_unknown_field_of_a_message_is_named_with_its_place(service: Service):
    body = changed(SCORE, prompt=ABSENT, messages=[{"role": "user", "content": "x", "name": "y"}])
    problem = await service.post("/score", body | {"surprise": 1}, status=422)
    assert {error["field"] for error in problem["errors"]} == {"surprise", "messages[0].name"}


async def test_two_event_ids_that_differ_are_refused(service: Service):
    problem = await service.post("/feedback", FEEDBACK | {"event_id": "a"}, status=422, headers={"idempotency-key": "b"})
    assert [error["field"] for error in problem["errors"]] == ["event_id"]
    assert "Idempotency-Key" in problem["detail"]


async def test_every_field_that_is_wrong_is_named_at_once(service: Service):
    problem = await service.post("/score", {"user": "", "prompt": "", "responses": ["", "x"], "x": 1}, status=422)
    assert {error["field"] for error in problem["errors"]} == {"user", "prompt", "responses[0]", "x"}


async def test_of_very_many_wrong_fields_the_first_are_named_and_the_rest_counted(service: Service):
    problem = await service.post("/score", SCORE | {f"x{index}": 1 for index in range(50)}, status=422)
    assert len(problem["errors"]) == 20
    assert problem["detail"].endswith("and 45 more")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"user": "u1",', "is not JSON"),
        (b"", "is missing"),
        (b"[]", "JSON object"),
        (b'"text"', "JSON object"),
        (b'{"user": "\xff"}', "cannot be read as JSON"),
        (b'{"user": ' * 100_000, "is nested too deeply; 200 levels at most"),
        (b'{"user": ' + b"[" * 200 + b"]" * 200 + b"}", "is nested too deeply; 200 levels at most"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "cannot be read as JSON"),
    ],
    ids=["cut short", "nothing", "a list", "a string", "not UTF-8", "nested too deeply", "one level too deep", "a number too long"],
)
async def test_a_body_that_is_no_json_object_is_refused(service: Service, content: bytes, message: str):
    answer = await service.client.post("/score", content=content, headers={"content-type": "application/json"})
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (422, "invalid-request"), answer.text
    assert problem["errors"][0]["field"] == "body"
    assert message in problem["errors"][0]["message"]


@pytest.mark.parametrize(
    ("path", "content", "name"),
    [
        ("/score", '{"user": "u1", "user": "u2", "prompt": "p", "responses": ["a"]}', "user"),
        ("/score", '{"user": "u1", "prompt": "a: b", "responses": ["a"], "\\u0070rompt": "q"}', "prompt"),
        ("/score", '{"user": "u1", "messages": [{"role": "user", "content": "a", "content": "b"}], "responses": ["a"]}', "content"),
        ("/users/u1/merge", '{"from": "u2", "from": "u3"}', "from"),
        ("/admin/replay", '{"user": "u1", "user": "u2"}', "user"),
        ("/v1/chat/completions", '{"model": "auto", "user": "a", "user": "b", "messages": [{"role": "user", "content": "x"}]}', "user"),
    ],
)
async def test_a_name_that_stands_twice_is_refused_for_only_one_could_be_taken(service: Service, path: str, content: str, name: str):
    answer = await service.client.post(path, content=content, headers={"content-type": "application/json"})
    assert answer.status_code == (400 if path.startswith("/v1/") else 422), answer.text
    assert f"{name}: stands twice" in answer.text


@pytest.mark.parametrize("kind", ["application/json", "application/vnd.api+json", 'application/json; charset="utf-8"'])
@pytest.mark.parametrize(
    "content",
    [
        b'{"model": "auto", "model": "warm", "messages": [{"role": "user", "content": "x"}], "x": NaN}',
        b'{"model": "auto", "model": "warm", "messages": [{"role": "user", "content": "x"}], "x": "\\ud800"}',
        b'\xef\xbb\xbf{"model": "auto", "model": "warm", "messages": [{"role": "user", "content": "x"}]}',
        '{"model": "auto", "model": "warm", "messages": [{"role": "user", "content": "x"}]}'.encode("utf-16"),
    ],
    ids=["NaN", "half a pair", "a mark of byte order", "UTF-16"],
)
async def test_a_name_that_stands_twice_is_refused_however_the_body_is_written(service: Service, content: bytes, kind: str):
    answer = await service.client.post("/v1/chat/completions", content=content, headers={"content-type": kind})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "model"), answer.text
    assert "stands twice" in answer.text


@pytest.mark.parametrize("levels", [300, 100_000])
async def test_a_deep_body_that_fastapi_alone_would_read_is_refused(service: Service, levels: int):
    content = b'{"model": "auto", "messages": [{"role": "user", "content": "x"}], "x": NaN, "y": ' + b"[" * levels + b"]" * levels + b"}"
    answer = await service.client.post("/v1/chat/completions", content=content, headers={"content-type": "application/json"})
    assert (answer.status_code, "nested too deeply" in answer.text) == (400, True), answer.text


async def test_equal_names_in_different_objects_colons_in_texts_and_deep_fields_are_read(service: Service):
    turns = [{"role": "user", "content": 'a: "b": {"c": 1}'}, {"role": "user", "content": "::"}]
    answer = await service.client.post("/score", json=changed(SCORE, prompt=ABSENT, messages=turns))
    assert answer.status_code == 200, answer.text
    deep = '{"model": "auto", "messages": [{"role": "user", "content": "x:"}], "metadata": ' + "[" * 199 + "]" * 199 + "}"
    answer = await service.client.post("/v1/chat/completions", content=deep, headers={"content-type": "application/json"})
    assert answer.status_code in {200, 400}, answer.text


async def test_a_line_of_a_batch_in_which_a_name_stands_twice_is_refused_alone(service: Service):
    lines = ['{"user": "u1", "user": "u2", "prompt": "p", "chosen_text": "a", "rejected_text": "b"}', json.dumps(FEEDBACK)]
    answer = await service.client.post("/feedback/batch", content="\n".join(lines), headers={"content-type": "application/x-ndjson"})
    first, second = map(json.loads, answer.text.splitlines())
    assert first["detail"].startswith("user: stands twice")
    assert second["result"] == "applied"


async def test_a_body_that_is_not_sent_as_json_is_told_so(service: Service):
    answer = await service.client.post("/score", content=json.dumps(SCORE), headers={"content-type": "text/plain"})
    assert answer.status_code == 422
    assert "application/json" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/score", SCORE | {"prompt": "x" * 101}, "prompt has 101 characters; the limit is 100"),
        ("/score", SCORE | {"responses": ["x", "x" * 81]}, "responses[1] has 81 characters; the limit is 80"),
        ("/generate", GENERATE | {"prompt": "x" * 101}, "prompt has 101 characters; the limit is 100"),
        ("/route", GENERATE | {"prompt": "x" * 101}, "prompt has 101 characters; the limit is 100"),
        ("/feedback", FEEDBACK | {"chosen_text": "x" * 81}, "chosen_text has 81 characters; the limit is 80"),
        (
            "/generate",
            {"user": "u1", "messages": [{"role": "user", "content": "x" * 51}] * 2},
            "messages have 102 characters; the limit is 100",
        ),
        ("/score", SCORE | {"prompt": "x" * 5000}, "body has 5,"),
    ],
    ids=["prompt", "response", "prompt of generate", "prompt of route", "text of feedback", "messages", "body"],
)
async def test_what_is_too_large_is_refused_with_the_number_and_the_limit(
    settings_of: Callable[..., Settings], path: str, body: Any, message: str
):
    settings = settings_of(max_prompt_chars=100, max_response_chars=80, max_body_bytes=5000)
    async with running(settings, FreshStore()) as service:
        problem = await service.post(path, body, status=413)
        assert problem["code"] == "too-large"
        assert message in problem["detail"]


async def test_a_body_without_a_declared_length_is_counted_as_it_comes(settings_of: Callable[..., Settings]):
    async with running(settings_of(max_body_bytes=5000), FreshStore()) as service:
        taken = []

        async def chunks():
            for index in range(100):
                taken.append(index)
                yield b" " * 1000

        answer = await service.client.post("/score", content=chunks(), headers={"content-type": "application/json"})
        assert answer.status_code == 413
        assert "more than 5,000 bytes" in answer.json()["detail"]
        assert len(taken) < 10


async def test_an_unknown_member_is_refused_with_those_that_there_are(service: Service):
    problem = await service.post("/generate", GENERATE | {"member": "nobody"}, status=404)
    assert problem["code"] == "unknown-member"
    assert "concise, detailed, warm" in problem["detail"]


@pytest.mark.parametrize("user", ["u" * 257, "%00", "%ff"])
async def test_a_user_in_the_path_is_held_to_the_same_rules(service: Service, user: str):
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/export"), ("DELETE", "/comparisons/e1")):
        answer = await service.client.request(method, f"/users/{user}{path}")
        assert answer.status_code == 422, answer.text
        assert answer.json()["errors"][0]["field"] == "user"


async def test_a_limit_below_the_default_holds_where_no_length_is_asked_for_and_refuses_only_what_was(settings_of: Callable[..., Settings]):
    async with running(settings_of(max_new_tokens=8), FreshStore()) as service:
        answer = await service.client.post("/generate", json=GENERATE)
        assert answer.status_code == 200, answer.text
        assert [asked.max_tokens for voice in service.members.values() for asked in voice.asked] == [8]
        answer = await service.client.post("/generate", json=changed(GENERATE, max_tokens=9))
        assert (answer.status_code, "max_tokens: is 9; at most 8" in answer.text) == (422, True)
