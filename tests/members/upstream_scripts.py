"""Scripted upstreams for the tests of the server member, and a short way to a failure."""

from __future__ import annotations

import pytest

from attune.service.members.member import OneMemberFailed
from loadtest.upstream_modes import good, hang_up, refusing
from tests.members.asking import ask, collect

KEY = "sk-very-secret-key-0123456789"

__all__ = ["KEY", "fails", "good", "hang_up", "refusing"]


async def fails(member, request=None, deadline_s=None) -> OneMemberFailed:
    with pytest.raises(OneMemberFailed) as caught:
        await collect(member, request or ask(), deadline_s)
    return caught.value
