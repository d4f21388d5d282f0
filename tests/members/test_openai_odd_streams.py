"""Errors that come in the shapes of many servers, counts of tokens in odd places, and bodies with something around them."""

from __future__ import annotations

import json

import pytest

from attune.service.members.openai_wire import BadAnswer
from tests.members.test_openai_reading import TEXT, events, read, reader_for

FIRST = b'data: {"choices": [{"index": 0, "delta": {"content": "Hello"}, "finish_reason": null}]}\n\n'
WHOLE = json.dumps({"choices": [{"message": {"content": TEXT}, "finish_reason": "stop"}]}).encode()


@pytest.mark.parametrize(
    "told",
    [
        b'event: error\ndata: {"message": "overloaded"}\n\n',
        b"event: error\r\ndata: the worker has died\r\n\r\n",
        b"event:error\ndata:\n\n",
        b'data: {"error": "out of memory"}\n\n',
        b'data: {"error": {"message": "", "code": 502}}\n\n',
        b'data: {"detail": "Internal Server Error"}\n\n',
        b'data: {"success": false, "errors": [{"message": "no capacity"}], "choices": null}\n\n',
        b'data: {"status": "error", "message": "no credits"}\n\n',
        b'data: {"error_code": 18, "error_msg": "QPS limit reached"}\n\n',
        b'data: {"choices": null, "base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}}\n\n',
        b'data: {"object": "error", "message": "x", "code": 400}\n\n',
        b'error: {"code": 500, "message": "Compute error."}\n\ndata: [DONE]\n\n',
        b'data: {"choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "error", "error": {"code": 502}}]}\n\n',
    ],
)
@pytest.mark.parametrize("begun", [True, False])
def test_a_text_that_an_error_breaks_off_is_no_answer(told: bytes, begun: bool):
    with pytest.raises(BadAnswer) as caught:
        read((FIRST if begun else b"") + told)
    assert caught.value.reason == "upstream"
    assert caught.value.said is not None


@pytest.mark.parametrize("word", ["error", "abort", "aborted", "cancelled", "insufficient_system_resource", "network_error"])
@pytest.mark.parametrize("streamed", [True, False])
def test_a_text_that_its_server_says_it_broke_off_is_no_answer(word: str, streamed: bool):
    choice = {"index": 0, "message": {"content": TEXT}, "finish_reason": word}
    with pytest.raises(BadAnswer, match="the server ended the answer with") as caught:
        read(events(TEXT, finish=word) if streamed else json.dumps({"choices": [choice]}).encode())
    assert caught.value.reason == "upstream"


def test_what_a_filter_left_nothing_of_is_told_as_that():
    with pytest.raises(BadAnswer, match="no text came: the server's filter ended the answer"):
        read(events(finish="content_filter"))


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"prompt_tokens": 7, "completion_tokens": 3}, (7, 3)),
        ({"prompt_tokens": 7.0, "completion_tokens": 3.0}, (7, 3)),
        ({"prompt_tokens": "7", "completion_tokens": "3"}, (7, 3)),
        ({"prompt_tokens": 0, "completion_tokens": 0}, (1, 1)),
        ({"prompt_tokens": -7, "completion_tokens": 3}, (1, 1)),
        ({"prompt_tokens": 7.5, "completion_tokens": 3}, (1, 1)),
        ({"prompt_tokens": "seven", "completion_tokens": "3"}, (1, 1)),
        ({"prompt_tokens": True, "completion_tokens": 3}, (1, 1)),
    ],
)
@pytest.mark.parametrize("in_choice", [True, False])
def test_tokens_are_the_servers_where_it_has_counted_them_and_else_our_own(
    usage: dict[str, object], tokens: tuple[int, int], in_choice: bool
):
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"} | ({"usage": usage} if in_choice else {})]}
    end |= {} if in_choice else {"usage": usage}
    _, finish = read(FIRST + b"data: " + json.dumps(end).encode() + b"\n\n")
    assert (finish.prompt_tokens, finish.completion_tokens) == tokens


@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf", b"\n \r\n", b" " * 500, b"\n" * 100 + b"\xef\xbb\xbf"])
@pytest.mark.parametrize("media_type", ["application/json", "text/event-stream", "", "text/html"])
@pytest.mark.parametrize("body", [WHOLE, events("Hello there", "!")])
@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_what_keeps_a_connection_open_before_an_answer_is_no_part_of_it(before: bytes, media_type: str, body: bytes, size: int):
    reader, sent = reader_for(media_type=media_type), before + body
    text = "".join(reader.push(sent[at : at + size]) for at in range(0, len(sent), size))
    assert text + reader.end()[0] == TEXT


def test_an_object_that_has_arrived_whole_is_an_answer_although_more_was_announced():
    reader = reader_for(media_type="application/json")
    reader.push(WHOLE)
    reader.broken = "the connection broke"
    assert reader.end()[0] == TEXT


def test_an_object_that_has_not_is_none():
    reader = reader_for(media_type="application/json")
    reader.push(WHOLE[:-1])
    reader.broken = "the connection broke"
    with pytest.raises(BadAnswer, match="the connection broke"):
        reader.end()


def test_an_object_of_several_lines_is_one_event():
    lines = json.dumps(
        {"choices": [{"index": 1, "delta": {}}, {"index": 0, "delta": {"content": TEXT}, "finish_reason": "stop"}]}, indent=1
    )
    assert read(b"".join(b"data: " + line.encode() + b"\n" for line in lines.splitlines()) + b"\n")[0] == TEXT


