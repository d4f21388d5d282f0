"""Requests made from the OpenAPI document, good and bad: no answer is a 5xx, and every one is as documented."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance

from attune.service.app import create_app
from attune.service.settings import Settings
from tests.endpoints.test_openapi import FILE
from tests.endpoints.voices import voices
from tests.stores import FreshStore
from tests.tiny_bundle import write_tiny_bundle

OPERATIONS = [
    (method.upper(), path) for path, methods in json.loads(FILE.read_text(encoding="utf-8"))["paths"].items() for method in methods
]
schemathesis.serializer.alias("application/x-ndjson", "text/plain")
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


class Announced(uvicorn.Server):
    """A server that says when it takes requests."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """The schema of a running server, which has a loop of its own."""
    directory: Path = tmp_path_factory.mktemp("fuzz")
    given = Settings(data_dir=directory, bundle=str(write_tiny_bundle(directory)), batch_budget_tokens=256, threads=1)
    app = create_app(given, store=FreshStore(), members=voices())
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = Announced(uvicorn.Config(app, log_config=None, http="httptools", loop="asyncio"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        assert server.up.wait(60)
        try:
            yield schemathesis.openapi.from_url(f"http://127.0.0.1:{listener.getsockname()[1]}/openapi.json")
        finally:
            server.should_exit = True
            thread.join()


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["as documented", "otherwise"])
@pytest.mark.parametrize(("method", "path"), OPERATIONS, ids=lambda value: value)
def test_no_request_breaks_the_service(api, method: str, path: str, mode: GenerationMode):
    operation = api[path][method]
    if mode is GenerationMode.NEGATIVE and not (operation.body or operation.path_parameters or operation.headers):
        pytest.skip("this operation has neither a body nor parameters that could be wrong")

    @settings(max_examples=10, phases=[Phase.generate], suppress_health_check=list(HealthCheck), derandomize=True, database=None)
    @given(case=operation.as_strategy(generation_mode=mode))
    def exchange(case: schemathesis.Case) -> None:
        case.validate_response(case.call(timeout=20), checks=CHECKS)

    exchange()
