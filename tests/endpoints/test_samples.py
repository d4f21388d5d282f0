"""How many posterior samples a decision takes: as many as were set, until they would hold the event loop."""

from __future__ import annotations

import pytest

from attune.service.live.runtime import RoutingNumbers


@pytest.mark.parametrize(
    ("samples", "members", "taken"),
    [(256, 6, 256), (256, 0, 256), (8192, 8, 8192), (8192, 24, 2730), (256, 400, 163), (256, 10_000, 16)],
)
def test_samples_times_members_is_bounded(samples: int, members: int, taken: int) -> None:
    assert RoutingNumbers(0.05, 0.0, 0.0, samples).samples_for(members) == taken
