"""How much memory the store has and may have, as its server tells in INFO; over a cluster, the sum of its primaries."""

from __future__ import annotations

from dataclasses import dataclass

from attune.service.state.wire import Wire


@dataclass(frozen=True, slots=True)
class StoreMemory:
    """Memory of the store.

    Attributes:
        used_bytes: what it holds (`used_memory`).
        limit_bytes: what it may hold (`maxmemory`); None where it has no limit, or one primary of a cluster has none.
    """

    used_bytes: int
    limit_bytes: int | None


async def read_memory(wire: Wire) -> StoreMemory | None:
    """Returns the memory of the store; None where its server does not tell.

    Raises:
        StoreUnavailable, Overloaded: see `Wire.run`.
    """
    told = await wire.run("memory", lambda: wire.info("memory"))
    if not told or any("used_memory" not in each for each in told):
        return None
    limits = [int(each.get("maxmemory", 0)) for each in told]
    return StoreMemory(sum(int(each["used_memory"]) for each in told), sum(limits) if all(limits) else None)
