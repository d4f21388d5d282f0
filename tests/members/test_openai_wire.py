"""The bytes of a stream are read strictly, and what is not supported is named."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attune.service.members.member import GenerationRequest, Message, without_secrets
from attune.service.members.openai_wire import (
    MAX_EVENT_BYTES,
    BadAnswer,
    Chunk,
    EventReader,
    read_chunk,
    reason_in,
    request_body,
    retry_after_s,
)


def chunk(delta=None, finish=None, **more):
    return json.dumps({"choices": [{"index": 0, "delta": delta or {}, "finish_reason": finish}]} | more)


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
    assert got == texts


def test_an_event_without_end_is_refused_before_it_fills_the_memory():
    lines = b"".join(b"data: " + b"x" * 994 + b"\n" for _ in range(MAX_EVENT_BYTES // 1000))
    for endless in (lines, b"x" * (MAX_EVENT_BYTES - 1)):
        reader = EventReader()
        assert reader.push(endless) == []
        with pytest.raises(BadAnswer, match=f"longer than {MAX_EVENT_BYTES} bytes"):
            reader.push(endless)


def test_bytes_that_are_not_utf8_are_refused():
    with pytest.raises(BadAnswer, match="not UTF-8"):
        EventReader().push(b"data: \xff\n\n")


def test_text_finish_and_usage_are_read():
    assert read_chunk(chunk({"role": "assistant", "content": "Hi"})) == Chunk("Hi", None, None, ())
    assert read_chunk(chunk({"content": None}, "length")) == Chunk("", "length", None, ())
    assert read_chunk(json.dumps({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}})) == Chunk("", None, (3, 2), ())
    assert read_chunk(chunk(finish="stop", usage={"prompt_tokens": 3, "completion_tokens": 2})) == Chunk("", "stop", (3, 2), ())
    assert read_chunk(chunk(usage={"prompt_tokens": "3"})).usage is None


def test_a_field_that_is_left_out_is_named():
    assert read_chunk(chunk({"content": "a", "reasoning_content": "hm", "annotations": []})).unsupported == ("delta.reasoning_content",)


@pytest.mark.parametrize(
    ("data", "reason", "said"),
    [
        ("{", "protocol", "is not JSON"),
        ("[]", "protocol", "type list, not an object"),
        ("{}", "protocol", "has no list of choices"),
        ('{"choices": [1]}', "protocol", "has no list of choices"),
        ('{"error": "out of memory"}', "upstream", "out of memory"),
        ('{"error": {"message": "too many", "type": "rate_limit"}}', "upstream", "too many (rate_limit)"),
        ('{"choices": [{"index": 1, "delta": {}}]}', "protocol", "of index 1; one was asked for"),
        ('{"choices": [{"index": 0, "delta": []}, {"index": 1}]}', "protocol", "2 choices"),
        ('{"choices": [{"delta": "x"}]}', "protocol", "a delta is JSON of type str"),
        (chunk({"content": ["a"]}), "protocol", "delta.content is JSON of type list"),
        (chunk({"tool_calls": [{"index": 0}]}), "protocol", "delta.tool_calls, which is not supported"),
        (chunk({"refusal": "no"}), "protocol", "delta.refusal"),
        (chunk(finish="content_filter"), "protocol", "'content_filter', which is not supported"),
    ],
)
def test_what_is_no_answer_is_refused_with_what_was_found(data, reason, said):
    with pytest.raises(BadAnswer) as caught:
        read_chunk(data)
    assert caught.value.reason == reason
    assert said in caught.value.detail


def test_the_body_asks_for_a_stream_and_holds_only_what_was_chosen():
    request = GenerationRequest((Message("user", "Hi"),), 5, 0.5, 0.9)
    assert request_body(request, "m", "max_tokens", include_usage=True) == {
        "model": "m",
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 5,
        "temperature": 0.5,
        "top_p": 0.9,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    body = request_body(
        GenerationRequest((Message("user", "Hi"),), 5, 0.0, 1.0, ("x",), 3), "m", "max_completion_tokens", include_usage=False
    )
    assert (body["stop"], body["seed"], body["max_completion_tokens"]) == (["x"], 3, 5)
    assert body.keys().isdisjoint({"max_tokens", "stream_options"})


@pytest.mark.parametrize(
    ("body", "kind", "said", "code"),
    [
        (
            b'{"error": {"message": "no such model", "type": "invalid", "code": "model_not_found"}}',
            "application/json",
            "no such model (invalid)",
            "model_not_found",
        ),
        (b'{"error": "plain"}', "application/json", "plain", None),
        (b'{"detail": "Not Found"}', "application/json", "Not Found", None),
        (b'{"message": "told"}', "application/json", "told", None),
        (b'{"detail": [{"msg": "bad"}]}', "application/json", '[{"msg": "bad"}]', None),
        (b"upstream connect error\nreset", "text/plain", "upstream connect error reset", None),
        (b"<html>nginx</html>", "text/html", "(an HTML page)", None),
        (b"", "", "(an empty body)", None),
        (b"\xff\xfe", "", "\ufffd\ufffd", None),
    ],
)
def test_the_reason_of_a_failed_request_is_one_line(body, kind, said, code):
    assert reason_in(body, kind, ()) == (said, code)


@pytest.mark.parametrize(
    "text", ["Incorrect API key provided: sk-proj-abc***xyz.", "Bearer abcdef is not valid", 'bad key "topsecret"', "url?key-12345"]
)
def test_nothing_that_looks_like_a_key_leaves(text):
    cleaned = without_secrets(text, ("topsecret", ""))
    assert "[redacted]" in cleaned
    assert not any(secret in cleaned for secret in ("abc***xyz", "abcdef", "topsecret", "12345"))


def test_retry_after_is_read_as_seconds_and_as_a_date():
    now = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
    assert retry_after_s("3") == 3.0
    assert retry_after_s("Thu, 01 Jan 2026 12:00:30 GMT", now) == 30.0
    assert retry_after_s("Thu, 01 Jan 2026 11:00:00 GMT", now) == 0.0
    assert retry_after_s(None) is None
    assert retry_after_s("soon") is None
    assert retry_after_s("-1") is None
