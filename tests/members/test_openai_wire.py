"""The bytes of an answer, the body that asks for it, and what a refusal says."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attune.service.members.member import ChatTurn, GenerationRequest
from attune.service.members.openai_errors import asked_wait_s, read_refusal
from attune.service.members.openai_request import request_body
from attune.service.members.openai_wire import MAX_EVENT_BYTES, BadAnswer, Chunk, EventReader, read_chunk, read_whole
from attune.service.members.redaction import told_word, without_request, without_secrets
from attune.service.members.spec import OpenAISpec

ASKED = GenerationRequest((ChatTurn("user", "My diagnosis: Möbius syndrome, really?"),), 5, 0.5, 0.9)


def chunk(delta=None, finish=None, **more):
    return json.dumps({"choices": [{"index": 0, "delta": delta or {}, "finish_reason": finish}]} | more).encode()


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: a\n\n", ["a"]),
        (b"data:a\r\n\r\ndata: b\r\rdata:  c\n\n", ["a", "b", " c"]),
        (b": keep-alive\n\ndata: a\n: in between\ndata: b\n\n", ["a\nb"]),
        (b"event: x\nid: 3\nretry: 10\ndata: a\n\n", ["a"]),
        (b"\xef\xbb\xbfdata: a\n\n", ["a"]),
        (b"data\n\n", [""]),  # a field without a colon has an empty value
        (b"data:\n\n", [""]),
        (b"data: a\n\ndata: not complete\n", ["a"]),
        ("data: line\u2028separator and \x85\n\n".encode(), ["line\u2028separator and \x85"]),
    ],
)
def test_events_are_split_as_the_standard_says_however_the_bytes_arrive(stream, events):
    events = [event.encode() for event in events]
    assert EventReader().push(stream) == events
    reader = EventReader()
    assert [event for byte in stream for event in reader.push(bytes([byte]))] == events


@given(
    st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"])), min_size=1),
    st.sampled_from(["\n", "\r", "\r\n"]),
    st.data(),
)
def test_any_text_survives_any_cut(texts, end, data):
    stream = "".join(f"data: {text}{end}{end}" for text in texts).encode() + b":\n"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    reader, got = EventReader(), []
    for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        got += reader.push(stream[start:stop])
    assert got == [text.encode() for text in texts]


def test_an_event_without_end_is_refused_before_it_fills_the_memory():
    lines = b"".join(b"data: " + b"x" * 994 + b"\n" for _ in range(MAX_EVENT_BYTES // 1000))
    for endless in (lines, b"x" * (MAX_EVENT_BYTES - 1)):
        reader = EventReader()
        assert reader.push(endless) == []
        with pytest.raises(BadAnswer, match=f"longer than {MAX_EVENT_BYTES} bytes"):
            reader.push(endless)


def test_text_finish_and_usage_are_read():
    assert read_chunk(chunk({"role": "assistant", "content": "Hi"})) == Chunk("Hi", alive=True)
    assert read_chunk(chunk({"content": None}, "length")) == Chunk(finish="length", alive=True)
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "completion_tokens_details": {"reasoning_tokens": 1}}
    assert read_chunk(json.dumps({"choices": [], "usage": usage}).encode()) == Chunk(usage=(3, 2), thought_tokens=1)
    assert read_chunk(chunk(finish="stop", usage=usage)).usage == (3, 2)
    assert read_chunk(chunk(usage={"prompt_tokens": "3"})).usage is None
    whole = {"choices": [{"message": {"content": "Hi", "reasoning": "hm"}, "finish_reason": "stop"}], "usage": usage}
    assert read_whole(json.dumps(whole).encode()) == Chunk("Hi", True, "stop", (3, 2), ("message.reasoning",), True, "", 1)


def test_a_field_that_is_left_out_is_named_and_a_thought_is_a_sign_of_life():
    read = read_chunk(chunk({"content": "a", "reasoning_content": "hm", "annotations": []}))
    assert (read.unsupported, read.thought, read.alive) == (("delta.reasoning_content",), True, True)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"{", "content"),
        (b"[" * 50_000, "content"),
        (b'{"error": "out of memory"}', "upstream"),
        (b'{"object": "error", "message": "too many", "code": 400}', "upstream"),
    ],
)
def test_what_cannot_be_read_and_what_reports_an_error_are_told_apart(data, reason):
    with pytest.raises(BadAnswer) as caught:
        read_chunk(data)
    assert caught.value.reason == reason


def test_the_body_holds_what_was_chosen_and_what_the_roster_adds():
    spec = OpenAISpec(base_url="http://h/v1", model="m", body={"top_k": 5}, reasoning_effort="low", reasoning_tokens=100)
    assert request_body(ASKED, spec, stream=True, include_usage=True) == {
        "model": "m",
        "messages": [{"role": "user", "content": ASKED.messages[0].content}],
        "max_tokens": 105,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 5,
        "reasoning_effort": "low",
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert "stream_options" not in request_body(ASKED, spec, stream=False, include_usage=True)


def test_the_body_leaves_out_what_the_server_does_not_take():
    spec = OpenAISpec(base_url="http://h/v1", model="m", max_tokens_field=None, send_stop=False, send_seed=False)
    request = GenerationRequest((ChatTurn("user", "Hi"),), 5, None, None, ("x",), 3)
    assert request_body(request, spec, stream=False, include_usage=False).keys() == {"model", "messages", "stream"}


# --- what a refusal says ------------------------------------------------------------------------------------------------------


def refusal(body, headers=None, *, fields=("temperature", "max_tokens", "stream"), limited=False, secrets=()):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_refusal(content, headers or {}, ASKED, fields, secrets, limited=limited)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"error": {"message": "no such model", "type": "invalid", "code": "model_not_found"}}, "model_not_found"),
        ({"error": {"message": "x", "type": "rate_limit", "code": None}}, "rate_limit"),
        ([{"error": {"code": 404, "status": "NOT_FOUND"}}], "404"),
        ({"error": "plain"}, None),
        ({"error": {"code": "Möbius syndrome"}}, None),
        ({"error": {"code": "diagnosis"}}, None),  # a word of the conversation
        (b"upstream connect error\nreset", None),
        (b"[" * 16_000, None),
        (b"", None),
        (b"\xff\xfe", None),
    ],
)
def test_only_a_code_is_told_and_only_if_the_conversation_does_not_hold_it(body, code):
    assert refusal(body).code == code


@pytest.mark.parametrize(
    "message",
    [
        "invalid input: My diagnosis: Möbius syndrome, really?",
        "got MY DIAGNOSIS and möbius",
        "cut off at Möbius synd",
        "<<diagnosis>> [syndromes] xdiagnosisx",
    ],
)
def test_no_word_of_the_conversation_is_left_in_what_a_server_said(message):
    words = refusal({"error": {"message": message}}).words.casefold()
    assert not any(part in words for part in ("diagn", "möb", "synd", "really"))


def test_what_a_server_said_keeps_its_own_words_for_the_debug_log():
    assert without_request("model overloaded by My diagnosis", ASKED) == "model overloaded by … …"
    assert told_word("server_error", ASKED) == "server_error"
    assert told_word(True) is None


@pytest.mark.parametrize(
    ("body", "parameter"),
    [
        ({"error": {"message": "Unsupported value", "param": "temperature", "code": "unsupported_value"}}, "temperature"),
        ({"error": {"message": "Unsupported parameter: 'max_tokens' is not supported with this model."}}, "max_tokens"),
        ({"error": {"message": "`temperature` and `top_p` cannot both be specified for this model."}}, "temperature"),
        ({"detail": "stream: extra fields not permitted: 'stream'"}, "stream"),
        ({"error": {"message": "max_tokens is too large: 99999"}}, None),
        ({"error": {"message": "Unsupported value", "param": "messages"}}, None),
    ],
)
def test_a_field_that_the_server_does_not_take_is_found(body, parameter):
    assert refusal(body).parameter == parameter


@pytest.mark.parametrize(
    "error",
    [
        {"code": "context_length_exceeded", "message": "x"},
        {"type": "exceed_context_size_error", "message": "x"},
        {"message": "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens"},
        {"message": "The decoder prompt (length 21535) is longer than the maximum model length of 16384."},
        {"message": "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576)."},
        {"message": "This model's maximum prompt length is 131072 but the request contains 537812 tokens."},
        {"message": "Input is too long for requested model."},
        "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 2048. Given: 3000 `inputs` tokens and 128 `max_new_tokens`",
        "Input validation error: `inputs` must have less than 1024 tokens. Given: 1500",
    ],
)
def test_a_prompt_that_is_too_long_is_known_by_code_or_words(error):
    assert refusal({"error": error}).too_long


NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "told", "message", "wait_s"),
    [
        ({"Retry-After": "3"}, {}, "", 3.0),
        ({"retry-after": "1.5"}, {}, "", 1.5),
        ({"retry-after": "Thu, 01 Jan 2026 12:00:30 GMT"}, {}, "", 30.0),
        ({"retry-after": "Thu, 01 Jan 2026 11:00:00 GMT"}, {}, "", 0.0),
        ({"retry-after-ms": "250", "retry-after": "1"}, {}, "", 0.25),
        ({"retry-after": "30s"}, {}, "", 30.0),
        ({"retry-after": "30 seconds"}, {}, "", 30.0),
        ({"retry-after": "2026-01-01T12:00:30Z"}, {}, "", 30.0),
        ({"retry-after": "1767268830"}, {}, "", 30.0),
        ({}, {}, "Too many requests. Please wait 5 seconds before retrying.", 5.0),
        ({"retry-after": "soon"}, {}, "", None),
        ({"retry-after": "-1"}, {}, "", None),
        ({"retry-after": "9" * 400}, {}, "", None),
        ({}, {"retry_after": 8}, "", 8.0),
        ({}, {"retryDelay": "8s"}, "", 8.0),
        ({}, {}, "Please try again in 1m3.5s.", 63.5),
        ({}, {}, "Rate limited, try again in 20ms", 0.02),
        ({"x-ratelimit-reset-requests": "1s", "x-ratelimit-reset-tokens": "6m0s"}, {}, "", 1.0),
        (
            {"x-ratelimit-reset-requests": "1s", "x-ratelimit-reset-tokens": "6m0s", "x-ratelimit-remaining-tokens": "0"},
            {},
            "",
            360.0,
        ),
        ({"x-ratelimit-reset": str(int(NOW.timestamp()) + 40)}, {}, "", 40.0),
        ({"x-ratelimit-reset": str((int(NOW.timestamp()) + 40) * 1000)}, {}, "", 40.0),
        ({"anthropic-ratelimit-requests-reset": "2026-01-01T12:00:10Z"}, {}, "", 10.0),
        ({}, {}, "", None),
    ],
)
def test_how_long_a_server_asks_to_wait_is_read_in_every_form(headers, told, message, wait_s):
    assert asked_wait_s(headers, told, message, limited=True, now=NOW) == wait_s


def test_times_of_rates_are_read_only_where_the_rate_is_what_refuses():
    assert asked_wait_s({"x-ratelimit-reset-requests": "20s"}, {}, "try again in 5s", limited=False, now=NOW) is None


@pytest.mark.parametrize(
    "text", ["Incorrect API key provided: sk-proj-abc***xyz.", "Bearer abcdef is not valid", 'bad key "topsecret"', "url?key-12345"]
)
def test_nothing_that_looks_like_a_key_leaves(text):
    cleaned = without_secrets(text, ("topsecret", ""))
    assert "[redacted]" in cleaned
    assert not any(secret in cleaned for secret in ("abc***xyz", "abcdef", "topsecret", "12345"))
