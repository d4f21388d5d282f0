"""What a server says when it does not answer: its code, the parameter that it refuses, and how long it asks to be left alone.

    status, headers, body ── read_refusal ──> ServerRefusal(code, parameter, wait_s, words)

The words are the server's own and may repeat the prompt: they go to the debug log with the conversation cut out of them,
and to nobody else. Pure functions.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from attune.service.members.member import GenerationRequest
from attune.service.members.openai_wire import BadAnswer, read_json
from attune.service.members.redaction import told_word, without_request, without_secrets

_TOO_LONG = re.compile(
    r"(?i)maximum (context|model|prompt) |context (length|window|size|limit)|(prompt|input) is too long|too many (input )?tokens"
    r"|exceed\w* .{0,40}\bcontext|token count .{0,40}exceeds the maximum|`?inputs`? (tokens \+|must have less than)"
)
_TOO_LONG_CODES = frozenset({"context_length_exceeded", "exceed_context_size_error", "string_above_max_length", "prompt_too_long"})
_CONTENT_CODE = re.compile(r"(?i)content|filter|moderation|safety|policy|invalid_(request|prompt|argument)")
# Of Azure and OpenAI, DashScope and gateways: the prompt itself was flagged.
_FILTER_CODE = re.compile(r"(?i)content_?(filter|policy|safety|moderation)|^moderation|responsible_?ai|inspection_?failed|^invalid_prompt$")
_NOT_KNOWN = re.compile(
    r"(?i)unsupported|not supported|unrecogni[sz]ed|unknown|unexpected|not permitted|not allowed|extra (inputs|fields)|extra_forbidden"
    r"|only the default|cannot both|does not support"
)
_HEAD = re.compile(r"[A-Za-z_]\w*")
# Of a list of FastAPI's that a server has written into its words.
_IN_BODY = re.compile(r"""['"]loc['"]: *[(\[] *['"]body['"], *['"](\w+)""")
_TRY_AGAIN = re.compile(r"(?i)(?:try again|retry|\bwait)\w*[^0-9]{0,30}?((?:\d+(?:\.\d+)?\s*(?:ms|h|m|s|minutes?|seconds?|hours?)\s*)+)")
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|milliseconds?|hours?|h|minutes?|m|seconds?|s)?", re.IGNORECASE)
_UNITS = {"ms": 0.001, "mi": 60.0, "h": 3600.0, "m": 60.0, "s": 1.0}


@dataclass(frozen=True, slots=True)
class ServerRefusal:
    """What the body and the headers of a failed request say.

    Args:
        code: the server's code or type, if it is a word or a number; None else.
        status: a status that the body names, as gateways do under status 200; None else.
        parameter: the field of the body that the server does not take, None if it names none.
        about: the field of the body in which it finds a fault, whatever that is; None if it names none.
        too_long: whether the prompt does not fit.
        about_content: whether the request's content is what it refuses.
        filtered: whether a filter of it is what does.
        wait_s: seconds that it asks to wait; None if it asks for none.
        words: what it says, without keys and without any piece of the conversation; for the debug log alone.
    """

    code: str | None
    status: int | None
    parameter: str | None
    about: str | None
    too_long: bool
    about_content: bool
    filtered: bool
    wait_s: float | None
    words: str


def read_refusal(
    body: bytes, headers: Mapping[str, str], request: GenerationRequest, fields: Collection[str], secrets: tuple[str, ...], *, limited: bool
) -> ServerRefusal:
    """Returns what a failed request's answer says.

    Args:
        body: the beginning of it.
        headers: by any spelling of their names.
        request: what was asked; no piece of it is returned.
        fields: of the body that was sent.
        secrets: that were sent.
        limited: whether the status asks to come back later; headers of rates are read only then.
    """
    try:
        answer = read_json(body, "the body")
    except BadAnswer:
        answer = None
    if isinstance(answer, list) and answer and isinstance(answer[0], Mapping):
        answer = answer[0]
    told: Mapping[str, Any] = answer if isinstance(answer, Mapping) else {}
    return refusal_in(told, _text_of(body) if not told else "", headers, request, fields, secrets, limited=limited)


def refusal_in(
    told: Mapping[str, Any],
    text: str,
    headers: Mapping[str, str],
    request: GenerationRequest,
    fields: Collection[str],
    secrets: tuple[str, ...],
    *,
    limited: bool,
) -> ServerRefusal:
    """Returns what an error object, or a text in place of one, says; see `read_refusal`."""
    error = told.get("error")
    inner: Mapping[str, Any] = error if isinstance(error, Mapping) else told
    message = next(
        (str(found) for found in (inner.get("message"), error, told.get("detail"), text) if isinstance(found, str) and found), ""
    )
    if not message and told:
        message = str(dict(inner))
    message = without_secrets(message[:4096], secrets)
    own = without_request(message, request)
    codes = [word for word in (told_word(inner.get(name), request, secrets) for name in ("code", "type", "status")) if word]
    parameter = _parameter(inner.get("param"), own, fields, " ".join([own, *codes]))
    return ServerRefusal(
        code=codes[0] if codes else None,
        status=next((int(code) for code in codes if code.isdigit() and 400 <= int(code) < 600), None),
        parameter=parameter,
        about=_about(inner, message, fields),
        too_long=not _TOO_LONG_CODES.isdisjoint(codes) or bool(_TOO_LONG.search(message)),
        about_content=any(_CONTENT_CODE.search(code) for code in codes),
        filtered=any(_FILTER_CODE.search(code) for code in codes),
        wait_s=asked_wait_s(headers, inner, message, limited=limited),
        words=own,
    )


