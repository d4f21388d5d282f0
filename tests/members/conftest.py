"""A tiny language model for the session, engines on it, and a scripted upstream for each test."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from service.members.local import LocalEngine
from tests.members.gate import Gate
from tests.members.tiny import ADAPTERS, write_language_model
from tests.members.upstream import running_upstream


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
async def client():
    async with httpx.AsyncClient(trust_env=False) as client:
        yield client
