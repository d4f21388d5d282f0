"""Descriptions become members that serve: local ones on one engine a base, and servers."""

from __future__ import annotations

import asyncio

import pytest
from yarl import URL

pytest.importorskip("peft")

from attune.service.members.build import build_roster
from attune.service.members.member import UnusableMember
from attune.service.members.roster import AnotherMember, Observers
from attune.service.members.roster_file import parse_roster
from attune.service.members.upstream_pool import UpstreamPool
from tests.members.asking import ask, soon

LOCAL = {
    "concise": {"kind": "local", "base": "base", "adapter": "adapters/concise"},
    "playful": {"kind": "local", "base": "base", "adapter": "adapters/playful", "temperature": 0.0},
    "plain": {"kind": "local", "base": "base"},
}


async def text_of(roster, order):
    events = [event async for event in roster.stream(order, ask(max_tokens=5), soon())]
    return events[0], events[-1].member


async def test_members_of_one_base_share_its_weights_and_a_server_stands_in(language_model, upstream, connections):
    async def script(turn):
        await turn.head()
        await turn.text("from afar")
        await turn.finish()

    upstream.answers(script)
    states = []
    specs = parse_roster(LOCAL | {"gpt": {"kind": "openai", "base_url": upstream.base_url, "model": "m"}})
    observers = Observers(breaker=lambda *told: states.append(told))
    built = build_roster(specs, root=language_model, connections=connections, observers=observers, threads=1, environ={})
    assert len(built.engines) == 1
    assert list(built.roster.members) == ["concise", "playful", "plain", "gpt"]
    await asyncio.to_thread(built.load)
    assert await built.roster.check() == {}
    for name in specs:
        assert (await text_of(built.roster, [name]))[1] == name
    await built.roster.members["plain"].aclose()
    await built.roster.members["playful"].aclose()
    await built.roster.members["concise"].aclose()
    first, served = await text_of(built.roster, ("concise", "playful", "plain", "gpt"))
    assert isinstance(first, AnotherMember)
    assert set(first.attempts) == {"concise", "playful", "plain"}
    assert served == "gpt"
    await built.roster.aclose()
    assert states == []


def test_what_cannot_be_built_is_refused_by_name(language_model):
    connections = UpstreamPool(environ={})
    specs = parse_roster({"gpt": {"kind": "openai", "base_url": "http://127.0.0.1/v1", "model": "m", "api_key_env": "MISSING"}})
    with pytest.raises(UnusableMember, match="'gpt', api_key_env: the environment variable MISSING is not set"):
        build_roster(specs, root=language_model, connections=connections, environ={})
    built = build_roster(
        parse_roster({"lost": LOCAL["concise"] | {"adapter": "adapters/lost"}}), root=language_model, connections=connections
    )
    with pytest.raises(UnusableMember, match=r"'lost', adapter: .*adapter_config\.json is missing"):
        built.load()


async def test_the_shared_client_follows_no_redirects(upstream):
    async def script(turn):
        await turn.head(307, "text/plain", location=f"{upstream.base_url}/elsewhere")
        await turn.end()

    upstream.answers(script)
    async with UpstreamPool(4, environ={}) as connections:
        url = URL(f"{upstream.base_url}/chat/completions")
        exchange = await connections.open("POST", url, headers={}, body=b"{}", proxy=None, connect_s=2.0)
        assert exchange.status == 307
        exchange.close()
    assert len(upstream.turns) == 1
