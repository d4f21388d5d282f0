"""Makes members out of their descriptions: one engine for each base, one shared client for all servers.

    {name: spec} ── build_roster ──> Roster, engines ── load(), off the loop ──> ready

Opens no connection and loads no weights itself: `Portfolio.load` does, when it is called.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx

from attune.service.members.local import LocalEngine
from attune.service.members.member import Member
from attune.service.members.openai import OpenAIMember
from attune.service.members.roster import Observers, Roster
from attune.service.members.spec import LocalSpec, MemberSpec
from attune.service.observe.tracing import outgoing


@dataclass(frozen=True, slots=True)
class Portfolio:
    """The roster and the engines of its local members.

    Args:
        roster: every member by name.
        engines: by the base they hold; empty if every member is elsewhere.
    """

    roster: Roster
    engines: Mapping[str, LocalEngine]

    def load(self) -> None:
        """Loads every engine. Blocks for seconds: call it off the event loop.

        Raises:
            UnusableMember: a file is missing or an adapter does not fit its base.
        """
        for engine in self.engines.values():
            engine.load()


def build_roster(
    specs: Mapping[str, MemberSpec],
    *,
    root: Path,
    client: httpx.AsyncClient,
    fallback_order: Sequence[str] | None = None,
    observers: Observers | None = None,
    environ: Mapping[str, str] = os.environ,
    threads: int | None = None,
    max_batch: int = 16,
    max_waiting: int = 64,
    clock: Callable[[], float] = time.monotonic,
) -> Portfolio:
    """Returns the members that the specs describe, not loaded yet.

    Args:
        specs: by name.
        root: where relative paths of bases and adapters begin.
        client: shared by all members that are servers; `member_client` makes one.
        fallback_order: who stands in, first to last; None is the order of `specs`.
        observers: what is told of each request.
        environ: where API keys are looked up.
        threads: torch's threads for one forward pass of an engine.
        max_batch: rows that an engine decodes together.
        max_waiting: requests that may wait for a row of an engine.
        clock: seconds that only grow.

    Raises:
        UnusableMember: an API key is not set.
        UnknownMember: the fallback order names a member that is not there.
    """
    observers = observers or Observers()
    grouped: dict[tuple[str, str, str], dict[str, LocalSpec]] = {}
    for name, spec in specs.items():
        if isinstance(spec, LocalSpec):
            grouped.setdefault((str(root / spec.base), spec.device, spec.dtype), {})[name] = spec
    engines: dict[str, LocalEngine] = {}
    members: dict[str, Member] = {}
    for (base, device, dtype), group in grouped.items():
        adapters = {name: root / spec.adapter for name, spec in group.items() if spec.adapter is not None}
        engine = LocalEngine(
            base,
            adapters,
            device=next(iter(group.values())).device,
            dtype=next(iter(group.values())).dtype,
            threads=threads,
            max_batch=max_batch,
            max_waiting=max_waiting,
            clock=clock,
        )
        engines[f"{base} ({device}, {dtype})"] = engine
        for name, spec in group.items():
            members[name] = engine.member(name, name if spec.adapter is not None else None, spec.defaults)
    for name, spec in specs.items():
        if not isinstance(spec, LocalSpec):
            observe = partial(observers.breaker, name)
            members[name] = OpenAIMember(name, spec, client, environ=environ, clock=clock, observe_breaker=observe)
    ordered = {name: members[name] for name in specs}
    return Portfolio(Roster(ordered, fallback_order, observers, clock), engines)


def member_client(max_connections: int = 256) -> httpx.AsyncClient:
    """Returns the client that members on servers share.

    It follows no redirects: a POST would become a GET, and a key goes where the roster says and nowhere else. Each
    member brings its own timeouts.
    """
    limits = httpx.Limits(max_connections=max_connections, max_keepalive_connections=max_connections // 4)
    return httpx.AsyncClient(limits=limits, follow_redirects=False, event_hooks={"request": [_trace]})


async def _trace(request: httpx.Request) -> None:
    request.headers.update(outgoing())
