"""Makes members out of their descriptions: one engine for each base, one pool of connections for all servers.

    {name: spec} ┬─ build_servers ──> members that are elsewhere
                 └─ build_locals ──> LocalMembers ── load(), off the loop ──> ready

Opens no connection and loads no weights itself: `LocalMembers.load` does, when it is called.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from attune.service.members.local import LocalEngine, LocalMember
from attune.service.members.local_files import check_adapter_files, check_base_files
from attune.service.members.member import Member, UnusableMember
from attune.service.members.openai import OpenAIMember
from attune.service.members.roster import Observers
from attune.service.members.roster_values import values_of
from attune.service.members.spec import Device, Dtype, LocalSpec, MemberSpec
from attune.service.members.upstream_pool import UpstreamPool


@dataclass(frozen=True, slots=True)
class LocalMembers:
    """Local members and the engines that they write with.

    Args:
        members: by name.
        engines: by the base they hold; empty if every member is elsewhere.
    """

    members: Mapping[str, LocalMember]
    engines: Mapping[str, LocalEngine]

    def load(self) -> None:
        """Loads every engine. Blocks for seconds: call it off the event loop.

        Raises:
            UnusableMember: a file is missing or an adapter does not fit its base.
        """
        for engine in self.engines.values():
            engine.load()

    async def aclose(self) -> None:
        """Ends the engines; answers under way fail."""
        for engine in self.engines.values():
            await engine.aclose()


def local_specs(specs: Mapping[str, MemberSpec]) -> dict[str, LocalSpec]:
    """Returns the members that are local."""
    return {name: spec for name, spec in specs.items() if isinstance(spec, LocalSpec)}


def build_locals(
    specs: Mapping[str, LocalSpec],
    *,
    root: Path,
    threads: int | None = None,
    max_batch: int = 16,
    max_waiting: int = 64,
) -> LocalMembers:
    """Returns local members, one engine for each base, device and dtype among them; not loaded yet.

    Args:
        specs: by name.
        root: where relative paths of bases and adapters begin.
        threads: torch's threads for one forward pass of an engine.
        max_batch: rows that an engine decodes together.
        max_waiting: requests that may wait for a row of an engine.
    """
    grouped: dict[tuple[str, Device, Dtype], dict[str, LocalSpec]] = {}
    for name, spec in specs.items():
        grouped.setdefault((str(root / spec.base), spec.device, spec.dtype), {})[name] = spec
    engines: dict[str, LocalEngine] = {}
    members: dict[str, LocalMember] = {}
    for (base, device, dtype), group in grouped.items():
        adapters = {name: root / spec.adapter for name, spec in group.items() if spec.adapter is not None}
        engine = LocalEngine(base, adapters, device=device, dtype=dtype, threads=threads, max_batch=max_batch, max_waiting=max_waiting)
        engines[f"{base} ({device}, {dtype})"] = engine
        for name, spec in group.items():
            members[name] = engine.member(name, name if spec.adapter is not None else None, spec.defaults, spec.thoughts)
    return LocalMembers(members, engines)


def build_servers(
    specs: Mapping[str, MemberSpec],
    *,
    connections: UpstreamPool,
    observers: Observers | None = None,
    environ: Mapping[str, str] = os.environ,
) -> dict[str, Member]:
    """Returns the members that are servers; those that are local are left out.

    Args:
        specs: by name.
        connections: shared by all of them.
        observers: what is told of their breakers.
        environ: where API keys are looked up.

    Raises:
        UnusableMember: an environment variable that a description names is not set, or a proxy cannot be used.
    """
    tell = (observers or Observers()).breaker
    return {
        name: OpenAIMember(name, spec, connections, environ=environ, observe_breaker=partial(tell, name))
        for name, spec in specs.items()
        if not isinstance(spec, LocalSpec)
    }


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
