"""What is passed on as its caller wrote it stays out of foreign words, and is not searched for every piece of an answer."""

from __future__ import annotations

from collections.abc import ItemsView
from typing import Any

import pytest

from attune.service.members.member import ChatTurn, GenerationRequest, OneMemberFailed, PassedFieldRefused
from attune.service.members.openai_server import OpenAIServer
from attune.service.members.passing import Passed
from attune.service.members.redaction import told_word, without_request
from attune.service.members.spec import OpenAISpec
from attune.service.members.upstream_pool import UpstreamPool
from loadtest.upstream import Turn
from tests.members.asking import ask, collect

SCHEMA = {"type": "object", "properties": {"patient_name": {"enum": ["Rosalind"]}, "dose": {"type": "integer"}}}
TOOLS = {"tools": {"tools": [{"type": "function", "function": {"name": "prescribe", "parameters": SCHEMA}}]}}


def request_with(passed: Passed) -> GenerationRequest:
    return GenerationRequest((ChatTurn("user", "hi"),), 10, passed=passed)


@pytest.mark.parametrize("word", ["patient_name", "dose", "prescribe", "Rosalind"])
def test_neither_names_nor_values_of_a_schema_are_told(word: str):
    request = request_with(Passed(TOOLS))
    assert word not in without_request(f"'{word}' is not a field that {word}s of it may have", request)
    assert told_word(word, request) is None
    assert word in without_request(f"'{word}' is not a field", request_with(Passed({})))


def test_the_name_of_the_field_itself_can_be_told():
    assert "`tools`" in without_request("`tools` can not be used", request_with(Passed(TOOLS)))


@pytest.mark.parametrize(
    ("said", "left"),
    [("unrosalindly", "…"), ("RosaLIND", "…"), ("Rosa", "…"), ("rosy", "rosy"), ("a ros", "… …")],
)
def test_a_word_of_the_conversation_is_cut_as_a_whole_in_a_longer_one_and_in_part(said: str, left: str):
    assert without_request(said, request_with(Passed({}, ({"role": "user", "content": "Rosalind"},)))) == left


async def test_a_server_that_takes_nothing_of_what_is_passed_is_told_of_once(upstream, member_with, caplog):
    async def refuses(turn: Turn) -> None:
        await turn.refuse(400, {"error": {"message": "the model does not support tools such as prescribe"}})

    upstream.answers(refuses)
    member = member_with(passes=["tools"])
    for _ in range(2):
        with pytest.raises(PassedFieldRefused):
            await collect(member, ask(passed=Passed(TOOLS)))
    assert [record.getMessage() for record in caplog.records] == [
        "member gpt: the upstream refuses a request with tools passed on; where it always does, `passes` can leave it out"
    ]


def at(*path: object) -> dict[str, Any]:
    return {"detail": [{"type": "value_error", "loc": ["body", *path], "msg": "no"}]}


LISTED = {"object": "error", "message": "[{'type': 'value_error', 'loc': ('body', 'tools', 0, 'function'), 'msg': 'no'}]", "code": 400}


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"error": {"message": "no", "param": "tools[0].function.name"}}, "tools"),
        ({"error": {"message": "no", "param": "temperature"}}, "temperature"),
        ({"error": {"message": "no", "param": "max_tokens"}}, "max_tokens"),
        ({"error": {"message": "no", "param": "messages.[3].content"}}, "messages"),
        (at("tools", 0, "function", "name"), "tools"),
        ({"message": at("tools", 0)}, "tools"),
        (LISTED, "tools"),
    ],
    ids=str,
)
async def test_the_field_in_which_a_server_finds_a_fault_is_the_one_that_is_told(upstream, member_with, said, field):
    async def refuses(turn: Turn) -> None:
        await turn.refuse(400, said)

    upstream.answers(refuses)
    passed = Passed({**TOOLS, "top_k": {"top_k": 3}}, ({"role": "user", "content": "hi"},))
    with pytest.raises(PassedFieldRefused, match=f"its server refuses the field {field} of this request: HTTP 400"):
        await collect(member_with(passes=["tools", "top_k"]), ask(passed=passed, temperature=1.5))


@pytest.mark.parametrize("param", ["model", "messages[1].role"])
async def test_what_was_passed_is_not_blamed_for_a_fault_that_is_found_elsewhere(upstream, member_with, param):
    async def refuses(turn: Turn) -> None:
        await turn.refuse(400, {"error": {"message": "no", "param": param}})

    upstream.answers(refuses)
    with pytest.raises(OneMemberFailed, match=r": HTTP 400$") as failed:
        await collect(member_with(passes=["tools", "top_k"]), ask(passed=Passed({"top_k": {"top_k": 3}})))
    assert failed.value.reason == "refused"


class Read(dict[str, Any]):
    """A message that counts how often it is read."""

    times = 0

    def items(self) -> ItemsView[str, Any]:
        self.times += 1
        return super().items()


async def test_a_conversation_is_searched_once_for_a_field_that_comes_with_each_piece():
    message = Read(role="user", content="hi")
    request = request_with(Passed({}, (message,)))
    async with UpstreamPool(environ={}) as pool:
        server = OpenAIServer("m", OpenAISpec(base_url="http://127.0.0.1/v1", model="m"), pool, {}, float, 0.0)
        for _ in range(50):
            server.note(request, "field", "delta.reasoning")
        assert message.times == 1
        for number in range(99):
            server.note(request, "field", f"delta.field{number}")
    assert message.times < 50
