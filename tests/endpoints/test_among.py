"""The draw among some of the members, as `/route`, `/generate` and chats ask for it."""

from __future__ import annotations

import pytest

from attune.service.members.member import OneMemberFailed
from tests.endpoints.conftest import PROMPT, Service


@pytest.mark.parametrize("path", ["/route", "/generate"])
async def test_one_of_some_members_is_drawn(service: Service, path: str):
    seen = set()
    for number in range(12):
        told = await service.post(path, {"user": f"u{number}", "prompt": PROMPT, "among": ["warm", "concise"]})
        assert set(told["routing"]["propensities"]) == {"concise", "warm"}
        assert sum(told["routing"]["propensities"].values()) == pytest.approx(1.0)
        seen.add(told["routing"]["member"])
    assert seen == {"warm", "concise"}
    body = {"user": "u", "prompt": PROMPT}
    both = await service.post(path, body | {"among": ["warm", "concise"], "candidates": 2})
    assert sorted(both["routing"]["members"]) == ["concise", "warm"]
    for wrong, status, field in (
        ({"among": ["warm"], "candidates": 2}, 422, "candidates"),
        ({"among": ["warm"], "member": "warm"}, 422, "among"),
        ({"among": []}, 422, "among"),
        ({"among": ["nobody"]}, 404, None),
    ):
        told = await service.post(path, body | wrong, status)
        assert field is None or field in [one["field"] for one in told["errors"]]


async def test_a_chat_too_can_be_among_some(service: Service):
    body = {"model": "auto", "messages": [{"role": "user", "content": PROMPT}], "attune": {"among": ["warm"]}}
    for number in range(6):
        told = await service.post("/v1/chat/completions", body | {"user": f"u{number}"})
        assert told["choices"][0]["member"] == "warm"


async def test_who_stands_in_is_among_those_asked(service: Service):
    service.members["warm"].failure = OneMemberFailed("warm", "connect", "no connection")
    told = await service.post("/generate", {"user": "u", "prompt": PROMPT, "among": ["warm", "concise"], "policy": "uniform"})
    assert told["candidates"][0]["member"] == "concise"
