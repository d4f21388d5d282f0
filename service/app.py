"""The service as one ASGI application: reads the settings once, builds the parts in order, and takes them down in reverse.

    start    cheap checks ─> metrics ─> store ─> bundle (verify, session, calibrate, probes, members) ─> health ─> heap ─> ready
    stop     (told, drained: `http.server`) ─> stop admitting ─> what is left ─> health ─> members and scorer ─> store

Nothing else sees `Settings`: every part gets the numbers it needs. A part that cannot start stops the start, with its reason in one line.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from attune import __version__
from attune.models.seam.evidence import Decay
from attune.service.api import (
    admin,
    chat,
    decisions,
    feedback,
    generate,
    measured_members,
    ops,
    page,
    portfolio,
    rerank,
    responses,
    route,
    score,
    user_export,
    users,
)
from attune.service.errors import BundleRefused
from attune.service.http.admission import Admission, Door, InFlight
from attune.service.http.application import Application
from attune.service.http.documentation import documented
from attune.service.http.edge import Edge
from attune.service.http.shortcut import Shortcut
from attune.service.live.bundle_watch import BundleWatch
from attune.service.live.health import Health
from attune.service.live.joined import Joined
from attune.service.live.loading import Reloader, load_serving
from attune.service.live.member_tally import MemberTally
from attune.service.live.metric_adapters import watch_health, watch_live
from attune.service.live.opened_scorer import LoadPlan, open_own_scorer
from attune.service.live.runtime import Keeping, Live, RequestLimits, RoutingNumbers, Runtime, Serving
from attune.service.live.score_queue import ScoringLater
from attune.service.live.seating import open_own_locals
from attune.service.machine import bundle_there, cautions, find_bundle, load_keyring, load_user_secret
from attune.service.members.member import Member
from attune.service.members.upstream_pool import UpstreamPool
from attune.service.observe.logs import get_logger, log_ready
from attune.service.observe.metrics import Metrics
from attune.service.observe.shared import Shared
from attune.service.observe.stalls import LoopWatch
from attune.service.parts import Refusal, explain, find_spans, open_store, store_bounds
from attune.service.settings import Settings, SettingsError, numbers_for
from attune.service.state import store as state

_log = get_logger(__name__)

_CORS: Mapping[str, Any] = {
    "allow_methods": ["GET", "POST", "DELETE"],
    # Any: OpenAI's own client sends a dozen of its own (x-stainless-...), and a user may stand in one that the deployment names. Nothing
    # is trusted for where it comes from but the origins that are named, and there are no cookies.
    "allow_headers": ["*"],
    "expose_headers": ["x-request-id", "x-decision-id", "x-attune-member", "server-timing", "retry-after", "traceparent"],
}


def create_app(
    settings: Settings,
    *,
    address: str = "",
    opened: Callable[[], None] = lambda: None,
    store: state.Store | None = None,
    members: Mapping[str, Member] | None = None,
    clock: Callable[[], float] = time.time,
    place: tuple[str, int] | None = None,
    settle: Callable[[], int] = lambda: 0,
) -> FastAPI:
    """Returns the application; its parts are built when its lifespan starts.

    Args:
        settings: read once, here.
        address: where it listens, for the line that says it is ready.
        opened: called once everything is ready, before that line is written.
        store: in place of Redis; closed with the application.
        members: in place of a roster, by the names of the portfolio.
        clock: Unix seconds.
        place: where the parent listens and the number of this process, where it is one of several.
        settle: called after the start and after each reload, once what lives for good is in memory; returns the number of objects that it
            froze. A process that only serves brings `settle_heap`; one that embeds the application keeps its collector as it is.

    Raises:
        SettingsError: keys or secret cannot be read, or spans not exported.
    """
    metrics, live, in_flight = Metrics(), Live(), InFlight()
    joined = None if place is None else Joined(*place, metrics)
    health = Health(live, store_matters=settings.ready_needs_store)
    keyring = load_keyring(settings)
    opens_spans = find_spans(settings)
    spans = None if opens_spans is None else opens_spans()

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as parts:
            if spans is not None:
                parts.push_async_callback(spans.aclose)
            try:
                serving, where = await _start(settings, metrics, live, health, Given(store, members, clock, settle), joined, parts)
            except Exception as error:
                refusal = explain(error)
                _log.error("cannot start", kind=refusal.kind, reason=refusal.reason, setting=refusal.setting, **_traceback(refusal))
                raise
            opened()
            if joined is not None:
                await joined.ready()
                yield
                return
            log_ready(address, serving.bundle.id, len(serving.bundle.portfolio.names), where, health.missing())
            yield

    app = Application(
        title="Attune",
        version=__version__,
        summary="Online personalization: per-user reward scores, routing over a portfolio of language models, learning from comparisons.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={HTTPException: _to_the_edge, RequestValidationError: _to_the_edge},
    )
    app.state.exposition = None if joined is None else Shared(joined.exposition)  # the path is open, and asks every process
    app.state.live, app.state.metrics, app.state.health, app.state.in_flight = live, metrics, health, in_flight
    of_users = (score, generate, route, feedback, users, user_export, decisions)
    for module in (*of_users, portfolio, ops, admin, measured_members, chat, responses, rerank, page):
        # As they are: `include_router` would make each anew for this application, while the first requests that come by it wait.
        app.router.routes.extend(module.router.routes)
    asked_often = [each for module in (*of_users, chat, responses, rerank) for each in module.router.routes]
    app.openapi = lambda: documented(app, settings.root_path)  # type: ignore[method-assign]  # the way that FastAPI documents
    app.add_middleware(Shortcut, routes=asked_often)
    app.add_middleware(Admission, live=live, keyring=keyring, door=_door(settings), in_flight=in_flight)
    app.add_middleware(Edge, metrics=metrics, root_path=settings.root_path, slow_s=settings.slow_request_ms / 1000, spans=spans)
    if settings.cors_origins:  # outermost, so that pages can read refusals as well
        app.add_middleware(CORSMiddleware, allow_origins=settings.cors_origins, **_CORS)
    watch_health(metrics, health)
    watch_live(metrics, live, lambda: in_flight.count)
    return app


def _door(settings: Settings) -> Door:
    return Door(
        max_in_flight=settings.max_in_flight,
        max_body_bytes=settings.max_body_bytes,
        large_bodies_bytes=settings.large_bodies_bytes,
        body_s=settings.body_deadline_ms / 1000,
        deadline_s=settings.request_deadline_ms / 1000,
        long_deadline_s=settings.generate_deadline_ms / 1000,
        rate_limit_per_s=settings.rate_limit_per_s,
        hosts=frozenset(settings.allowed_hosts),
    )


async def _to_the_edge(_request: Request, error: Exception) -> Response:
    """Lets what FastAPI would answer itself pass on to the edge, where every error is rendered alike."""
    raise error


@dataclass(frozen=True, slots=True)
class Given:
    """What a test or an embedding application brings instead of what settings name."""

    store: state.Store | None
    members: Mapping[str, Member] | None
    clock: Callable[[], float]
    settle: Callable[[], int]


async def _start(
    settings: Settings, metrics: Metrics, live: Live, health: Health, given: Given, joined: Joined | None, parts: AsyncExitStack
) -> tuple[Serving, str]:
    if joined is None:  # of several processes, the parent has said them of the settings as they were given: these name its own store
        for caution in cautions(settings):
            _log.warning("settings", caution=caution)
    # 1. What costs nothing and may refuse.
    secret = load_user_secret(settings)
    plan, bounds = numbers_for(LoadPlan, settings), store_bounds(settings)
    # 2. State: what is given, a server by URL, or the embedded one.
    if given.store is None:
        store, where = await open_store(settings, metrics, parts)
    else:
        store, where = given.store, "given"
        parts.push_async_callback(store.aclose)
    # 3. The bundle, with its scorer and its members.
    connections = await parts.enter_async_context(UpstreamPool())
    first = None if joined is None else await joined.connect()
    open_scorer, open_locals = (open_own_scorer, open_own_locals) if joined is None else (joined.open_scorer, joined.open_locals)

    async def load(path: Path | None) -> Serving:
        told = plan if joined is None else joined.as_told(plan)
        try:
            return await load_serving(path or find_bundle(settings), told, given.members, metrics, connections, open_scorer, open_locals)
        except SettingsError as error:
            raise BundleRefused(str(error)) from error

    serving = live.serving = await load(first)
    parts.push_async_callback(_close_serving, live)

    # 4. What outlives bundles.
    def swapped(serving: Serving) -> None:
        _announce(metrics, serving)
        metrics.settled(given.settle())

    tally = MemberTally(store, given.clock)
    parts.push_async_callback(tally.aclose)
    later = ScoringLater(metrics.scored_later, per_s=settings.score_later_per_s)
    parts.push_async_callback(later.aclose)
    reloader = Reloader(live, load, swapped)
    parts.push_async_callback(reloader.aclose)
    runtime = live.runtime = Runtime(
        store=store,
        metrics=metrics,
        limits=numbers_for(RequestLimits, settings),
        routing=numbers_for(RoutingNumbers, settings),
        keeping=numbers_for(Keeping, settings),
        bounds=bounds,
        decay=Decay(settings.half_life_days * 86_400 or None),
        user_secret=secret,
        clock=given.clock,
        reload=reloader if joined is None else joined.reload,
        tally=tally,
        later=later,
        user_header=settings.user_header,
        root_path=settings.root_path,
    )
    if joined is not None:
        joined.take(live, load, reloader)
    _announce(metrics, serving)
    # 5. Health, whose first verdicts the ready line tells, and a heap that the collector need not walk again.
    parts.push_async_callback(health.aclose)
    await health.start()
    live.phase = "ready"
    watch = LoopWatch(metrics.loop_lagged, metrics.gc_paused)
    watch.start()
    parts.callback(watch.stop)
    metrics.settled(given.settle())
    if settings.bundle_poll_s and (joined is None or joined.first):
        bundles = BundleWatch(
            lambda: bundle_there(settings),
            lambda: live.serving.bundle.id if live.serving else "",
            lambda: runtime.reload(None),
            settings.bundle_poll_s,
            metrics,
        )
        bundles.start()
        parts.push_async_callback(bundles.aclose)
    parts.push_async_callback(_drain, live, runtime, settings.drain_s)
    return serving, where


def _traceback(refusal: Refusal) -> dict[str, bool]:
    """Returns the field that writes the traceback: of what nobody foresaw, or where everything is asked for."""
    return {"exc_info": True} if refusal.kind == "unexpected" or logging.getLogger().isEnabledFor(logging.DEBUG) else {}


async def _drain(live: Live, runtime: Runtime, drain_s: float) -> None:
    live.phase = "stopping"
    try:
        async with asyncio.timeout(drain_s):
            runtime.later.hurry()
            if live.serving is not None:
                await live.serving.leases.idle()
            await runtime.all_finished()
    except TimeoutError:
        _log.warning("drain ended early", after_s=drain_s, held=live.serving.leases.count if live.serving else 0)


async def _close_serving(live: Live) -> None:
    if live.serving is not None:
        await live.serving.aclose()


def _announce(metrics: Metrics, serving: Serving) -> None:
    metrics.serves(serving.bundle.id, serving.bundle.basis)
    metrics.built(__version__, serving.provider)
    metrics.budget_is(serving.budget_tokens)
    metrics.has_members(serving.bundle.portfolio.names, serving.priced)
