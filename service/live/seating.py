"""Who serves: the members that the roster names, with what the bundle knows of each.

    bundle.portfolio ∥ roster ─> names ─> bundle with the portfolio of those members ─> Roster, costs

Where there is a roster it decides: a member that the bundle never measured begins at the prior, one of the bundle's that it does not name
is left out, and both are told. Where there is none, a bundle without members scores only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from attune.models.seam.bundle import Bundle
from attune.models.seam.routing import member_costs
from attune.service.errors import BundleRefused
from attune.service.live.metric_adapters import member_observers
from attune.service.members.build import LocalMembers, build_locals, build_servers, check_members, local_specs
from attune.service.members.member import Member, UnusableMember
from attune.service.members.roster import Roster
from attune.service.members.roster_file import read_roster
from attune.service.members.spec import LocalSpec, MemberSpec
from attune.service.members.upstream_pool import UpstreamPool
from attune.service.observe.logs import get_logger
from attune.service.observe.metrics import Metrics

_log = get_logger(__name__)
ROSTER_FILE = "roster.json"

GivenMembers = Mapping[str, Member] | None
"""Members in place of the roster's; they are closed by whoever gave them."""

Specs = Mapping[str, MemberSpec]


class SeatingPlan(Protocol):
    """The numbers of `LoadPlan` that members need."""

    @property
    def roster(self) -> str: ...
    @property
    def threads(self) -> int: ...
    @property
    def local_max_batch(self) -> int: ...
    @property
    def local_max_waiting(self) -> int: ...


def read_specs(bundle: Bundle, plan: SeatingPlan, given: GivenMembers) -> Specs:
    """Returns the roster; nothing where members were given and no roster was, or where there are no members at all.

    Raises:
        BundleRefused: the roster cannot be used, or there is none for the members that the bundle has.
    """
    if given is not None and not plan.roster:
        return {}
    file = roster_file(bundle.path, plan.roster)
    if not plan.roster and not file.is_file():
        if bundle.portfolio.members:
            raise BundleRefused(
                f"{bundle.id} has values of {', '.join(bundle.portfolio.names)} and no roster that says where they are: "
                "name a roster file in ATTUNE_ROSTER"
            )
        return {}
    try:
        specs = read_roster(file)
        if given is None:
            check_members(specs, file.parent)
    except UnusableMember as error:
        raise BundleRefused(str(error)) from error
    return specs


def seated(bundle: Bundle, specs: Specs, given: GivenMembers) -> Bundle:
    """Returns the bundle with the members that serve: known ones first and in the bundle's order, then the others in the roster's."""
    serving, known = tuple(specs if given is None else given), bundle.portfolio.names
    absent, new = [name for name in known if name not in serving], [name for name in serving if name not in known]
    if absent:
        _log.warning("members of the bundle are left out: the roster does not name them", left_out=absent, serving=list(serving))
    if new:
        _log.warning("members begin at the prior: the bundle has no values of them", at_prior=new, measured=list(known))
    return replace(bundle, portfolio=bundle.portfolio.for_members([name for name in known if name in serving] + new))


def costs_of_members(bundle: Bundle, specs: Specs, price_share: float) -> NDArray[np.float64]:
    """Returns each member's cost in [0, 1], `[M]`, in the order of the portfolio; 0 for those that no roster describes."""
    told = [specs.get(name) for name in bundle.portfolio.names]
    prices = np.array([spec.price if spec else 0.0 for spec in told], dtype=np.float64)
    latencies_s = np.array([spec.latency_s if spec else 0.0 for spec in told], dtype=np.float64)
    return member_costs(prices, latencies_s, price_share=price_share)


def prices_of(specs: Specs) -> dict[str, float]:
    """Returns the price of a token of each member that has one."""
    return {name: spec.price for name, spec in specs.items() if spec.price}


@dataclass(frozen=True, slots=True)
class LocalRoster:
    """The local members of a roster, as they are described.

    Attributes:
        specs: by name.
        root: where relative paths of bases and adapters begin.
    """

    specs: Mapping[str, LocalSpec]
    root: Path


LocalOpener = Callable[[LocalRoster, SeatingPlan], Awaitable[Mapping[str, Member]]]
"""Gives the local members, ready to be asked."""


def local_roster(bundle: Path, roster: str) -> LocalRoster:
    """Returns the local members that would serve with the bundle in this folder; none where there is no roster.

    Raises:
        UnusableMember: the roster cannot be used.
    """
    file = roster_file(bundle, roster)
    return LocalRoster(local_specs(read_roster(file)) if roster or file.is_file() else {}, file.parent)


async def load_locals(roster: LocalRoster, plan: SeatingPlan) -> LocalMembers:
    """Returns local members with their engines, in this process.

    Raises:
        UnusableMember: a file is missing, or an adapter does not fit its base; no engine is left open.
    """
    built = build_locals(
        roster.specs, root=roster.root, threads=plan.threads or None, max_batch=plan.local_max_batch, max_waiting=plan.local_max_waiting
    )
    try:
        await asyncio.to_thread(built.load)
    except BaseException:
        await built.aclose()
        raise
    return built


async def open_own_locals(roster: LocalRoster, plan: SeatingPlan) -> Mapping[str, Member]:
    """Returns local members whose engines are in this process: a `LocalOpener`.

    Raises:
        UnusableMember: a file is missing, or an adapter does not fit its base.
    """
    return (await load_locals(roster, plan)).members


async def load_members(
    bundle: Bundle,
    specs: Specs,
    plan: SeatingPlan,
    given: GivenMembers,
    metrics: Metrics,
    connections: UpstreamPool,
    open_locals: LocalOpener,
) -> Roster:
    """Returns the members, ready to be asked.

    Raises:
        BundleRefused: one of them cannot be used; none is left open.
    """
    observers = member_observers(metrics, prices_of(specs))
    if given is not None:
        return Roster(given, observers)
    try:
        servers = build_servers(specs, connections=connections, observers=observers)
        local = await open_locals(LocalRoster(local_specs(specs), roster_file(bundle.path, plan.roster).parent), plan)
    except UnusableMember as error:
        raise BundleRefused(str(error)) from error
    members = {**servers, **local}
    return Roster({name: members[name] for name in specs}, observers)


def roster_file(bundle: Path, roster: str) -> Path:
    """Returns where the roster is, if there is one: the file that is named, else the bundle's own."""
    return Path(roster) if roster else bundle / ROSTER_FILE
