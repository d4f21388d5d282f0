"""Proxies by the environment's variables, never for this machine; certificates; and a pool that is made when it is needed."""

from __future__ import annotations

import asyncio

import pytest

from attune.service.members.member import UnusableMember
from attune.service.members.openai import OpenAIMember
from attune.service.members.proxies import is_loopback, proxy_for
from attune.service.members.spec import OpenAISpec
from attune.service.members.upstream_pool import UpstreamPool
from loadtest.upstream_modes import good
from tests.members.asking import ask, collect
from tests.members.upstream_scripts import fails


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST.", "a.localhost", "127.0.0.1", "127.9.9.9", "127.1", "0x7f000001", "::1", "::ffff:127.0.0.1", "0.0.0.0"],
)
def test_this_machine_is_known_in_every_spelling(host):
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["example.org", "128.0.0.1", "localhost.example.org", "1.2.3.4", "dead", "10", "::2", ""])
def test_other_machines_are_not_this_one(host):
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("url", "environ", "proxy"),
    [
        ("http://h/v1", {}, None),
        ("http://h/v1", {"HTTP_PROXY": "http://p:1"}, "http://p:1"),
        ("http://h/v1", {"http_proxy": "p:1", "HTTP_PROXY": "q:2"}, "http://p:1"),
        ("http://h/v1", {"HTTPS_PROXY": "p:1"}, None),
        ("https://h/v1", {"HTTPS_PROXY": "https://u:w@p:1"}, "https://u:w@p:1"),
        ("https://h/v1", {"ALL_PROXY": "p:1"}, "http://p:1"),
        ("http://h/v1", {"HTTP_PROXY": "  "}, None),
        ("http://127.0.0.1:9/v1", {"HTTP_PROXY": "p:1", "ALL_PROXY": "socks5://p:1"}, None),
        ("http://[::1]:9/v1", {"HTTP_PROXY": "p:1"}, None),
        ("http://h/v1", {"HTTP_PROXY": "socks5://p:1", "NO_PROXY": "*"}, None),
        ("http://a.x.org/v1", {"HTTP_PROXY": "p:1", "NO_PROXY": "y.org, .x.org"}, None),
        ("http://ax.org/v1", {"HTTP_PROXY": "p:1", "NO_PROXY": "x.org"}, "http://p:1"),
        ("http://x.org:8080/v1", {"HTTP_PROXY": "p:1", "NO_PROXY": "x.org:8080"}, None),
        ("http://x.org/v1", {"HTTP_PROXY": "p:1", "NO_PROXY": "x.org:8080"}, "http://p:1"),
        ("http://10.1.2.3/v1", {"HTTP_PROXY": "p:1", "NO_PROXY": "10.0.0.0/8"}, None),
        ("http://11.1.2.3/v1", {"HTTP_PROXY": "p:1", "NO_PROXY": "10.0.0.0/8"}, "http://p:1"),
        ("http://[fd00::1]/v1", {"HTTP_PROXY": "p:1", "NO_PROXY": "[fd00::1]"}, None),
    ],
)
def test_the_proxy_is_the_one_that_the_environment_names(url, environ, proxy):
    assert proxy_for(url, environ) == proxy


@pytest.mark.parametrize("value", ["socks5://127.0.0.1:1080", "http://", "http://p:99999", "ftp://p:1", "http://p:x"])
def test_a_proxy_that_cannot_be_used_is_refused_with_its_variable(value):
    spec = OpenAISpec(base_url="http://example.org/v1", model="m")
    with pytest.raises(UnusableMember, match=r"'gpt', base_url: the environment variable ALL_PROXY names .* add example\.org to NO_PROXY"):
        OpenAIMember("gpt", spec, UpstreamPool(environ={"ALL_PROXY": value}))


async def test_an_upstream_on_this_machine_is_reached_without_the_proxy(upstream):
    upstream.answers(good)
    async with UpstreamPool(environ={"HTTP_PROXY": "http://127.0.0.1:9", "ALL_PROXY": "socks5://127.0.0.1:1"}) as connections:
        member = OpenAIMember("gpt", OpenAISpec(base_url=upstream.base_url, model="m"), connections)
        assert (await collect(member, ask()))[0] == "Hello there!"


async def test_a_connection_that_fails_names_the_proxy_it_went_through_without_its_password():
    async with UpstreamPool(environ={"HTTP_PROXY": "http://u:secret@127.0.0.1:9"}) as connections:
        member = OpenAIMember("gpt", OpenAISpec(base_url="http://example.invalid/v1", model="m"), connections, backoff_s=0.0)
        error = await fails(member)
    assert "through the proxy 127.0.0.1:9" in str(error)
    assert "secret" not in str(error)


async def test_a_request_through_a_proxy_reaches_it(upstream):
    upstream.answers(good)
    async with UpstreamPool(environ={"HTTP_PROXY": f"127.0.0.1:{upstream.port}"}) as connections:
        member = OpenAIMember("gpt", OpenAISpec(base_url="http://example.invalid/v1", model="m"), connections)
        assert (await collect(member, ask()))[0] == "Hello there!"
    assert upstream.turns[0].path == "http://example.invalid/v1/chat/completions"


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_certificates_that_cannot_be_read_are_refused_with_their_variable(tmp_path, content):
    file = tmp_path / "certificates.pem"
    if content is not None:
        file.write_text(content)
    connections = UpstreamPool(environ={"SSL_CERT_FILE": str(file)})
    with pytest.raises(UnusableMember, match="SSL_CERT_FILE"):
        OpenAIMember("gpt", OpenAISpec(base_url="https://example.org/v1", model="m"), connections)
    assert OpenAIMember("gpt", OpenAISpec(base_url="http://example.org/v1", model="m"), connections)


async def test_a_pool_that_nobody_needs_reads_no_environment_and_opens_nothing():
    async with UpstreamPool(environ={"ALL_PROXY": "socks5://127.0.0.1:1080", "SSL_CERT_FILE": "/nowhere"}) as connections:
        assert connections.checks.max_connections < connections.max_connections
    assert (connections._sessions, connections._tls) == ({}, None)


async def test_as_many_connections_are_kept_as_may_be_open(upstream):
    upstream.answers(good)
    async with UpstreamPool(environ={}, settle_s=60.0) as connections:
        member = OpenAIMember("gpt", OpenAISpec(base_url=upstream.base_url, model="m"), connections)
        for _ in range(2):
            await asyncio.gather(*(collect(member, ask()) for _ in range(150)))
            await asyncio.gather(*connections._settling)
        assert upstream.connections == 150


async def test_a_pool_that_is_closed_opens_nothing_any_more(upstream):
    upstream.answers(good)
    pool = UpstreamPool()
    member = OpenAIMember("gpt", OpenAISpec(base_url=upstream.base_url, model="m"), pool)
    await collect(member, ask())
    await pool.aclose()
    assert "closed" in str(await fails(member, ask()))
    assert len(upstream.turns) == 1
