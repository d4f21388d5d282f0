"""The real application in this process: the tiny bundle through the real batcher, members that a test can hold, a store of its choice."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from attune.service.app import create_app
from attune.service.live.runtime import Serving
from attune.service.settings import Settings
from attune.service.state.embedded import EmbeddedRedis
from attune.service.state.store import Store
from tests.clock import Clock
from tests.endpoints.voices import Voice, voices
from tests.state.servers import embedded_in_a_thread
from tests.stores import FreshStore
from tests.tiny_bundle import write_tiny_bundle

PROMPT = "how do i boil an egg ?"
SHORT, LONG, WARM = (
    "yes .",
    "put it in water for six minutes , then eat it , that is the best way to boil an egg",
    "lovely friend , glad dear",
)


@dataclass
class Service:
    """A running application with a client of it, and what a test may turn."""

    app: FastAPI
    client: httpx.AsyncClient
    members: dict[str, Voice]
    clock: Clock

    @property
    def serving(self) -> Serving:
        serving: Serving = self.app.state.live.serving
        return serving

    async def post(self, path: str, body: Any, status: int = 200, **options: Any) -> dict[str, Any]:
        """Returns the answer's JSON after checking its status."""
        answer = await self.client.post(path, json=body, **options)
        assert answer.status_code == status, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def get(self, path: str, status: int = 200) -> dict[str, Any]:
        """Returns the answer's JSON after checking its status."""
        answer = await self.client.get(path)
        assert answer.status_code == status, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def settle(self) -> None:
        """Returns when every answer is scored and in its member's sums, which happens a second or two after it was sent, whatever waits."""
        await self.app.state.live.runtime.later.idle()
        await self.app.state.live.runtime.tally.flush()

    async def metric(self, name: str, **labels: str) -> float:
        """Returns the value of one sample of `/metrics`, 0 if it is not there."""
        from prometheus_client.parser import text_string_to_metric_families

        text = (await self.client.get("/metrics")).text
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    return sample.value
        return 0.0


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle, written once."""
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles"))


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    """A real server that the tests of this folder share; each test has users of its own."""
    with embedded_in_a_thread(tmp_path_factory.mktemp("redis")) as server:
        yield server


@contextlib.asynccontextmanager
async def running(
    settings: Settings, store: Store | None = None, members: dict[str, Voice] | None = None, settle: Callable[[], int] = lambda: 0
) -> AsyncIterator[Service]:
    """Starts the application, and stops it as the server would."""
    members, clock = voices() if members is None else members, Clock()
    app = create_app(settings, store=store, members=members, clock=clock, settle=settle)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client, app.router.lifespan_context(app):
        yield Service(app, client, members, clock)


@pytest.fixture
def settings_of(bundle: Path, tmp_path: Path) -> Callable[..., Settings]:
    """Makes settings for the tiny bundle, with a fixed budget because measuring it takes seconds, and patience with a slow disk."""

    def make(**given: Any) -> Settings:
        # A store that writes to a busy disk may stand still for longer than the second that requests wait by default.
        patient = {"redis_timeout_ms": 5000}
        defaults: dict[str, Any] = {"data_dir": tmp_path, "bundle": str(bundle), "batch_budget_tokens": 256, "threads": 1, **patient}
        return Settings(**(defaults | given))

    return make


@pytest.fixture
async def service(settings_of: Callable[..., Settings]) -> AsyncIterator[Service]:
    """The application on the store without Redis."""
    async with running(settings_of(), FreshStore()) as service:
        yield service
