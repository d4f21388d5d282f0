"""Spans over OTLP: one trace through two services, what a span says, who samples, and that nothing is there when it is off."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from attune.service.app import create_app
from attune.service.observe.timing import STAGES
from attune.service.parts import check_cheap
from attune.service.settings import Settings, SettingsError
from tests.endpoints.conftest import PROMPT, running
from tests.endpoints.otlp_receiver import Collector, attributes, collecting
from tests.endpoints.test_streaming import listening
from tests.stores import FreshStore
from tests.tiny_bundle import MEMBERS

CALLER = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{CALLER}-b7ad6b7169203331-01"
GENERATE, CHAT = "POST /generate", "POST /v1/chat/completions"
ASKED = {"user": "u1", "prompt": PROMPT, "candidates": 2, "score": True}


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        yield collector


async def generated(settings_of: Callable[..., Settings], folder: Path, headers: dict[str, str]) -> None:
    """Asks an application whose members are another application, both with tracing, and stops both."""
    async with running(settings_of(tracing=True), FreshStore()) as behind, listening(behind) as wired:
        url = f"{str(wired.base_url).rstrip('/')}/v1"
        roster = folder / "roster.json"
        roster.write_text(json.dumps({name: {"kind": "openai", "base_url": url, "model": name} for name in MEMBERS}))
        settings = settings_of(tracing=True, roster=str(roster), data_dir=folder / "front")
        app = create_app(settings, store=FreshStore())
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client, app.router.lifespan_context(app):
            answer = await client.post("/generate", json=ASKED, headers=headers)
            assert answer.status_code == 200, answer.text


async def test_one_trace_goes_through_two_services_by_the_span_of_each_request_to_a_member(collector, settings_of, tmp_path):
    await generated(settings_of, tmp_path, {"traceparent": TRACEPARENT})
    (front,) = collector.named(GENERATE)
    assert (front.trace_id.hex(), front.parent_span_id.hex(), front.kind) == (CALLER, "b7ad6b7169203331", Span.SPAN_KIND_SERVER)
    asked = collector.named("POST")
    behind = [span for span in collector.named(CHAT) if span.trace_id == front.trace_id]
    assert len(asked) == len(behind) == 2
    assert {span.span_id for span in asked} == {span.parent_span_id for span in behind}
    (stage,) = (span for span in collector.named("member") if span.parent_span_id == front.span_id)
    assert {span.parent_span_id for span in asked} == {stage.span_id}
    for span in asked:
        assert span.kind == Span.SPAN_KIND_CLIENT
        assert attributes(span)["http.response.status_code"] == 200
        assert stage.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano <= front.end_time_unix_nano
    assert collector.services == {"attune"}


async def test_every_stage_of_a_request_is_a_span_below_its_own_with_nothing_that_a_user_wrote(collector, settings_of):
    async with running(settings_of(tracing=True), FreshStore()) as service:
        answer = await service.client.post("/generate", json=ASKED)
    (request,) = collector.named(GENERATE)
    below = [span for span in collector.spans if span.parent_span_id == request.span_id]
    assert {span.name for span in below} == set(STAGES)
    for span in below:
        assert request.start_time_unix_nano - 1_000_000 <= span.start_time_unix_nano <= span.end_time_unix_nano
        assert span.end_time_unix_nano <= request.end_time_unix_nano + 1_000_000
    (queue, *_), (inference, *_) = ([span for span in below if span.name == name] for name in ("queue", "inference"))
    assert abs(queue.end_time_unix_nano - inference.start_time_unix_nano) < 1_000_000
    told = attributes(request)
    assert (told["http.route"], told["http.response.status_code"]) == ("/generate", 200)
    assert told["attune.decision_id"] == answer.json()["decision_id"]
    assert answer.headers["traceparent"].split("-")[1:3] == [request.trace_id.hex(), request.span_id.hex()]
    everything = " ".join(map(str, collector.spans))
    assert [private for private in (PROMPT, "u1", "localhost") if f'"{private}"' in everything] == []


async def test_a_refusal_tells_its_code_a_failure_is_an_error_and_probes_leave_no_span(collector, settings_of):
    async with running(settings_of(tracing=True), FreshStore()) as service:
        await service.client.get("/livez")
        await service.client.get("/readyz")
        await service.client.get("/decisions/nobody-made-this")
        await service.serving.batcher.aclose()
        await service.client.post("/score", json={"user": "u1", "prompt": PROMPT, "responses": ["yes ."]})
    refused, failed = (collector.named(name)[0] for name in ("GET /decisions/{decision_id}", "POST /score"))
    assert {span.name for span in collector.spans if not span.parent_span_id} == {refused.name, failed.name}
    assert attributes(refused)["error.type"] == "unknown-decision"
    assert refused.status.code == Status.STATUS_CODE_UNSET
    assert failed.status.code == Status.STATUS_CODE_ERROR


@pytest.mark.parametrize(
    ("sampler", "sent", "flag", "exported"),
    [
        ("", TRACEPARENT[:-2] + "00", "00", 0),
        ("", TRACEPARENT, "01", 1),
        ("always_off", TRACEPARENT, "00", 0),
        ("always_on", TRACEPARENT[:-2] + "00", "01", 1),
    ],
)
async def test_who_is_sampled_is_for_the_standard_variables_to_say(collector, settings_of, monkeypatch, sampler, sent, flag, exported):
    if sampler:
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    async with running(settings_of(tracing=True), FreshStore()) as service:
        answer = await service.client.get("/users/u1", headers={"traceparent": sent})
    assert answer.headers["traceparent"].split("-")[3] == flag
    assert len(collector.named("GET /users/{user}")) == exported


async def test_the_standard_variables_name_the_service_and_can_turn_everything_off(collector, settings_of, monkeypatch):
    monkeypatch.setenv("OTEL_SERVICE_NAME", "taste")
    async with running(settings_of(tracing=True), FreshStore()) as service:
        await service.client.get("/users/u1")
    assert collector.services == {"taste"}
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    sent = len(collector.spans)
    async with running(settings_of(tracing=True), FreshStore()) as service:
        await service.client.get("/users/u1")
    assert len(collector.spans) == sent


@pytest.mark.parametrize(("variable", "value"), [("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"), ("OTEL_TRACES_EXPORTER", "zipkin")])
def test_what_is_not_done_is_refused_with_its_variable(collector, settings_of, monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=f"ATTUNE_TRACING .*{variable} is {value}"):
        check_cheap(settings_of(tracing=True))


def test_off_the_exporter_is_not_imported_and_without_the_extra_a_start_is_refused_with_how_to_install_it():
    asked = """
import sys
sys.modules["opentelemetry.sdk.trace"] = None  # as where it is not installed
import attune.service.app
from attune.service.parts import find_spans
from attune.service.settings import Settings, SettingsError
assert find_spans(Settings()) is None
assert not [name for name in sys.modules if name.startswith(("opentelemetry.exporter", "attune.service.observe.spans"))]
try:
    find_spans(Settings(tracing=True))
except SettingsError as error:
    print(error)
"""
    said = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True).stdout
    assert said.startswith("ATTUNE_TRACING (the installation): ")
    assert "pip install '.[otlp]' in a checkout, or pip install 'attune_serve-" in said
