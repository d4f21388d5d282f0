"""A tiny language model for the session, engines on it, and a scripted upstream for each test."""

from __future__ import annotations

import asyncio

import pytest

from attune.service.members.local import LocalEngine
from attune.service.members.openai import OpenAIMember
from attune.service.members.spec import OpenAISpec
from attune.service.members.upstream_pool import UpstreamPool
from loadtest.upstream import running_upstream
from tests.members.gate import Gate
from tests.members.tiny import ADAPTERS, write_language_model
from tests.members.upstream_scripts import KEY


@pytest.fixture(scope="session")
def language_model(tmp_path_factory):
    return write_language_model(tmp_path_factory.mktemp("language_model"))


@pytest.fixture(scope="session")
def shared_engine(language_model):
    """An engine for tests that leave it as they found it."""
    engine = LocalEngine(language_model / "base", {name: language_model / "adapters" / name for name in ADAPTERS}, threads=1)
    engine.load()
    yield engine
    asyncio.run(engine.aclose())


@pytest.fixture
def engine_with(language_model):
    """Makes engines with other bounds, and closes them."""
    engines = []

    def make(**changes):
        engine = LocalEngine(language_model / "base", {name: language_model / "adapters" / name for name in ADAPTERS}, threads=1, **changes)
        engine.load()
        engines.append(engine)
        return engine

    yield make
    for engine in engines:
        asyncio.run(engine.aclose())


@pytest.fixture
async def gate(shared_engine):
    gate = Gate(shared_engine)
    yield gate
    gate.remove()


@pytest.fixture
async def upstream():
    async with running_upstream() as upstream:
        yield upstream


@pytest.fixture
async def connections():
    async with UpstreamPool(environ={}) as connections:
        yield connections


@pytest.fixture
def member_with(upstream, connections):
    def make(clock=None, observe_breaker=lambda _state: None, environ=None, **spec):
        return OpenAIMember(
            "gpt",
            OpenAISpec(**({"base_url": upstream.base_url, "model": "m"} | spec)),
            connections,
            environ=environ or {"KEY": KEY},
            clock=clock or (lambda: 0.0),
            backoff_s=0.0,
            observe_breaker=observe_breaker,
        )

    return make
