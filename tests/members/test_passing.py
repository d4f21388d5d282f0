"""What is passed on as its caller wrote it stays out of foreign words, and is not searched for every piece of an answer."""

from __future__ import annotations

from collections.abc import ItemsView
from typing import Any

import pytest

from attune.service.members.member import ChatTurn, GenerationRequest, PassedFieldRefused
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
