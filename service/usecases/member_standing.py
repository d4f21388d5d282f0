"""The members as a request finds them, and what their answers add to them.

A tenant's sums of members are read at most once a second by a process, and written by `live.member_tally` after the request. With the
store away routing goes on from what was read last, or from the bundle's measurement.
"""

from __future__ import annotations

from collections.abc import Sequence

from attune.models.seam.family import Row
from attune.service.errors import Overloaded, StoreUnavailable
from attune.service.live.runtime import Call
from attune.service.live.standing import Standing, kept_under
from attune.service.observe.logs import get_logger

_log = get_logger(__name__)


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
