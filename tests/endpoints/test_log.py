"""What the log says of requests: enough to trace a refusal, and nothing that a user wrote, whatever route it took and how it ended."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from attune.service.settings import Settings
from tests.endpoints.conftest import PROMPT, SHORT, Service, running
from tests.endpoints.voices import voices
from tests.log_lines import logged
from tests.stores import FreshStore

MARK = "zebra quartz jonquil"
USER = "someone/marked?zebra"
SECRETS = ("zebra", "quartz", "jonquil")  # words that no id, which is hexadecimal, can spell
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

GOOD = {
    "/score": {"user": USER, "prompt": MARK, "responses": [MARK, f"{MARK} two"], "context": MARK},
    "/route": {"user": USER, "prompt": MARK},
    "/generate": {"user": USER, "prompt": MARK, "candidates": 2, "stop": [MARK]},
    "/feedback": {"user": USER, "prompt": MARK, "chosen_text": MARK, "rejected_text": f"{MARK} two", "event_id": "zebra-event"},
    "/v1/chat/completions": {"model": "auto", "user": USER, "messages": [{"role": "user", "content": MARK}]},
    "/v1/rerank": {"query": MARK, "documents": [MARK, f"{MARK} two"], "user": USER},
}


@pytest.fixture
def lines() -> Iterator[Callable[[], list[dict[str, object]]]]:
    with logged("debug") as read:
        yield read


async def every_way(service: Service) -> int:
    """Sends marked requests to every route of the document: good ones, ones that are refused, and ones that nobody can read."""
    answers = []
    document = await service.get("/openapi.json")
    for path, operations in document["paths"].items():
        url = path.replace("{user}", "someone%2Fmarked%3Fzebra")
        for name in ("decision_id", "event_id", "code", "member", "model", "id"):
            url = url.replace(f"{{{name}}}", "zebra-quartz-7f3a")
        for method in operations:
            if method in {"get", "delete"}:
                answers.append(await service.client.request(method, url, params={"q": MARK}))
                continue
            body = GOOD.get(path, {"user": USER})
            shapes: list[dict[str, object]] = [
                {"json": body},
                {"json": {**body, MARK: MARK}},
                {"json": {name: [value, MARK] for name, value in body.items()}},
                {"json": {**body, "max_tokens": MARK, "family": MARK, "member": MARK, "model": MARK}},
                {"content": f'{{"prompt": "{MARK}'.encode(), "headers": {"content-type": "application/json"}},
                {"content": MARK.encode(), "headers": {"content-type": "text/plain"}},
                {"content": MARK.encode(), "headers": {"content-encoding": MARK}},
            ]
            answers += [await service.client.request(method, url, **shape) for shape in shapes]
    answers.append(await service.client.get(f"/{MARK}/{MARK}"))
    answers.append(
        await service.client.get("/score", headers={"x-request-id": MARK, "traceparent": MARK, "authorization": f"Bearer {MARK}"})
    )
    assert {200, 404, 405, 415, 422} <= {answer.status_code for answer in answers}
    return len(answers)


async def test_a_marked_prompt_goes_through_every_route_and_the_log_does_not_have_it(settings_of: Callable[..., Settings], lines):
    async with running(settings_of(), FreshStore()) as service:
        sent = await every_way(service)
    found = lines()
    assert len([line for line in found if line["event"] == "request"]) >= sent
    for line in found:
        text = json.dumps(line).lower()
        assert [secret for secret in SECRETS if secret in text] == [], line


async def test_a_marked_prompt_is_not_logged_when_everything_behind_fails(settings_of: Callable[..., Settings], lines):
    members = voices()
    for voice in members.values():
        voice.away = True
    async with running(settings_of(), FreshStore(), members) as service:
        for path, body in GOOD.items():
            await service.client.post(path, json=body)
        await service.serving.batcher.aclose()
        for path, body in GOOD.items():
            await service.client.post(path, json=body)
    for line in lines():
        text = json.dumps(line).lower()
        assert [secret for secret in SECRETS if secret in text] == [], line


def requests(found: list[dict[str, object]]) -> list[dict[str, object]]:
    return [line for line in found if line["event"] == "request"]


async def test_a_refusal_can_be_traced(settings_of: Callable[..., Settings], lines):
    async with running(settings_of(api_keys="key-of-acme:acme", rate_limit_per_s=0.01), FreshStore()) as service:
        key = {"x-api-key": "key-of-acme"}
        await service.client.get("/nope", headers={"x-api-key": "another-key"})
        await service.client.get("/users/ada/export", headers={"x-api-key": "another-key"})
        await service.client.get("/nope", headers=key)
        await service.client.get("/users/ada", headers=key)
    wrong, export, nothing, limited = requests(lines())
    assert (wrong["path"], wrong["code"], wrong["client"]) == ("/nope", "unauthenticated", "127.0.0.1")
    assert export["path"] == "/users/…"
    assert (nothing["path"], nothing["code"], nothing["tenant"], len(str(nothing["key_id"]))) == ("/nope", "not-found", "acme", 8)
    assert "client" not in nothing
    assert (limited["code"], limited["tenant"], limited["status"]) == ("rate-limited", "acme", 429)


async def test_a_decision_its_member_and_its_trace_are_on_the_line(settings_of: Callable[..., Settings], lines):
    async with running(settings_of(), FreshStore()) as service:
        asked = {"user": "u1", "prompt": PROMPT, "member": "warm"}
        answer = await service.client.post("/generate", json=asked, headers={"traceparent": TRACEPARENT})
        made = answer.json()
    (line,) = requests(lines())
    assert (line["decision_id"], line["member"], line["trace_id"]) == (made["decision_id"], "warm", TRACEPARENT[3:35])
    parts = answer.headers["traceparent"].split("-")
    assert (parts[1], parts[3]) == (TRACEPARENT[3:35], "01")
    assert parts[2] != TRACEPARENT[36:52]


async def test_a_slow_request_is_a_warning(settings_of: Callable[..., Settings], lines):
    members = voices()
    members["warm"].gate.clear()
    async with running(settings_of(slow_request_ms=1), FreshStore(), members) as service:
        await service.post("/score", {"user": "u1", "prompt": PROMPT, "responses": [SHORT]})
    assert requests(lines())[0]["level"] == "warning"