def _parameter(named: object, words: str, fields: Collection[str], all_words: str) -> str | None:
    if not _NOT_KNOWN.search(all_words):
        return None
    if isinstance(named, str) and named in fields:
        return named
    for field in sorted(fields, key=len, reverse=True):
        plain = "_" in field and re.search(rf"\b{re.escape(field)}\b", words)
        if plain or re.search(rf"[`'\"]{re.escape(field)}[`'\"]|(?i:parameter:? {re.escape(field)}\b)", words):
            return field
    both = [field for field in ("temperature", "top_p") if field in fields and re.search(rf"\b{field}\b", words)]
    return both[0] if both else None


def _about(error: Mapping[str, Any], message: str, fields: Collection[str]) -> str | None:
    """Returns the field that an error names by its path: OpenAI's `tools[0].function.name`, or `["body", "tools", 0]` as FastAPI's do."""
    detail = error.get("detail", error["message"].get("detail") if isinstance(error.get("message"), Mapping) else None)
    first = detail[0] if isinstance(detail, list) and detail and isinstance(detail[0], Mapping) else {}
    path = found if isinstance(found := first.get("loc"), list) else []
    in_words = _IN_BODY.search(message)
    named = [error.get("param"), path[1] if len(path) > 1 and path[0] == "body" else None, in_words and in_words[1]]
    heads = [head[0] for name in named if isinstance(name, str) and (head := _HEAD.match(name))]
    return next((head for head in heads if head in fields), None)


# --- how long to wait -------------------------------------------------------------------------------------------------


def asked_wait_s(
    headers: Mapping[str, str], told: Mapping[str, Any], message: str, *, limited: bool, now: datetime | None = None
) -> float | None:
    """Returns the seconds that a server asks to wait, None if it asks for none.

    `retry-after-ms` is exact, so it goes before `retry-after`; then what the error object or its message names; then, where the status
    says that a rate is used up, the times at which rates begin anew, of which those that are used up count.
    """
    named = {name.lower(): value for name, value in headers.items()}
    now = now or datetime.now(UTC)
    exact = _number(named.get("retry-after-ms"))
    if exact is not None:
        return exact / 1000
    if "retry-after" in named and (wait_s := retry_after_s(named["retry-after"], now)) is not None:
        return wait_s
    for name in ("retry_after", "retry_after_seconds", "retryAfter", "retryDelay"):
        if (wait_s := _duration_s(told.get(name), now)) is not None:
            return wait_s
    if limited and (found := _TRY_AGAIN.search(message)):
        return _duration_s(found[1], now)
    return _reset_s(named, now) if limited else None


def retry_after_s(value: str, now: datetime) -> float | None:
    """Returns the seconds that a Retry-After header asks to wait, a number or a date in one of many forms; None where it cannot be read."""
    if (seconds := _duration_s(value, now)) is not None:
        return seconds
    try:
        date = parsedate_to_datetime(value)
        return max(0.0, ((date if date.tzinfo else date.replace(tzinfo=UTC)) - now).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None


def _reset_s(named: Mapping[str, str], now: datetime) -> float | None:
    used_up, all_of_them = [], []
    for name, value in named.items():
        if "ratelimit" in name.replace("-", "") and "reset" in name and (wait_s := _duration_s(value, now)) is not None:
            all_of_them.append(wait_s)
            if _number(named.get(name.replace("reset-after", "remaining").replace("reset", "remaining"))) == 0:
                used_up.append(wait_s)
    return max(used_up) if used_up else min(all_of_them, default=None)


def _duration_s(value: object, now: datetime) -> float | None:
    """Returns the seconds until a time in one of the forms that servers use: 8, "8s", "1m30s", "20ms", a Unix time, a date."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or len(value) > 64:
        return None
    if (number := _number(value)) is not None:
        if number > 1e11:
            return max(0.0, number / 1000 - now.timestamp())
        return max(0.0, number - now.timestamp()) if number > 1e9 else number
    text = value.strip()
    if _PART.sub("", text).strip() == "":
        return sum(float(size) * _UNITS.get(unit.lower()[:2], _UNITS.get(unit.lower()[:1], 1.0)) for size, unit in _PART.findall(text))
    try:
        date = datetime.fromisoformat(text)
    except ValueError:
        return None
    return max(0.0, ((date if date.tzinfo else date.replace(tzinfo=UTC)) - now).total_seconds())


def _number(value: str | None) -> float | None:
    """Returns a number of at least 0, None for anything else."""
    if value is None or not re.fullmatch(r"\s*\d{1,15}(\.\d{1,9})?\s*", value, re.ASCII):
        return None
    return float(value)


def _text_of(body: bytes) -> str:
    text = body.decode("utf-8", "replace")
    return "(a page)" if text.lstrip()[:1] == "<" else text
