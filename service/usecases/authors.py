"""The members as authors of answers: what they are worth now, and what scored answers and comparisons add to that.

    tenant's sums of members, read at most once a second ─> Standing     scored answers ─> tally ─> those sums, within a second
    authors' names ─> codes of the comparisons ─> Families.study_all ─> the user's slice ─> log, sum
                                              └─> Everyone ─> the tenant's sum of everybody, with the members' sums, within a second

With the store away routing goes on from what was read last, or from the bundle's measurement. How much counted for everybody stands in
the log and beside what a replay added, so that taking a comparison back takes that back as well under the basis that serves, to the bit;
under one that serves no more it stays. Deleting a user leaves it too: a sum over all users holds nobody.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attune.models.seam.evidence import quantise
from attune.models.seam.family import Row
from attune.models.seam.member_effects import code_of
from attune.models.seam.weighted import Codes, Compared
from attune.service.errors import Overloaded, StoreUnavailable
from attune.service.live.runtime import Call
from attune.service.live.standing import EVERYBODY, Standing, kept_under
from attune.service.observe.logs import get_logger
from attune.service.state.store import LoggedComparison

Array = NDArray[np.float64]
_log = get_logger(__name__)

TOLD = "everybody"
"""Field of a comparison in the log: how much of it counts for everybody, and its two losses."""


@dataclass(frozen=True, slots=True)
class Everyone:
    """What a comparison adds to everybody's sum: its share of the user's evidence of authors, and two losses."""

    share: float
    losses: tuple[float, float]


async def read_standing(call: Call) -> Standing:
    """Returns what the members are worth to the caller's tenant; as last known where the sums cannot be read."""
    serving, tenant = call.serving, call.caller.tenant
    try:
        return serving.standings.of(tenant, await call.runtime.store.read_members(tenant, kept_under(serving.bundle.basis)))
    except (StoreUnavailable, Overloaded):  # counted as an operation of the store that failed
        return serving.standings.last(tenant)
    except ValueError as error:
        _log.error("the sums of the members cannot be read; routing goes by what was measured", tenant=tenant, reason=str(error))
        return serving.standings.last(tenant)


def saw_answers(call: Call, members: Sequence[str], rows: Sequence[Row]) -> None:
    """Takes in scored answers of members, for their sums.

    Args:
        call: the request that they answer.
        members: the author of each.
        rows: the scorer's outputs for each.
    """
    layout, basis = call.serving.standings.layout, kept_under(call.serving.bundle.basis)
    for member, row in zip(members, rows, strict=True):
        call.runtime.tally.saw(call.caller.tenant, basis, member, layout.evidence(row))


def codes_of(call: Call, authors: Sequence[str] | None) -> Codes:
    """Returns the codes of answers' authors, in their order; None where one is not known, or the bundle has no member effects."""
    effects = call.serving.bundle.families.effects
    if effects is None or authors is None:
        return None
    return [code_of(author, effects.size) for author in authors]


def code_of_usual(call: Call) -> Array:
    """Returns the mean code of the members: who would have answered otherwise."""
    effects, names = call.serving.bundle.families.effects, call.serving.bundle.portfolio.names
    assert effects is not None
    mean: Array = np.mean([code_of(name, effects.size) for name in names], axis=0)
    return mean


async def for_everybody(call: Call, known: Array, comparisons: Sequence[Compared]) -> Everyone | None:
    """Returns what comparisons tell of authors for everybody; None where they tell nothing of them.

    Args:
        call: the request.
        known: `[E]`, the user's sum as it stood.
        comparisons: told as one.
    """
    if not any(one.direction is not None and one.direction.any() for one in comparisons):
        return None
    everybody = (await read_standing(call)).everybody()
    if everybody is None:
        return None
    share, lost = call.serving.bundle.families.tell_everybody(known, comparisons, everybody)
    return Everyone(share, (float(lost[0]), float(lost[1])))


def add_for_everybody(call: Call, tenant: str, told: Everyone | None, evidence: Array) -> None:
    """Adds what an applied comparison with this evidence `[E]` tells of authors to the sum of everybody."""
    if told is not None:
        call.runtime.tally.saw(tenant, kept_under(call.serving.bundle.basis), EVERYBODY, _vector(call, told, evidence))


def told_everybody(told: Everyone) -> dict[str, object]:
    """Returns what is kept of it beside the comparison, by which `take_back_for_everybody` subtracts it."""
    return {TOLD: [told.share, *told.losses]}


def take_back_for_everybody(call: Call, tenant: str, logged: LoggedComparison, content: Mapping[str, object]) -> None:
    """Subtracts what a comparison that was taken back had told of authors."""
    told = content.get(TOLD)
    if not isinstance(told, list) or logged.basis != call.kept_under or call.serving.bundle.families.effects is None:
        return
    share, *lost = map(float, told)
    evidence = call.runtime.decay.read(logged.evidence, logged.epoch, logged.observed_s)
    vector = _vector(call, Everyone(share, (lost[0], lost[1])), evidence)
    call.runtime.tally.saw(tenant, kept_under(call.serving.bundle.basis), EVERYBODY, vector, times=-1)


def _vector(call: Call, told: Everyone, evidence: Array) -> Array:
    # On the grid, so that a sum over all users does not depend on their order, and what is taken back is what was added.
    return quantise(np.concatenate([told.share * call.serving.bundle.families.effects_part(evidence), told.losses]))
