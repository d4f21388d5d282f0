"""What servers really send: a text that has arrived whole is an answer, and what is none is one member's failure."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attune.service.members.member import ChatTurn, GenerationRequest
from attune.service.members.openai_answer import AnswerReader
from attune.service.members.openai_wire import BadAnswer
from attune.service.members.spec import OpenAISpec
from loadtest.upstream_modes import AWAY, COMPLETE, ENDLESS, UNUSABLE, refusing, says, sends, stream_of
from tests.members.asking import ask, collect
from tests.members.upstream_scripts import fails

SPEC = OpenAISpec(base_url="http://127.0.0.1/v1", model="m")
TEXT = "Hello there!"


def reader_for(max_tokens=64, stop=(), media_type="text/event-stream", **spec):
    request = GenerationRequest((ChatTurn("user", "Hi"),), max_tokens, 1.0, 1.0, stop)
    return AnswerReader(request, SPEC.model_copy(update=spec), media_type, lambda *_told: None)


def events(*texts, finish="stop"):
    chunks = [{"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]} for text in texts]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    return b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks) + b"data: [DONE]\n\n"


def read(body, **more):
    reader = reader_for(**more)
    text = reader.push(body)
    rest, finish = reader.end()
    return text + rest, finish


@pytest.mark.parametrize("mode", sorted(COMPLETE))
@pytest.mark.parametrize("streamed", [True, False])
async def test_a_text_that_has_arrived_whole_is_an_answer(upstream, member_with, mode, streamed):
    upstream.answers(COMPLETE[mode])
    member = member_with(failures_to_open=1)
    text, finish = await collect(member, ask(streamed=streamed))
    assert (text, finish.reason, member.breaker) == (TEXT, "stop", "closed")


@pytest.mark.parametrize("mode", sorted(UNUSABLE))
@pytest.mark.parametrize("streamed", [True, False])
async def test_an_answer_without_a_text_is_a_failure_that_never_opens_the_breaker(upstream, member_with, mode, streamed):
    upstream.answers(UNUSABLE[mode])
    member = member_with(failures_to_open=1)
    error = await fails(member, ask(streamed=streamed))
    assert (error.reason, member.breaker) == ("content", "closed")
    assert len(upstream.turns) == 1


@pytest.mark.parametrize("mode", ["cut-off", "hang-up", "page", "500", "no-credit-under-200"])
async def test_what_the_next_request_would_meet_too_opens_it(upstream, member_with, mode):
    upstream.answers(AWAY[mode])
    member = member_with(failures_to_open=1)
    await fails(member)
    assert member.breaker == "open"


@pytest.mark.parametrize("content_type", ["Text/Event-Stream", "TEXT/EVENT-STREAM;charset=utf-8", "application/json", "text/plain", ""])
async def test_a_body_is_known_by_what_it_is_and_not_by_the_case_of_its_type(upstream, member_with, content_type):
    async def script(turn):
        await turn.head(200, content_type)
        await turn.send(events("Hello"))
        await turn.end()

    upstream.answers(script)
    assert (await collect(member_with(), ask()))[0] == "Hello"


async def test_events_that_begin_with_a_field_of_a_server_s_own_are_known_by_their_type_in_any_case(upstream, member_with):
    async def script(turn):
        await turn.head(200, "Text/Event-Stream; Charset=UTF-8")
        await turn.send(b"trace: 4711\n" + events("Hello"))
        await turn.end()

    upstream.answers(script)
    assert (await collect(member_with(), ask()))[0] == "Hello"


@pytest.mark.parametrize(
    ("error", "reason", "said"),
    [
        ({"message": "Insufficient credits", "code": 402}, "upstream", "HTTP 200 (402)"),
        ({"message": "x", "type": "rate_limit_error", "code": 429}, "overloaded", "HTTP 200 (429)"),
        ({"message": "x", "code": "invalid_request_error"}, "refused", "HTTP 200 (invalid_request_error)"),
        ("plain words", "upstream", "HTTP 200"),
    ],
)
async def test_an_error_under_status_200_tells_its_code(upstream, member_with, error, reason, said):
    async def script(turn):
        await turn.refuse(200, {"error": error})

    upstream.answers(script)
    failure = await fails(member_with())
    assert (failure.reason, str(failure)) == (reason, f"member 'gpt': {said}")


@pytest.mark.parametrize("word", ["length", "max_tokens", "MAX_TOKENS", "model_length"])
async def test_whatever_says_length_is_one(upstream, member_with, word):
    upstream.answers(stream_of(says("Hello"), sends({"choices": [{"delta": {}, "finish_reason": word}]})))
    assert (await collect(member_with(), ask()))[1].reason == "length"


@pytest.mark.parametrize("word", ["content_filter", "content_filter: SAFETY", "SAFETY", "RECITATION", "sensitive", "refusal"])
@pytest.mark.parametrize("streamed", [True, False])
async def test_an_answer_that_a_filter_cut_says_so(upstream, member_with, word, streamed):
    async def script(turn):
        if not turn.body["stream"]:
            return await turn.whole("Half a", word)
        return await stream_of(says("Half a"), sends({"choices": [{"delta": {}, "finish_reason": word}]}))(turn)

    upstream.answers(script)
    text, finish = await collect(member_with(), ask(streamed=streamed))
    assert (text, finish.reason) == ("Half a", "content_filter")


async def test_a_word_that_is_not_known_is_logged_once_and_never_one_of_the_prompt(upstream, member_with, caplog):
    upstream.answers(stream_of(says("Hello"), sends({"choices": [{"delta": {}, "finish_reason": "elsewhere"}]})))
    member = member_with()
    await collect(member, ask())
    await collect(member, ask())
    assert [record.getMessage() for record in caplog.records] == [
        "member gpt: the upstream ends an answer with finish_reason elsewhere, which is taken for an end"
    ]
    upstream.answers(stream_of(says("Hello"), sends({"choices": [{"delta": {}, "finish_reason": "diagnosis"}]})))
    await collect(member, ask("my diagnosis"))
    assert "diagnosis" not in caplog.text


# --- limits that are held from here -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [True, False])
async def test_an_upstream_that_ignores_max_tokens_is_left(upstream, member_with, streamed):
    async def script(turn):
        if turn.body["stream"]:
            await turn.head()
            for _ in range(9):
                await turn.text("w ")
            await turn.client_left()
        else:
            await turn.whole("w " * 500, "stop", (7, 500))

    upstream.answers(script)
    text, finish = await collect(member_with(), ask(max_tokens=8, streamed=streamed))
    assert (text.split(), finish.reason) == (["w"] * 8, "length")


def test_a_piece_that_is_longer_than_any_tokens_are_is_cut():
    text, finish = read(events("x" * 10_000), max_tokens=4)
    assert (len(text), finish.reason) == (64, "length")


def test_thoughts_count_neither_as_text_nor_against_the_limit():
    text, finish = read(events("<think>", *["hm "] * 50, "</think>", "a", "b"), max_tokens=2)
    assert (text, finish.reason) == ("ab", "stop")


UNSEEN = [
    {"reasoning_content": "hm"},
    {"reasoning": "hm"},
    {"content": [{"type": "thinking", "thinking": "hm"}]},
    {"content": "<think>"},
    {"content": " "},
    {"content": "\u200b"},
    {"tool_calls": [{"index": 0}]},
]


def deltas(*each):
    return b"".join(b"data: " + json.dumps({"choices": [{"index": 0, "delta": delta}]}).encode() + b"\n\n" for delta in each)


@pytest.mark.parametrize("delta", UNSEEN, ids=str)
def test_pieces_without_text_end_an_answer_at_the_room_that_its_member_names(delta):
    reader = reader_for(max_tokens=2, reasoning_tokens=10)
    reader.push(deltas(*[delta] * 12))
    with pytest.raises(BadAnswer, match="more than 12 pieces came without text") as left:
        reader.push(deltas(delta))
    assert left.value.reason == "content"


@pytest.mark.parametrize("delta", UNSEEN[:3], ids=str)
def test_thoughts_within_their_room_leave_all_of_the_limit_to_the_text(delta):
    text, finish = read(deltas(*[delta] * 12) + events("a", "b"), max_tokens=2, reasoning_tokens=10)
    assert (text, finish.reason) == ("ab", "stop")


def test_an_answer_that_thinks_on_after_its_text_is_cut():
    text, finish = read(
        events("a")[: -len(events())] + deltas(*[{"reasoning": "hm"}] * 13, {"content": "b"}), max_tokens=2, reasoning_tokens=10
    )
    assert (text, finish.reason) == ("a", "length")


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_server_that_thinks_without_end_is_left_long_before_any_limit_of_time(upstream, member_with, streamed):
    upstream.answers(ENDLESS["endless-thoughts"])
    error = await fails(member_with(reasoning_tokens=10), ask(max_tokens=8, streamed=streamed))
    assert (error.reason, "more than 18 pieces came without text, only thoughts" in str(error)) == ("content", True)
    await upstream.turns[0].left.wait()


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("status", [201, 202, 206])
async def test_an_answer_is_one_under_any_status_that_says_success(upstream, member_with, status, streamed):
    whole = {"choices": [{"message": {"content": TEXT}, "finish_reason": "stop"}]}

    async def script(turn):
        if not turn.body["stream"]:
            return await turn.refuse(status, whole)
        await turn.head(status)
        await says(TEXT)(turn)
        return await turn.finish()

    upstream.answers(script)
    assert (await collect(member_with(), ask(streamed=streamed)))[0] == TEXT


@pytest.mark.parametrize("status", [200, 201])
async def test_an_error_under_a_status_that_says_success_keeps_its_reason(upstream, member_with, status):
    upstream.answers(refusing(status, {"error": {"message": "slow down", "code": 429}}))
    error = await fails(member_with())
    assert (error.reason, f"HTTP {status}" in str(error)) == ("overloaded", True)


def test_what_stands_before_a_stop_string_is_kept_and_nothing_else_is_read():
    text, finish = read(events("one ", "EN", "D two"), stop=("END",))
    assert (text, finish.reason) == ("one ", "stop")


def test_what_a_stop_string_cut_ends_there_though_its_piece_goes_on_beyond_the_limit():
    body = deltas({"content": "one END", "refusal": " no more"}) + events(" two")
    text, finish = read(body, stop=("END",), max_tokens=1)
    assert (text, finish.reason) == ("one ", "stop")


def test_a_body_without_end_is_refused_before_it_fills_the_memory():
    reader = reader_for()
    comment = b": " + b"x" * 1_000_000 + b"\n\n"
    for _ in range(33):
        reader.push(comment)
    with pytest.raises(BadAnswer, match="longer than"):
        reader.push(comment)


# --- characters over the borders of pieces, and thoughts -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pieces", "whole"),
    [
        (["a\ud83d", "\ude00b"], "a\U0001f600b"),
        (["\ud83d", "", "\ude00"], "\U0001f600"),
        (["a\ud83d", "b"], "a\ufffdb"),
        (["a\ude00", "b\ud83d"], "a\ufffdb\ufffd"),
        (["\ud83d", "\udc80"], "\U0001f480"),  # its second half looks like a byte that is no UTF-8
    ],
)
def test_halves_of_a_character_are_joined_and_what_makes_none_is_replaced(pieces, whole):
    assert read(events(*pieces))[0] == whole


def test_a_character_whose_bytes_are_cut_between_two_events_is_joined():
    head, tail = "🙂".encode()[:2], "🙂".encode()[2:]
    body = b"".join(b'data: {"choices": [{"delta": {"content": "' + part + b'"}}]}\n\n' for part in (b"a" + head, tail + b"b", b"\xff"))
    assert read(body)[0] == "a🙂b\ufffd"


def test_an_answer_that_begins_inside_a_thought_is_read_so_where_the_roster_says_it():
    assert read(events("hm ", "hm</think>", "Yes."), starts_in_thought=True)[0] == "Yes."
    assert read(events("hm ", "hm</thinking>", "Yes."), starts_in_thought=True)[0] == "Yes."


# --- whatever it is ---------------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["stop", "Hi", "text", "error"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "choices",
                    "delta",
                    "message",
                    "content",
                    "finish_reason",
                    "usage",
                    "index",
                    "error",
                    "code",
                    "type",
                    "text",
                    "refusal",
                    "object",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(st.lists(JSON, max_size=4), st.booleans())
def test_whatever_json_is_sent_it_is_text_or_that_members_failure(values, streamed):
    if streamed:
        body = b"".join(b"data: " + json.dumps(value).encode() + b"\n\n" for value in values)
    else:
        body = json.dumps({"choices": values}).encode()
    try:
        text, _ = read(body)
    except BadAnswer:
        return
    assert text.strip()
    text.encode()


@given(st.binary(max_size=300))
def test_whatever_bytes_are_sent_they_are_text_or_that_members_failure(body):
    for media_type in ("text/event-stream", "application/json", ""):
        try:
            text, _ = read(body, media_type=media_type)
        except BadAnswer:
            continue
        assert text.strip()
