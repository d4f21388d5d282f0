"""Spans of requests, exported over OTLP: made at a request's end from what was noted of it, sent by a thread of OpenTelemetry's.

    Served, Noted ─> export ─> server span ─┬ tokenize, queue, inference, redis, member ─> BatchSpanProcessor ─> OTLP
                                            └ member ─ POST (client; the `traceparent` that the member was sent)

Imported only where tracing is on, for it needs the extra `otlp`. The standard OTEL_* variables say where spans go, under which
name, and which requests are sampled.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, TraceFlags, set_span_in_context
from opentelemetry.trace.status import Status, StatusCode

from attune import __version__
from attune.service.observe.timing import Entered, Stage
from attune.service.observe.tracing import Noted, Outbound, Served, Trace

_KINDS: Mapping[Stage, SpanKind] = {"redis": SpanKind.CLIENT}
_ATTRIBUTES: Mapping[Stage, Mapping[str, str]] = {"redis": {"db.system.name": "redis"}}
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")


class OtlpSpans:
    """Takes the spans of requests; see the module. To be used from one thread.

    Args:
        exporter: in place of OTLP over HTTP.
    """

    def __init__(self, exporter: SpanExporter | None = None) -> None:
        self._ids = _GivenIds()
        self._provider = TracerProvider(resource=_resource(), id_generator=self._ids, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("attune", __version__)
        self._off = os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"

    def samples(self, trace_id: str, caller: Trace | None) -> bool:
        """Returns what the sampler that OTEL_TRACES_SAMPLER names decides."""
        if self._off:
            return False
        answer = self._provider.sampler.should_sample(_under(caller), int(trace_id, 16), "request", SpanKind.SERVER)
        return answer.decision is Decision.RECORD_AND_SAMPLE

    def export(self, trace: Trace, served: Served) -> None:
        """Makes the spans of a request that ended, and leaves them to the thread that sends them."""
        now_ns, now_s = time.time_ns(), time.perf_counter()

        def unix_ns(at_s: float) -> int:
            return now_ns - round((now_s - at_s) * 1e9)

        self._ids.trace_id, self._ids.span_id = int(trace.trace_id, 16), int(trace.span_id, 16)
        span = self._tracer.start_span(
            served.name,
            _under(trace.caller),
            SpanKind.SERVER,
            dict(served.attributes),
            start_time=unix_ns(served.began_s),
        )
        if served.failed:
            span.set_status(Status(StatusCode.ERROR))
        self._below(span, trace.noted or Noted(), unix_ns, served.ended_s)
        span.end(unix_ns(served.ended_s))

    def _below(self, request: Span, noted: Noted, unix_ns: Callable[[float], int], ended_s: float) -> None:
        within = set_span_in_context(request, Context())
        members: list[tuple[Entered, Span]] = []
        for one in noted.stages:
            kind, attributes = _KINDS.get(one.stage, SpanKind.INTERNAL), _ATTRIBUTES.get(one.stage)
            span = self._tracer.start_span(one.stage, within, kind, attributes, start_time=unix_ns(one.began_s))
            span.end(unix_ns(one.ended_s))
            if one.stage == "member":
                members.append((one, span))
        for asked in tuple(noted.outbound):
            around = next((span for one, span in members if one.began_s <= asked.began_s <= one.ended_s), request)
            self._ids.span_id = int(asked.span_id, 16)
            span = self._tracer.start_span(
                asked.method, set_span_in_context(around, Context()), SpanKind.CLIENT, _told(asked), start_time=unix_ns(asked.began_s)
            )
            if not 0 < asked.status < 400:
                span.set_status(Status(StatusCode.ERROR))
            # What still lasts, such as the end of a stream that nobody waits for, ends here with its request.
            span.end(unix_ns(ended_s if asked.ended_s is None else asked.ended_s))

    async def aclose(self) -> None:
        """Sends what is left, for as long as OTEL_BSP_EXPORT_TIMEOUT allows."""
        await asyncio.to_thread(self._provider.shutdown)


class _GivenIds(RandomIdGenerator):
    """Ids that were told to others before their spans were made; random ones otherwise."""

    def __init__(self) -> None:
        self.trace_id = 0
        self.span_id = 0

    def generate_trace_id(self) -> int:
        return self.trace_id

    def generate_span_id(self) -> int:
        given, self.span_id = self.span_id, 0
        return given or super().generate_span_id()


def refuse_others(environ: Mapping[str, str]) -> None:
    """Raises ValueError where a variable asks for another protocol or exporter; the message has the variable."""
    for name in _PROTOCOLS:
        if (protocol := environ.get(name, "").strip()) not in {"", "http/protobuf"}:
            raise ValueError(f"spans are sent as http/protobuf only, but {name} is {protocol}")
    if (exporter := environ.get("OTEL_TRACES_EXPORTER", "").strip()) not in {"", "otlp"}:
        raise ValueError(f"spans are sent by OTLP only, but OTEL_TRACES_EXPORTER is {exporter}; ATTUNE_TRACING=false sends none")


def _resource() -> Resource:
    found = Resource.create({SERVICE_VERSION: __version__})
    unnamed = str(found.attributes.get(SERVICE_NAME, "")).startswith("unknown_service")
    return found.merge(Resource({SERVICE_NAME: "attune"})) if unnamed else found


def _under(caller: Trace | None) -> Context:
    if caller is None:
        return Context()
    place = SpanContext(int(caller.trace_id, 16), int(caller.span_id, 16), is_remote=True, trace_flags=TraceFlags(int(caller.flags, 16)))
    return set_span_in_context(NonRecordingSpan(place), Context())


def _told(asked: Outbound) -> Mapping[str, str | int]:
    told: dict[str, str | int] = {"http.request.method": asked.method, "server.address": asked.host, "server.port": asked.port}
    return told | ({"http.response.status_code": asked.status} if asked.status else {"error.type": "no answer"})
