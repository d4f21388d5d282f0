"""The service as one ASGI application: reads the settings once, builds the parts in order, and takes them down in reverse.

    start    metrics ─> store ─> bundle (verify, session, calibrate, probes, members) ─> ready
    stop     stop admitting ─> drain ─> members and scorer ─> store

Nothing else sees `Settings`: every part gets the numbers it needs, in one dataclass a part. A part that cannot start stops the start,
with its reason in the log.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from attune import __version__
from attune.models.seam.evidence import Decay
from attune.service.api import (
    admin,
    chat,
    decisions,
    feedback,
    generate,
    ops,
    page,
    portfolio,
    rerank,
    route,
    score,
    user_export,
    users,
)
from attune.service.errors import BundleRefused
from attune.service.http.admission import Admission, Door, InFlight
from attune.service.http.documentation import documented
from attune.service.http.edge import Edge
from attune.service.live.loading import LoadPlan, Reloader, load_serving
from attune.service.live.runtime import Keeping, Live, RequestLimits, RoutingNumbers, Runtime, Serving
from attune.service.live.watching import watch_live
from attune.service.machine import cautions, find_bundle, load_keyring, load_user_secret
from attune.service.members.build import member_client
from attune.service.members.member import Member
from attune.service.observe.logs import get_logger, log_ready
from attune.service.observe.metrics import Metrics
from attune.service.settings import Settings, SettingsError, numbers_for
from attune.service.state import store as state
from attune.service.state.embedded import EmbeddedRedis
from attune.service.state.redis_store import RedisStore

_log = get_logger(__name__)


def create_app(
    settings: Settings,
    *,
    address: str = "",
    store: state.Store | None = None,
    members: Mapping[str, Member] | None = None,
    clock: Callable[[], float] = time.time,
) -> FastAPI:
    """Returns the application; its parts are built when its lifespan starts.

    Args:
        settings: read once, here.
        address: where it listens, for the line that says it is ready.
        store: in place of Redis; closed with the application.
        members: in place of a roster, by the names of the portfolio.
        clock: Unix seconds.

    Raises:
        SettingsError: keys or secret cannot be read.
    """
    metrics, live, in_flight = Metrics(), Live(), InFlight()
    keyring = load_keyring(settings)
    door = Door(
        settings.max_in_flight,
        settings.max_body_bytes,
        settings.request_deadline_ms / 1000,
        settings.generate_deadline_ms / 1000,
        settings.rate_limit_per_s,
    )

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with _running(settings, metrics, live, address, store, members, clock):
            yield

    app = FastAPI(
        title="Attune",
        version=__version__,
        summary="Online personalization: per-user reward scores, routing over a portfolio of language models, learning from comparisons.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
        exception_handlers={HTTPException: _to_the_edge, RequestValidationError: _to_the_edge},
    )
    app.state.live, app.state.metrics = live, metrics
    for module in (score, generate, route, feedback, users, user_export, decisions, portfolio, ops, admin, chat, rerank, page):
        app.include_router(module.router)
    app.openapi = lambda: documented(app)  # type: ignore[method-assign]  # the way that FastAPI documents
    app.add_middleware(Admission, live=live, keyring=keyring, door=door, in_flight=in_flight)
    app.add_middleware(Edge, metrics=metrics)  # added last, so outermost
    watch_live(metrics, live, lambda: in_flight.count)
    return app


async def _to_the_edge(_request: Request, error: Exception) -> Response:
    """Lets what FastAPI would answer itself pass on to the edge, where every error is rendered alike."""
    raise error


@asynccontextmanager
async def _running(
    settings: Settings,
    metrics: Metrics,
    live: Live,
    address: str,
    given_store: state.Store | None,
    members: Mapping[str, Member] | None,
    clock: Callable[[], float],
) -> AsyncIterator[None]:
    for caution in cautions(settings):
        _log.warning("settings", caution=caution)
    async with AsyncExitStack() as parts:
        # 1. State: what is given, a server by URL, or the embedded one.
        bounds = state.Limits(user_ttl_s=settings.user_ttl_s, max_log=settings.max_log_entries)
        store, where = given_store, "given"
        if store is None:
            store, where = await _open_store(settings, bounds, metrics, parts)
        parts.push_async_callback(store.aclose)
        # 2. The bundle, with its scorer and its members.
        client = await parts.enter_async_context(member_client())
        plan = numbers_for(LoadPlan, settings)

        async def load(path: Path | None) -> Serving:
            try:
                return await load_serving(path or find_bundle(settings), plan, members, metrics, client)
            except SettingsError as error:
                raise BundleRefused(str(error)) from error

        try:
            live.serving = await load(None)
        except BundleRefused as error:
            _log.error("cannot start", reason=error.detail)
            raise
        parts.push_async_callback(_close_serving, live)
        # 3. What outlives bundles.
        reloader = Reloader(live, load, partial(_announce, metrics))
        parts.push_async_callback(reloader.aclose)
        runtime = Runtime(
            store=store,
            metrics=metrics,
            limits=numbers_for(RequestLimits, settings),
            routing=numbers_for(RoutingNumbers, settings),
            keeping=numbers_for(Keeping, settings),
            bounds=bounds,
            decay=Decay(settings.half_life_days * 86_400 or None),
            user_secret=load_user_secret(settings),
            clock=clock,
            reload=reloader,
        )
        live.runtime = runtime
        parts.push_async_callback(_drain, live, runtime, settings.drain_s)
        # 4. Open the door.
        _announce(metrics, live.serving)
        live.phase = "ready"
        log_ready(address, live.serving.bundle.id, len(live.serving.bundle.portfolio.names), where)
        yield


async def _open_store(settings: Settings, bounds: state.Limits, metrics: Metrics, parts: AsyncExitStack) -> tuple[state.Store, str]:
    url, where = settings.redis_url, "external"
    if not url:
        embedded = await parts.enter_async_context(EmbeddedRedis(settings.data_dir))
        url, where = embedded.url, "embedded"
    timeout_s = settings.redis_timeout_ms / 1000
    store = RedisStore(url, limits=bounds, max_connections=settings.redis_pool_size, timeout_s=timeout_s, observe=metrics.store_ran)
    return store, where


async def _drain(live: Live, runtime: Runtime, drain_s: float) -> None:
    live.phase = "draining"
    try:
        async with asyncio.timeout(drain_s):
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
