"""Names and headers: whom a server without keys answers for, pages of other origins, prefixes of proxies, encodings."""

from __future__ import annotations

import json
from collections.abc import Callable

import httpx
import pytest

from attune.service.settings import Settings
from tests.endpoints.conftest import Service, running
from tests.stores import FreshStore


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "[::2]:8000", "attune"),
        *("localhost:8000@evil.example", "localhost:evil", "[::1].evil.example", "[::1", ""),
    ],
)
async def test_without_keys_only_this_machines_names_are_taken(service: Service, host: str):
    for method, path in (("GET", "/users/ada/export"), ("DELETE", "/users/ada"), ("POST", "/admin/reload"), ("GET", "/")):
        answer = await service.client.request(method, path, headers={"host": host})
        assert (answer.status_code, answer.json()["code"]) == (421, "unknown-host")
    for ours in ("localhost", "LOCALHOST:8000", "127.0.0.1:8000", "[::1]:8000"):
        assert (await service.client.get("/users/ada", headers={"host": ours})).status_code == 200


@pytest.mark.parametrize("hosts", [["localhost", "evil.example"], ["evil.example", "localhost"], ["localhost", "localhost"], []])
async def test_without_keys_exactly_one_host_is_named(service: Service, hosts: list[str]):
    asked = service.client.build_request("GET", "/users/ada", headers=[("host", host) for host in hosts])
    if not hosts:
        del asked.headers["host"]
    assert (await service.client.send(asked)).status_code == 421


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "https://localhost.evil.example", "null", "http://localhost@evil.example", "chrome-extension://abc", ""],
)
async def test_without_keys_a_page_of_another_origin_is_refused(service: Service, origin: str):
    for method, path in (("GET", "/users/ada/export"), ("DELETE", "/users/ada"), ("POST", "/admin/reload"), ("POST", "/score")):
        answer = await service.client.request(method, path, headers={"origin": origin, "sec-fetch-site": "cross-site"})
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


async def test_pages_of_this_machine_and_the_servers_own_behind_a_tunnel_may_ask_without_keys(settings_of: Callable[..., Settings]):
    async with running(settings_of(allowed_hosts=("app.example",)), FreshStore()) as service:
        for own in (
            {"origin": "http://localhost:3000"},
            {"origin": "http://[::1]:8000"},
            {"origin": "https://app.example"},
            {"origin": "https://name-8000.tunnel.example", "sec-fetch-site": "same-origin"},
        ):
            assert (await service.client.get("/users/ada", headers=own)).status_code == 200


async def test_further_hosts_are_named_and_health_answers_to_every_name(settings_of: Callable[..., Settings]):
    async with running(settings_of(allowed_hosts=("app.example",)), FreshStore()) as service:
        assert (await service.client.get("/users/ada", headers={"host": "app.example:443"})).status_code == 200
        assert (await service.client.get("/users/ada", headers={"host": "other.example"})).status_code == 421
        assert (await service.client.get("/readyz", headers={"host": "10.1.2.3:8000"})).status_code == 200


async def test_pages_of_the_origins_that_are_named_may_call_and_read_refusals(settings_of: Callable[..., Settings]):
    async with running(settings_of(api_keys="key-of-acme:acme", cors_origins=("https://app.example",)), FreshStore()) as service:
        asked = {
            "origin": "https://app.example",
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization",
        }
        allowed = await service.client.options("/generate", headers=asked)
        assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, "https://app.example")
        refused = await service.client.post("/score", json={}, headers={"origin": "https://app.example"})
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "https://app.example")
        other = await service.client.options("/generate", headers=asked | {"origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers


async def test_pages_may_send_the_headers_of_their_client_and_of_the_user(settings_of: Callable[..., Settings]):
    page = {"origin": "https://app.example", "access-control-request-method": "POST"}
    sent = "authorization,content-type,x-end-user,x-stainless-lang,x-stainless-retry-count"
    named = {"api_keys": "key-of-acme:acme", "cors_origins": ("https://app.example",), "user_header": "x-end-user"}
    async with running(settings_of(**named), FreshStore()) as service:
        asked = await service.client.options("/v1/chat/completions", headers=page | {"access-control-request-headers": sent})
        assert (asked.status_code, asked.headers["access-control-allow-headers"]) == (200, sent)
        other = await service.client.options("/v1/chat/completions", headers=page | {"origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers


async def test_head_and_options_are_answered(service: Service):
    head = await service.client.head("/users/ada")
    assert head.status_code == 200
    options = await service.client.options("/users/ada")
    assert options.status_code == 204
    assert {"GET", "HEAD", "OPTIONS"} <= set(options.headers["allow"].split(", "))
    assert (await service.client.options("/score")).headers["allow"] == "POST, OPTIONS"


@pytest.mark.parametrize("prefix", ["", "/attune"])
async def test_a_prefix_may_be_taken_off_by_the_proxy_or_not(settings_of: Callable[..., Settings], prefix: str):
    async with running(settings_of(root_path="/attune"), FreshStore()) as service:
        assert (await service.get(f"{prefix}/users/a%2Fb"))["user"]["id"] == "a/b"
        assert (await service.get(f"{prefix}/readyz"))["status"] == "ready"
        nothing = await service.get(f"{prefix}/nothing", status=404)
        assert nothing["type"] == "/attune/errors/not-found"
        assert "GET /attune/docs shows what there is, and /attune/openapi.json lists it" in nothing["detail"]


async def test_every_problem_names_its_page_behind_the_prefix_also_inside_of_an_answer(settings_of: Callable[..., Settings]):
    async with running(settings_of(root_path="/attune"), FreshStore()) as service:
        lines = b'{}\n{"user": "u1", "chosen": "x.0", "rejected": "x.1"}\n[]'
        batch = await service.client.post("/feedback/batch", content=lines, headers={"content-type": "application/x-ndjson"})
        told = [json.loads(line) for line in batch.text.splitlines()]
        assert {one["type"] for one in told} == {"/attune/errors/invalid-request", "/attune/errors/unknown-candidate"}
        assert told[2]["detail"] == "body: must be a JSON object"


async def test_a_compressed_body_is_415_and_says_so(service: Service):
    answer: httpx.Response = await service.client.post("/score", content=b"\x1f\x8b", headers={"content-encoding": "gzip"})
    assert (answer.status_code, answer.json()["code"], answer.headers["accept-encoding"]) == (415, "unsupported-encoding", "identity")
    assert "gzip" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("charset", "status"), [("iso-8859-1", 415), ('"ISO-8859-1"', 415), ("windows-1252; q=1", 415), ("UTF-8", 200), ("'utf8'", 200)]
)
async def test_a_body_in_another_charset_is_415_and_named_unless_it_reads_alike(service: Service, charset: str, status: int):
    for word, expected in (("caf\u00e9", status), ("cafe", 200)):
        body = {"user": "u1", "prompt": word, "responses": [word]}
        content = json.dumps(body, ensure_ascii=False).encode("utf-8" if status == 200 else "latin-1")
        answer = await service.client.post("/score", content=content, headers={"content-type": f"application/json; Charset={charset}"})
        assert answer.status_code == expected, answer.text
        assert expected == 200 or charset.strip('"')[:8] in answer.json()["detail"]


async def test_the_page_cannot_be_framed_and_no_type_is_guessed(service: Service):
    answer = await service.client.get("/")
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
