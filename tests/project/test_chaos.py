"""A second of what `python -m loadtest.chaos` does in minutes: a store that is killed under load loses and doubles nothing."""

from __future__ import annotations

from loadtest.chaos.__main__ import run
from tests.tiny_bundle import write_tiny_bundle


async def test_what_was_acknowledged_around_kills_of_the_store_is_there_once(tmp_path):
    (row,) = await run(["kill-store"], write_tiny_bundle(tmp_path), seconds=1, clients=4)
    assert row.ok, str(row)
    assert row.statuses["200"] > 0
