"""How much memory the store has and may have, and what of it may go, as its server tells in INFO; over a cluster, of all its primaries."""

from __future__ import annotations

from dataclasses import dataclass

from attune.service.state.wire import Wire


@dataclass(frozen=True, slots=True)
class StoreMemory:
    """Memory of the store.

    Attributes:
        used_bytes: what it holds (`used_memory`).
        limit_bytes: what it may hold (`maxmemory`); None where it has no limit, or one primary of a cluster has none.
        doubts: why what it acknowledged may go: it removes keys when it is full, keeps no file of its writes, or takes writes that no
            replica has while it has some.
    """

    used_bytes: int
    limit_bytes: int | None
    doubts: tuple[str, ...] = ()


async def read_memory(wire: Wire) -> StoreMemory | None:
    """Returns the memory of the store; None where its server does not tell.

    Raises:
        StoreUnavailable, Overloaded: see `Wire.run`.
    """
    told = await wire.run("memory", lambda: wire.info("memory"))
    if not told or any("used_memory" not in each for each in told):
        return None
    limits = [int(each.get("maxmemory", 0)) for each in told]
    kept = await wire.run("memory", lambda: wire.info("persistence"))
    policies = {str(each.get("maxmemory_policy", "noeviction")) for each, limit in zip(told, limits, strict=True) if limit} - {"noeviction"}
    doubts = [f"it removes users when it is full (maxmemory-policy {policy}; noeviction keeps them)" for policy in sorted(policies)]
    if any(str(each.get("aof_enabled", 1)) == "0" for each in kept):
        doubts.append("it keeps no append-only file: when it ends, what came since its last snapshot is lost")
    copied = await wire.run("memory", lambda: wire.info("replication"))
    # The second stands there where that setting is not 0, as it is by default.
    if any(int(each.get("connected_slaves", 0)) and "min_slaves_good_slaves" not in each for each in copied):
        doubts.append(
            "it writes on while its replicas are gone, as to one that was promoted: what it takes then is lost (min-replicas-to-write 1)"
        )
    return StoreMemory(sum(int(each["used_memory"]) for each in told), sum(limits) if all(limits) else None, tuple(doubts))
