"""Scripted upstreams for the tests of the server member."""

from __future__ import annotations

import pytest

from attune.service.members.member import OneMemberFailed
from tests.members.asking import ask, collect

KEY = "sk-very-secret-key-0123456789"


async def good(turn):
    await turn.head()
    for text in ("Hello", " there", "!"):
        await turn.text(text)
    await turn.finish()


def refusing(status, body=None, **headers):
    async def script(turn):
        await turn.refuse(status, body if body is not None else {"error": {"message": f"status {status}"}}, **headers)

    return script


async def hang_up(turn):
    turn.hang_up()


async def fails(member, request=None, deadline_s=None) -> OneMemberFailed:
    with pytest.raises(OneMemberFailed) as caught:
        await collect(member, request or ask(), deadline_s)
    return caught.value
