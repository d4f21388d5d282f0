"""A chat may be as long as its members read: they get all of it, and its end is scored, kept and learned from."""

from __future__ import annotations

from typing import Any

import pytest

from attune.models.seam.text import conversation_text
from attune.service.api.openai_turns import last_turns
from attune.service.api.prompted import MAX_MESSAGES, Message
from tests.endpoints.conftest import PROMPT, Service, running
from tests.stores import FreshStore

CHAT = "/v1/chat/completions"


def said(*turns: tuple[str, str]) -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for role, content in turns]


@pytest.fixture
async def service(settings_of):
    async with running(settings_of(max_prompt_chars=100), FreshStore()) as service:
        yield service


@pytest.mark.parametrize(
    ("path", "field"),
    [(CHAT, "messages"), ("/v1/responses", "input")],
)
async def test_members_read_all_of_it_and_the_end_is_kept(service: Service, path: str, field: str):
    turns = [("system", "Be kind."), ("user", "egg " * 60), ("assistant", "Well."), ("user", f"{'boil ' * 30}{PROMPT}")]
    told = await service.post(path, {"model": "warm", "user": "u", field: said(*turns)})
    (asked,) = service.members["warm"].asked
    assert [(turn.role, turn.content) for turn in asked.messages] == turns
    decision = await service.get(f"/decisions/{told['attune']['decision_id']}")
    assert decision["prompt"] == f"{'boil ' * 30}{PROMPT}"[-100 + len("user: ") + 1 :]


async def test_answers_in_a_long_conversation_can_be_learned_from(service: Service):
    turns = said(*([("user", f"egg {n} please"), ("assistant", "water .")][n % 2] for n in range(301)))
    found = [await service.post(CHAT, {"model": name, "user": "u", "messages": turns}) for name in ("warm", "concise")]
    chosen, rejected = (one["choices"][0]["candidate_id"] for one in found)
    body = {"user": "u", "event_id": "e", "chosen": chosen, "rejected": rejected}
    assert (await service.post("/feedback", body))["result"] == "applied"
    assert len(service.members["warm"].asked[0].messages) == 301


async def test_a_native_prompt_is_still_as_long_as_the_limit_says(service: Service):
    await service.post("/generate", {"user": "u", "messages": said(("user", "egg " * 60))}, 413)


def turns_of(*contents: str) -> list[Message]:
    return [Message(role="user" if index % 2 == 0 else "assistant", content=content) for index, content in enumerate(contents)]


@pytest.mark.parametrize(
    ("contents", "kept"),
    [
        (["abc", "de", "f"], ["abc", "de", "f"]),
        (["abcdefgh", "de", "f"], ["cdefgh", "de", "f"]),
        (["abc", "d" * 50], ["d" * 23]),
        (["abc", "d" * 23], ["d" * 23]),
        (["abc", f"de{' ' * 50}"], ["abc", "de"]),
        (["abc"] * (2 * MAX_MESSAGES), ["abc", "abc"]),
        ([f"{'d' * 30}"], ["d" * 28]),
    ],
)
def test_the_end_is_as_much_as_there_is_room_for(contents: list[str], kept: list[str]):
    found = last_turns(turns_of(*contents), 35)
    assert len(conversation_text([(turn.role, turn.content) for turn in found])) <= 35
    assert [turn.content for turn in found] == kept
    assert [turn.role for turn in found] == [turn.role for turn in turns_of(*contents)][-len(kept) :]


def test_no_more_turns_are_kept_than_a_native_request_has():
    assert len(last_turns(turns_of(*["a"] * (MAX_MESSAGES + 7)), 10_000)) == MAX_MESSAGES
