"""The edge: keys and tenants, room, deadlines, ids, and what a client reads when something goes wrong inside."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx
import pytest
import structlog

from attune.service.errors import Overloaded, RateLimited
from attune.service.http.admission import RateLimit
from attune.service.members.member import OneMemberFailed, PromptFiltered
from attune.service.settings import Settings
from tests.endpoints.conftest import LONG, PROMPT, SHORT, Service, running
from tests.endpoints.voices import voices
from tests.stores import FreshStore

SCORE = {"user": "u1", "prompt": PROMPT, "responses": [SHORT, LONG]}
GENERATE = {"user": "u1", "prompt": PROMPT}
KEYS = "key-of-acme:acme, key-of-blue:blue, key-of-boss:acme:admin"


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


# --- keys and tenants -----------------------------------------------------------------------------------------------


@pytest.fixture
async def locked(settings_of: Callable[..., Settings]):
    async with running(settings_of(api_keys=KEYS), FreshStore()) as service:
        yield service


@pytest.mark.parametrize("headers", [{}, bearer("another-key"), {"x-api-key": "another-key"}, {"authorization": "Basic key-of-acme"}])
async def test_without_a_known_key_nothing_is_served_but_what_is_open(locked: Service, headers: dict[str, str]):
    for method, path in (("POST", "/score"), ("GET", "/users/u1"), ("GET", "/portfolio"), ("GET", "/nothing"), ("POST", "/admin/reload")):
        answer = await locked.client.request(method, path, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
        assert answer.headers["www-authenticate"] == "Bearer"
    for path in ("/livez", "/readyz", "/metrics", "/version", "/openapi.json", "/errors/overloaded"):
        assert (await locked.client.get(path, headers=headers)).status_code == 200
    answer = await locked.client.get("/v1/models", headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")


@pytest.mark.parametrize("headers", [bearer("key-of-acme"), {"x-api-key": "key-of-acme"}])
async def test_a_known_key_is_taken_from_either_header(locked: Service, headers: dict[str, str]):
    assert (await locked.post("/score", SCORE, headers=headers))["scores"]


async def test_the_same_user_id_under_two_tenants_is_two_users(locked: Service):
    made = await locked.post("/generate", GENERATE | {"candidates": 2}, headers=bearer("key-of-acme"))
    chosen, rejected = (candidate["candidate_id"] for candidate in made["candidates"])
    pair = {"user": "u1", "chosen": chosen, "rejected": rejected}
    problem = await locked.post("/feedback", pair, status=404, headers=bearer("key-of-blue"))
    assert problem["code"] == "unknown-candidate"
    answer = await locked.client.get(f"/decisions/{made['decision_id']}", headers=bearer("key-of-blue"))
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown-decision")
    await locked.post("/feedback", pair, headers=bearer("key-of-acme"))
    for key, comparisons in (("key-of-acme", 1), ("key-of-blue", 0), ("key-of-boss", 1)):
        assert (await locked.client.get("/users/u1", headers=bearer(key))).json()["user"]["comparisons"] == comparisons


async def test_reloading_takes_the_admin_right(locked: Service):
    assert (await locked.post("/admin/reload", {}, status=403, headers=bearer("key-of-acme")))["code"] == "forbidden"
    await locked.post("/admin/reload", {}, headers=bearer("key-of-boss"))


# --- room -----------------------------------------------------------------------------------------------------------


async def test_over_the_bound_of_requests_in_flight_the_next_is_refused_at_once_and_told_when_to_come_back(
    settings_of: Callable[..., Settings],
):
    members = voices()
    for voice in members.values():
        voice.gate.clear()
    async with running(settings_of(max_in_flight=2), FreshStore(), members) as service, asyncio.TaskGroup() as group:
        held = [group.create_task(service.post("/generate", GENERATE | {"member": name})) for name in ("concise", "warm")]
        await members["concise"].began.wait()
        await members["warm"].began.wait()
        answer = await service.client.post("/score", json=SCORE)
        assert (answer.status_code, answer.json()["code"]) == (429, "overloaded")
        assert int(answer.headers["retry-after"]) >= 1
        assert "2 of 2 requests are in flight" in answer.json()["detail"]
        assert await service.metric("attune_http_requests_in_flight") == 2
        assert (await service.client.get("/livez")).status_code == 200
        for voice in members.values():
            voice.gate.set()
        await asyncio.gather(*held)
        await service.post("/score", SCORE)
        assert await service.metric("attune_http_requests_in_flight") == 0
        assert await service.metric("attune_errors_total", code="overloaded") == 1


async def test_after_a_full_queue_inside_no_more_are_let_in_than_fit(settings_of: Callable[..., Settings]):
    members = voices()
    members["concise"].gate.clear()
    members["warm"].failure = Overloaded("member 'warm': its queue holds 64 of 64 requests")
    async with running(settings_of(), FreshStore(), members) as service, asyncio.TaskGroup() as group:
        held = [group.create_task(service.post("/generate", GENERATE | {"member": "concise"})) for _ in range(16)]
        while members["concise"].open_streams < len(held):  # noqa: ASYNC110  a voice tells of its first stream only
            await asyncio.sleep(0.01)
        full = await service.client.post("/generate", json=GENERATE | {"member": "warm"})
        assert full.status_code == 429
        assert "its queue holds 64 of 64 requests" in full.json()["detail"]
        asked = len(members["warm"].asked)
        refused = await service.client.post("/generate", json=GENERATE | {"member": "warm"})
        assert refused.status_code == 429
        assert "16 of 16 requests are in flight" in refused.json()["detail"]
        assert len(members["warm"].asked) == asked
        members["concise"].gate.set()


async def test_servers_that_ask_to_come_back_later_are_told_as_that_and_fill_nothing_here(settings_of: Callable[..., Settings]):
    members = voices()
    async with running(settings_of(), FreshStore(), members) as service:
        for voice in members.values():
            voice.failure = OneMemberFailed("x", "cooling-down", "HTTP 429", retry_after_s=37.0)
        for _ in range(3):
            native = await service.client.post("/generate", json=GENERATE)
            assert (native.status_code, native.json()["code"], native.headers["retry-after"]) == (429, "members-busy", "37")
        body = {"model": "warm", "messages": [{"role": "user", "content": "Hi"}]}
        theirs = await service.client.post("/v1/chat/completions", json=body)
        assert (theirs.status_code, theirs.json()["error"]["type"], theirs.headers["retry-after"]) == (429, "rate_limit_error", "37")
        assert await service.metric("attune_errors_total", code="overloaded") == 0


async def test_a_prompt_that_a_filter_refuses_is_the_clients_own_error_by_its_own_word(settings_of: Callable[..., Settings]):
    members = voices()
    members["warm"].failure = PromptFiltered("member 'warm': its server's filter refuses the conversation: HTTP 400 (content_filter)")
    async with running(settings_of(), FreshStore(), members) as service:
        native = await service.client.post("/generate", json=GENERATE | {"member": "warm"})
        assert (native.status_code, native.json()["code"]) == (400, "prompt-filtered")
        body = {"model": "warm", "messages": [{"role": "user", "content": "Hi"}]}
        theirs = (await service.post("/v1/chat/completions", body, status=400))["error"]
        assert (theirs["type"], theirs["code"]) == ("invalid_request_error", "content_filter")


async def test_a_full_scoring_queue_refuses_with_both_numbers(settings_of: Callable[..., Settings]):
    async with running(settings_of(queue_max_items=1), FreshStore()) as service:
        problem = await service.post("/score", SCORE, status=413)  # two texts can never wait in a queue of one
        assert problem["code"] == "too-large"
        assert "2 texts" in problem["detail"]
        assert "at most 1" in problem["detail"]


async def test_many_at_once_for_a_small_queue_are_served_or_told_to_come_back(settings_of: Callable[..., Settings]):
    async with running(settings_of(queue_max_items=4), FreshStore()) as service:
        answers = await asyncio.gather(*(service.client.post("/score", json=SCORE) for _ in range(16)))
        statuses = {answer.status_code for answer in answers}
        assert statuses == {200, 429}
        for answer in answers:
            if answer.status_code == 429:
                assert answer.json()["code"] == "overloaded"
                assert int(answer.headers["retry-after"]) >= 1
        assert await service.metric("attune_texts_dropped_total", reason="refused") > 0


def test_a_key_may_send_its_rate_and_a_second_of_it_at_once():
    now_s = 0.0
    limit = RateLimit(2.0, lambda: now_s)
    limit.take("a")
    limit.take("a")
    with pytest.raises(RateLimited, match="2 requests a second") as refused:
        limit.take("a")
    assert refused.value.retry_after_s == pytest.approx(0.5)
    limit.take("b")
    now_s = 0.5
    limit.take("a")
    with pytest.raises(RateLimited):
        limit.take("a")


async def test_over_its_rate_a_key_is_told_so(settings_of: Callable[..., Settings]):
    async with running(settings_of(rate_limit_per_s=0.01), FreshStore()) as service:
        answers = [await service.client.post("/score", json=SCORE) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 429, 429]
        last = answers[-1]
        assert last.json()["code"] == "rate-limited"
        assert "retry-after" in last.headers


# --- deadlines --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("candidates", [1, 2])
async def test_a_member_that_is_too_slow_for_the_deadline_is_504_and_is_left(settings_of: Callable[..., Settings], candidates: int):
    members = voices()
    members["warm"].gate.clear()
    async with running(settings_of(generate_deadline_ms=1000), FreshStore(), members) as service:
        problem = await service.post("/generate", GENERATE | {"member": "warm", "candidates": candidates}, status=504)
        # Said at the deadline, where the members are awaited: the edge, which says it in other words, leaves a second of grace.
        assert (problem["code"], problem["detail"]) == ("deadline-exceeded", "the members did not finish before the request's deadline")
        await members["warm"].left.wait()
        assert members["warm"].open_streams == 0


async def test_a_body_that_does_not_come_is_408_and_holds_no_permit(settings_of: Callable[..., Settings]):
    async with running(settings_of(body_deadline_ms=50, max_in_flight=1), FreshStore()) as service:
        begun, never = asyncio.Event(), asyncio.Event()

        async def chunks():
            yield b"{"
            begun.set()
            await never.wait()

        late = asyncio.ensure_future(service.client.post("/score", content=chunks(), headers={"content-type": "application/json"}))
        await begun.wait()  # else the other one may be in flight first, and this one is refused before its body is read
        await service.post("/score", SCORE)
        answer = await late
        assert (answer.status_code, answer.json()["code"]) == (408, "body-too-slow")
        assert "0.05 s" in answer.json()["detail"]


# --- ids, paths, and bugs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["", "with blank", "x" * 129, "a\tb", "é"])
async def test_a_request_id_that_could_break_a_log_line_is_replaced(service: Service, given: str):
    answer = await service.client.get("/version", headers={"x-request-id": given.encode("latin-1")})
    assert answer.headers["x-request-id"] != given
    assert len(answer.headers["x-request-id"]) == 36


async def test_an_unknown_path_is_404_and_another_method_405_with_those_that_there_are(service: Service):
    assert (await service.get("/nothing", status=404))["code"] == "not-found"
    answer = await service.client.get("/score")
    assert (answer.status_code, answer.json()["code"]) == (405, "method-not-allowed")
    assert answer.headers["allow"] == "POST"
    assert (await service.get("/v1/nothing", status=404))["error"]["type"] == "not_found_error"


async def test_a_bug_is_500_without_its_details_and_the_log_has_them(service: Service):
    class Bug(Exception):
        pass

    class Broken:
        def __getitem__(self, index: int) -> float:
            raise Bug("prompt text in a message")

    object.__setattr__(service.serving, "costs", Broken())
    with structlog.testing.capture_logs() as lines:
        answer = await service.client.get("/portfolio")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert "prompt text" not in answer.text
    assert "Bug" not in answer.text
    logged = [line for line in lines if line["event"] == "unexpected error"]
    assert logged
    assert logged[0]["log_level"] == "error"


async def test_no_prompt_answer_or_user_reaches_the_log(service: Service):
    user, prompt = "someone-private", "boil my secret egg"
    with structlog.testing.capture_logs() as lines:
        made = await service.post("/generate", {"user": user, "prompt": prompt, "candidates": 2})
        await service.post("/score", {"user": user, "prompt": prompt, "responses": ["a private answer"]})
        await service.get(f"/users/{user}")
        await service.client.get(f"/users/{user}/export")
        await service.client.post("/score", json={"user": user, "prompt": prompt, "responses": [], "private": 1})
    written = str(lines)
    assert len(lines) >= 5
    for secret in (user, prompt, "private", made["candidates"][0]["text"]):
        assert secret not in written


async def test_requests_are_counted_by_route_template(service: Service):
    await service.get("/users/someone")
    await service.get("/nothing/here", status=404)
    assert await service.metric("attune_http_requests_total", route="/users/{user}", method="GET", status="200") == 1
    assert await service.metric("attune_http_requests_total", route="unmatched", status="404") == 1
    assert "someone" not in (await service.client.get("/metrics")).text


async def test_every_error_code_is_explained_where_its_type_points(service: Service):
    problem = await service.get("/nothing", status=404)
    explained = await service.get(problem["type"])
    assert (explained["code"], explained["status"]) == ("not-found", 404)
    await service.get("/errors/unheard-of", status=404)


async def test_before_it_is_ready_requests_are_503(settings_of: Callable[..., Settings]):
    from attune.service.app import create_app

    app = create_app(settings_of(), store=FreshStore())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        for path in ("/readyz", "/users/u1"):
            answer = await client.get(path)
            assert (answer.status_code, answer.json()["code"]) == (503, "not-ready")
            assert "starting" in answer.json()["detail"]
        assert (await client.get("/livez")).status_code == 200
