"""Descriptions become members that serve: local ones on one engine a base, and servers."""

from __future__ import annotations

import asyncio

import pytest
from yarl import URL

pytest.importorskip("peft")

from attune.service.members.build import build_locals, build_servers, local_specs
from attune.service.members.member import UnusableMember
from attune.service.members.roster import AnotherMember, Observers, Roster
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
    servers = build_servers(specs, connections=connections, observers=observers, environ={})
    local = build_locals(local_specs(specs), root=language_model, threads=1)
    assert list(servers) == ["gpt"]
    assert list(local.members) == ["concise", "playful", "plain"]
    assert len(local.engines) == 1
    await asyncio.to_thread(local.load)
    roster = Roster({**local.members, **servers}, observers)
    assert await roster.check() == {}
    for name in specs:
        assert (await text_of(roster, [name]))[1] == name
    for name in local.members:
        await roster.members[name].aclose()
    first, served = await text_of(roster, ("concise", "playful", "plain", "gpt"))
    assert isinstance(first, AnotherMember)
    assert set(first.attempts) == {"concise", "playful", "plain"}
    assert served == "gpt"
    await roster.aclose()
    assert states == []


def test_what_cannot_be_built_is_refused_by_name(language_model):
    connections = UpstreamPool(environ={})
    specs = parse_roster({"gpt": {"kind": "openai", "base_url": "http://127.0.0.1/v1", "model": "m", "api_key_env": "MISSING"}})
    with pytest.raises(UnusableMember, match="'gpt', api_key_env: the environment variable MISSING is not set"):
        build_servers(specs, connections=connections, environ={})
    lost = parse_roster({"lost": LOCAL["concise"] | {"adapter": "adapters/lost"}})
    built = build_locals(local_specs(lost), root=language_model)
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
