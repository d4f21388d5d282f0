"""What the members of a bundle are worth to a tenant now: their measurement in the bundle, and the sums of what they have answered since.

    sums of a tenant (at most a second old) ─> Standings.of ─> Standing: Gaussians over the values, drift, shares served

One computation for each new reading of the sums, whoever asks meanwhile; the mathematics is `models.seam.member_worth`'s. `M` members,
`K` heads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from attune.models.seam.bundle import Bundle
from attune.models.seam.family import Row
from attune.models.seam.member_effects import Everybody, MemberEffects
from attune.models.seam.member_evidence import VERSION, EvidenceLayout, ObservedRewards, nothing_observed
from attune.models.seam.member_worth import Drift, Known, Worth, drift_of, within_covariance, worth_of
from attune.models.seam.portfolio import Portfolio
from attune.service.state.store import MemberSum, Part

Array = NDArray[np.float64]
Sums = Mapping[str, MemberSum]

DRIFTING = 4.0
"""Standard errors of drift from which on a member may have changed; the alert is at 6."""

INTERVAL = 1.96
"""Standard errors in the half width of a portfolio's 95 % intervals."""


EVERYBODY = "*"
"""Beside the members' sums: what all comparisons whose authors are known say of everybody's effects. No member can have this name."""


def kept_under(basis: str) -> str:
    """Returns the name under which members' sums are kept: those of another layout mean nothing."""
    return f"{basis}-{VERSION}"


@dataclass(frozen=True, slots=True)
class Standing:
    """The members as they stand under one reading of their sums.

    Attributes:
        sums: by member's name; those of members that do not serve are there too and are not looked at.
    """

    portfolio: Portfolio
    layout: EvidenceLayout
    sums: Sums
    effects: MemberEffects | None = None
    _worth: dict[str, Worth] = field(default_factory=dict)
    _everybody: list[Everybody] = field(default_factory=list)
    _seen: dict[str, list[Known]] = field(default_factory=dict)

    def worth(self, family: str) -> Worth:
        """Returns Gaussians over the members' values under one family, on an average prompt."""
        if family not in self._worth:
            self._worth[family] = worth_of(self.known(family))
        return self._worth[family]

    def everybody(self) -> Everybody | None:
        """Returns what is known of the members' effects before anything is known of a user; None where the bundle has none."""
        if self.effects is None or not self.portfolio.names:
            return None
        if not self._everybody:
            kept = self.sums.get(EVERYBODY)
            others = sorted(name for name in self.sums if name != EVERYBODY)
            self._everybody.append(self.effects.everybody(self.portfolio.names, None if kept is None else kept.total.vector, others))
        return self._everybody[0]

    def values(self, family: str, prompt: Row | None) -> tuple[Array, Array]:
        """Returns the members' values for a prompt, mean `[M, K]` and covariance `[M, K, K]`.

        How a value moves with the prompt is the bundle's; where it lies is what all evidence says.
        """
        worth, usual = self.worth(family), self.portfolio.values[family]
        if prompt is None:
            return worth.mean, worth.covariance
        return worth.mean + (self.portfolio.values_for(family, prompt) - usual), worth.covariance

    def known(self, family: str) -> list[Known]:
        """Returns what is known of each member under a family, in the portfolio's order."""
        if family not in self._seen:
            self._seen[family] = self._known(family)
        return self._seen[family]

    def _known(self, family: str) -> list[Known]:
        values, widths = self.portfolio.values[family], self.portfolio.intervals[family]
        found = []
        for index, name in enumerate(self.portfolio.names):
            measured = None if name in self.portfolio.unmeasured else (values[index], widths[index] / INTERVAL)
            kept, nothing = self.sums.get(name), nothing_observed(values.shape[1])
            if kept is None:
                found.append(Known(measured, nothing, nothing))
                continue
            recent = self._observed(family, kept.window) + self._observed(family, kept.window_before)
            before = self._observed(family, kept.month_before)
            earlier = self._observed(family, kept.total) - recent
            found.append(Known(measured, earlier, recent, before if before.count > 0 else None))
        return found

    def drift(self, family: str) -> dict[str, Drift | None]:
        """Returns the drift of each member under a family; None where too little is known."""
        known = self.known(family)
        within = within_covariance(known, self.layout.heads[family])
        return {name: drift_of(member, within) for name, member in zip(self.portfolio.names, known, strict=True)}

    def answers(self, name: str) -> MemberSum | None:
        """Returns the sums of a member; None of one that has answered nothing."""
        return self.sums.get(name)

    def shares(self) -> dict[str, float]:
        """Returns each member's share of the answers that were scored this month; zeros where there were none."""
        latest = max((kept.month for name, kept in self.sums.items() if name != EVERYBODY), default=0)
        names = self.portfolio.names
        counts = {name: kept.this_month.count if (kept := self.sums.get(name)) and kept.month == latest else 0.0 for name in names}
        total = sum(counts.values())
        return {name: count / total if total else 0.0 for name, count in counts.items()}

    def _observed(self, family: str, part: Part) -> ObservedRewards:
        return self.layout.observed(family, part.count, part.vector)


class Standings:
    """The standing of each tenant, computed once for each reading of its sums.

    Args:
        bundle: with the members that serve.
        family: under which drift is told.
        tell: told of a member's drift in standard errors, the greatest over tenants; 0 where nothing is known.
    """

    def __init__(self, bundle: Bundle, family: str, tell: Callable[[str, float], None] = lambda *_: None) -> None:
        self._portfolio = bundle.portfolio
        self._layout = EvidenceLayout.of(bundle.families)
        self._effects = bundle.families.effects
        self._family = family
        self._tell = tell
        self._known: dict[str, Standing] = {}
        self._drift: dict[str, dict[str, float]] = {}

    @property
    def layout(self) -> EvidenceLayout:
        """Of the sums' vectors."""
        return self._layout

    def last(self, tenant: str) -> Standing:
        """Returns the standing as it was when the sums were last read; that of the bundle's measurement before that."""
        return self._known.get(tenant) or Standing(self._portfolio, self._layout, {}, self._effects)

    def changing(self, tenant: str) -> bool:
        """Returns whether a member of a tenant seemed to change when the sums were last read."""
        return any(drift >= DRIFTING for drift in self._drift.get(tenant, {}).values())

    def known(self, tenant: str, answers: int) -> bool:
        """Returns whether a tenant's members were known by so many scored answers each when the sums were last read.

        A member that has answered less keeps all of them unknown, so that at any one time the same share of everybody's answers is
        scored, and the shares of the answers that were scored are those of the answers.
        """
        sums = self.last(tenant).sums
        counts = (sums[name].total.count if name in sums else 0.0 for name in self._portfolio.names)
        return all(count >= answers for count in counts)

    def of(self, tenant: str, sums: Sums) -> Standing:
        """Returns the standing under these sums.

        Raises:
            ValueError: a sum is not of these families.
        """
        known = self._known.get(tenant)
        if known is not None and known.sums is sums:
            return known
        fresh = Standing(self._portfolio, self._layout, sums, self._effects)
        fresh.worth(self._family)
        self._drift[tenant] = {name: drift.errors for name, drift in fresh.drift(self._family).items() if drift is not None}
        for name in self._portfolio.names:
            self._tell(name, max((drift.get(name, 0.0) for drift in self._drift.values()), default=0.0))
        self._known[tenant] = fresh
        return fresh
