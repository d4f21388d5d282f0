"""Makes members out of their descriptions: one engine for each base, one pool of connections for all servers.

    {name: spec} ── build_roster ──> Roster, engines ── load(), off the loop ──> ready

Opens no connection and loads no weights itself: `BuiltRoster.load` does, when it is called.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from attune.service.members.local import LocalEngine
from attune.service.members.local_files import check_adapter_files, check_base_files
from attune.service.members.member import Member, UnusableMember
from attune.service.members.openai import OpenAIMember
from attune.service.members.openai_server import values_of
from attune.service.members.roster import Observers, Roster
from attune.service.members.spec import LocalSpec, MemberSpec
from attune.service.members.upstream_pool import UpstreamPool


@dataclass(frozen=True, slots=True)
class BuiltRoster:
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
    connections: UpstreamPool,
    observers: Observers | None = None,
    environ: Mapping[str, str] = os.environ,
    threads: int | None = None,
    max_batch: int = 16,
    max_waiting: int = 64,
    clock: Callable[[], float] = time.monotonic,
) -> BuiltRoster:
    """Returns the members that the specs describe, not loaded yet.

    Args:
        specs: by name.
        root: where relative paths of bases and adapters begin.
        connections: shared by all members that are servers.
        observers: what is told of each request.
        environ: where API keys are looked up.
        threads: torch's threads for one forward pass of an engine.
        max_batch: rows that an engine decodes together.
        max_waiting: requests that may wait for a row of an engine.
        clock: seconds that only grow.

    Raises:
        UnusableMember: an environment variable that a description names is not set, or a proxy cannot be used.
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
            members[name] = engine.member(name, name if spec.adapter is not None else None, spec.defaults, spec.thoughts)
    for name, spec in specs.items():
        if not isinstance(spec, LocalSpec):
            observe = partial(observers.breaker, name)
            members[name] = OpenAIMember(name, spec, connections, environ=environ, clock=clock, observe_breaker=observe)
    ordered = {name: members[name] for name in specs}
    return BuiltRoster(Roster(ordered, observers, clock), engines)


def check_members(specs: Mapping[str, MemberSpec], root: Path, environ: Mapping[str, str] = os.environ) -> None:
    """Returns if nothing cheap speaks against these members: variables that are set, proxies that can be used, files that are there.

    Nothing is started, connected or loaded, so this comes before everything that takes time.

    Raises:
        UnusableMember: the first that cannot be used, with the field and what is needed.
    """
    connections = UpstreamPool(environ=environ)
    for name, spec in specs.items():
        if isinstance(spec, LocalSpec):
            check_base_files(name, root / spec.base)
            if spec.adapter is not None:
                check_adapter_files(name, root / spec.adapter)
            continue
        values_of(name, spec, environ)
        try:
            connections.prepare(spec.base_url)
        except ValueError as error:
            raise UnusableMember(name, "base_url", str(error)) from error
