"""`attune serve` in the process that takes requests, be it the only one or one of several: the application behind uvicorn, until a signal.

create_app ─> Beginning ─> uvicorn (bounded connections) ─> listens once everything is ready ─> signal ─> drained ─> the process ends
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Sequence
from typing import NoReturn

import uvicorn

from attune.service.app import create_app
from attune.service.ending import end_process
from attune.service.http.bounds import Bounds
from attune.service.http.connections import bounded
from attune.service.http.refusals import Refusals
from attune.service.http.server import AnnouncingServer, Beginning
from attune.service.live.hangup import answer_hangups
from attune.service.machine import descriptors_for_callers
from attune.service.observe.logs import log_stopped, log_stopping
from attune.service.observe.stalls import settle_heap
from attune.service.settings import Settings


def serve_one(settings: Settings, listener: socket.socket, listen: Callable[[int], None], place: tuple[str, int] | None) -> None:
    """Serves until a signal, and ends the process.

    Args:
        settings: checked by `parts.check_cheap`.
        listener: bound to the address.
        listen: opens it for callers, of whom so many may wait, once everything is ready; what it raises is raised once all is closed.
        place: see `create_app`; of several processes, the parent writes the lines of the log and answers hangups.

    Raises:
        SystemExit: 3 if a part could not start.
    """
    alone = place is None
    host, port = listener.getsockname()[:2]
    address = f"http://[{host}]:{port}" if listener.family == socket.AF_INET6 else f"http://{host}:{port}"

    refusals: list[Exception] = []

    def opened() -> None:
        try:
            listen(config.backlog)
        except Exception as error:
            refusals.append(error)
            raise
        beginning.listens()

    app = create_app(settings, address=address, opened=opened, place=place, settle=settle_heap)
    bounds = Bounds(most=min(settings.max_connections, descriptors_for_callers(settings.redis_pool_size)))
    beginning = Beginning(app)
    config = uvicorn.Config(
        beginning,
        loop="uvloop",
        http=bounded(bounds, Refusals(app.state.metrics)),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=settings.keep_alive_s,
        timeout_graceful_shutdown=settings.drain_s,
    )

    def announce(left_s: float) -> None:
        if alone:
            log_stopping(left_s)
        app.state.live.phase = "draining"
        app.state.in_flight.end_within(left_s)

    def started() -> None:
        if alone:
            answer_hangups(lambda: app.state.live.runtime.reload(None), app.state.metrics.reloaded)

    server = AnnouncingServer(
        config,
        beginning=beginning,
        notice_s=settings.drain_notice_s,
        drain_s=settings.drain_s,
        announce=announce,
        started=started,
    )
    app.state.metrics.watch_connections(lambda: len(server.server_state.connections))

    # uvicorn raises the signal again once it has shut down; an orderly end is exit code 0 and no traceback. A handler and not SIG_IGN:
    # that would be inherited by the embedded store. It ends at once: everything is closed by then, and taking the interpreter with torch
    # and ONNX Runtime apart takes seconds.
    def end(*_: object) -> NoReturn:
        if alone:
            log_stopped()
        end_process(0)

    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, end)
    _run(server, listener, refusals)


def _run(server: uvicorn.Server, listener: socket.socket, refusals: Sequence[Exception]) -> None:
    """Runs the server; raises the refusal of its start, if there was one, for uvicorn has one exit code for whatever could not start."""
    try:
        server.run(sockets=[listener])
    except SystemExit:
        if refusals:
            raise refusals[0] from None
        raise