def numbered(*pieces: tuple[object, str]) -> bytes:
    chunks = [{"choices": [{"index": index, "delta": {"content": text}}]} for index, text in pieces]
    return b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks) + b"data: [DONE]\n\n"


@pytest.mark.parametrize("index", [0, "0", 1, "a", None])
def test_the_only_choice_is_the_answer_whatever_its_number(index: object):
    assert read(numbered(*((index, text) for text in ("Hello", ", you"))))[0] == "Hello, you"
    whole = {"choices": [{"index": index, "message": {"content": TEXT}, "finish_reason": "stop"}]}
    assert read(json.dumps(whole).encode(), media_type="application/json")[0] == TEXT


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize(
    ("content", "answer"),
    [("Sure. <think>hm", [("Sure. <think>hm", False)]), ("<think>hm", []), ("<think>hm</think>Sure.", [("Sure.", False)]), ("", [])],
)
def test_a_refusal_is_no_part_of_a_thought_that_did_not_close(content: str, answer: list[tuple[str, bool]], streamed: bool):
    deltas = [{"content": content}, {"refusal": "I can"}, {"refusal": "not."}]
    chunks = [b"data: " + json.dumps({"choices": [{"index": 0, "delta": delta}]}).encode() + b"\n\n" for delta in deltas]
    whole = {"choices": [{"message": {"content": content, "refusal": "I cannot."}, "finish_reason": "stop"}]}
    reader = reader_for(media_type="text/event-stream" if streamed else "application/json")
    pieces = reader.pieces(reader.push(b"".join(chunks) if streamed else json.dumps(whole).encode()))
    pieces += reader.pieces(reader.end()[0])
    assert [(piece.text, piece.refuses) for piece in pieces] == [*answer, ("I cannot.", True)]


def test_a_whole_answer_of_nothing_but_a_thought_is_told_as_that():
    reader = reader_for(media_type="application/json")
    reader.push(json.dumps({"choices": [{"message": {"content": "<think>hm"}, "finish_reason": "stop"}]}).encode())
    with pytest.raises(BadAnswer, match="no text came, only thoughts"):
        reader.end()


@pytest.mark.parametrize("numbers", [(0, 1), (1, 2), (2, 0)])
def test_of_several_choices_the_first_that_comes_is_read_to_its_end(numbers: tuple[int, int]):
    first, other = numbers
    assert read(numbered((first, "Hello"), (other, "Hi"), (first, ", you"), (other, "!")))[0] == "Hello, you"


@pytest.mark.parametrize(
    ("pieces", "last", "whole"),
    [
        (["Hel", "lo, ", "you all"], "Hello, you all", "Hello, you all"),
        (["Hel", "lo, ", "you"], "you", "Hello, youyou"),
        (["Hello, you all"], "Hello, you all", "Hello, you allHello, you all"),
        (["2", "0"], "20", "2020"),
        (["ha", "ha"], "haha", "hahahaha"),
        ([], "Hello", "Hello"),
    ],
)
def test_an_answer_that_its_last_delta_says_again_is_read_once(pieces: list[str], last: str, whole: str):
    choices = [{"index": 0, "delta": {"content": piece}, "finish_reason": None} for piece in pieces]
    choices.append({"index": 0, "delta": {"content": last}, "finish_reason": "stop"})
    told = b"".join(b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n" for choice in choices)
    text, finish = read(told + b"data: [DONE]\n\n")
    assert (text, finish.reason) == (whole, "stop")


WHOLE_REFUSAL = json.dumps({"choices": [{"message": {"content": "Well, no. ", "refusal": "I will not."}, "finish_reason": "stop"}]})


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize(
    "deltas",
    [
        [{"content": "Well, "}, {"content": "no. "}, {"refusal": "I will "}, {"refusal": "not."}],
        [{"content": "Well, "}, {"content": "no. ", "refusal": "I will "}, {"refusal": "not."}],
        [],
    ],
)
def test_what_is_said_in_place_of_an_answer_is_told_from_what_stood_before_it(deltas: list[dict[str, str]], at_once: bool):
    told = [b"data: " + json.dumps({"choices": [{"index": 0, "delta": delta}]}).encode() + b"\n\n" for delta in deltas]
    told = told or [WHOLE_REFUSAL.encode()]
    reader = reader_for()
    pieces = [piece for part in ([b"".join(told)] if at_once else told) for piece in reader.pieces(reader.push(part))]
    if deltas:
        reader.push(b"data: [DONE]\n\n")
    pieces += reader.pieces(reader.end()[0])
    said = {refuses: "".join(piece.text for piece in pieces if piece.refuses is refuses) for refuses in (False, True)}
    assert said == {False: "Well, no. ", True: "I will not."}


def test_a_refusal_that_was_thought_about_in_its_own_text_is_still_a_refusal():
    told = json.dumps({"choices": [{"message": {"refusal": "<think>Better not.</think>I will not."}, "finish_reason": "stop"}]})
    reader = reader_for()
    pieces = [*reader.pieces(reader.push(told.encode())), *reader.pieces(reader.end()[0])]
    assert [(piece.text, piece.refuses) for piece in pieces] == [("I will not.", True)]
