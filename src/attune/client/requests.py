"""From arguments to requests, and from responses to what happens next; nothing here sends or waits.

A `Request` says whether it may be sent again. Feedback may: it carries an event id, which the server applies once. What decides or
generates is sent again only where the server said that it did nothing (429, 503) or could not be reached.
"""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx

from attune.client.answers import Candidate
from attune.client.failures import why_silent

FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 30.0
TRY_LATER = frozenset({429, 503})
UNSENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
"""No connection was made: nothing of the request has arrived."""

Chosen = Candidate | str
"""A candidate, or its id."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request; `repeatable` if a second arrival changes nothing."""

    method: str
    path: str
    body: Any = None
    repeatable: bool = False


def new_event_id() -> str:
    """Returns an id under which a piece of feedback counts once."""
    return uuid.uuid4().hex


def silence(url: httpx.URL, request: Request, error: Exception | None) -> str:
    """Returns a sentence about a server that could not be reached or did not answer."""
    return f"{url} did not answer {request.method} {request.path}: {why_silent(error)}"


def broken_off(url: httpx.URL, request: Request) -> str:
    """Returns a sentence about a stream that ended in the middle."""
    return f"{url} ended its answer to {request.method} {request.path} before it was whole"


def pause_s(attempt: int, response: httpx.Response | None, request: Request, broken: Exception | None = None) -> float | None:
    """Returns how long to wait before the next try; None if there should be none.

    Args:
        attempt: 0 for the first.
        response: None if the server could not be reached, or the connection broke.
        request: what was sent.
        broken: why there is no response.
    """
    if response is None:
        wait_s = FIRST_PAUSE_S * 2**attempt if request.repeatable or isinstance(broken, UNSENT) else None
    elif response.status_code in TRY_LATER:
        wait_s = _retry_after_s(response) or FIRST_PAUSE_S * 2**attempt
    elif response.status_code >= 500 and request.repeatable:
        wait_s = FIRST_PAUSE_S * 2**attempt
    else:
        wait_s = None
    # Spread, so that callers who were refused together do not come back together.
    return None if wait_s is None or wait_s > LONGEST_PAUSE_S else wait_s * random.uniform(1.0, 1.25)


def _retry_after_s(response: httpx.Response) -> float | None:
    try:
        return max(0.0, float(response.headers.get("retry-after", "")))
    except ValueError:
        return None


def key_header(key: str | None) -> dict[str, str]:
    """Returns the header that carries an API key; none for an open server.

    Raises:
        ValueError: no header can hold it; the message says so without the key, which a library would repeat.
    """
    if not key:
        return {}
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ValueError("the key holds signs that no key has: spaces, line breaks or others that are no ASCII")
    return {"authorization": f"Bearer {key}"}


def score(user: str, prompt: str | Sequence[Mapping[str, str]], responses: Sequence[str], **options: Any) -> Request:
    """Returns a `/score`."""
    return Request("POST", "/score", {"user": user, **_prompt(prompt), "responses": list(responses), **_given(options)}, repeatable=True)


def route(user: str, prompt: str | Sequence[Mapping[str, str]], **options: Any) -> Request:
    """Returns a `/route`."""
    return Request("POST", "/route", {"user": user, **_prompt(prompt), **_given(options)})


def generate(user: str, prompt: str | Sequence[Mapping[str, str]], **options: Any) -> Request:
    """Returns a `/generate`."""
    return Request("POST", "/generate", {"user": user, **_prompt(prompt), **_given(options)})


def feedback(user: str, event_id: str | None, **fields: Any) -> Request:
    """Returns a `/feedback` in whichever form the fields have."""
    body = {"user": user, "event_id": event_id or new_event_id(), **_given(fields)}
    return Request("POST", "/feedback", body, repeatable=True)


def feedback_batch(items: Iterable[Mapping[str, Any]]) -> Request:
    """Returns a `/feedback/batch`; each item has a user and gets an event id if it has none."""
    lines = [json.dumps({**item, "event_id": item.get("event_id") or new_event_id()}, ensure_ascii=False) for item in items]
    return Request("POST", "/feedback/batch", ("\n".join(lines) + "\n").encode(), repeatable=True)


def user(name: str) -> Request:
    """Returns a `GET /users/{user}`."""
    return Request("GET", f"/users/{_segment(name)}", repeatable=True)


def export(name: str) -> Request:
    """Returns a `GET /users/{user}/export`."""
    return Request("GET", f"/users/{_segment(name)}/export", repeatable=True)


def forget(name: str) -> Request:
    """Returns a `DELETE /users/{user}`."""
    return Request("DELETE", f"/users/{_segment(name)}", repeatable=True)


def take_back(name: str, event_id: str) -> Request:
    """Returns a `DELETE /users/{user}/comparisons/{event_id}`."""
    return Request("DELETE", f"/users/{_segment(name)}/comparisons/{_segment(event_id)}")


def merge(name: str, into: str, event_id: str | None) -> Request:
    """Returns a `POST /users/{user}/merge`."""
    return Request("POST", f"/users/{_segment(name)}/merge", {"into": into, **_given({"event_id": event_id})}, repeatable=True)


def portfolio() -> Request:
    """Returns a `GET /portfolio`."""
    return Request("GET", "/portfolio", repeatable=True)


def id_of(candidate: Chosen) -> str:
    """Returns a candidate's id.

    Raises:
        ValueError: it has none, because the decision was not kept.
    """
    found = candidate if isinstance(candidate, str) else candidate.candidate_id
    if found is None:
        raise ValueError("this candidate has no id, because its decision was not kept; send the texts instead")
    return found


def arguments(request: Request) -> dict[str, Any]:
    """Returns what httpx is given to send."""
    if request.body is None:
        return {}
    if isinstance(request.body, bytes):
        return {"content": request.body, "headers": {"content-type": "application/jsonl"}}
    return {"json": request.body}


def _segment(name: str) -> str:
    """Returns a name as one segment of a path, whatever stands in it.

    `..` and `.` are written with percent signs, too: as they are, a path is cut at them before it is sent, so that taking back the event
    `..` of a user would have deleted the user.

    Raises:
        ValueError: it is empty, and the path would be another one.
    """
    if not name:
        raise ValueError("the id of a user or an event is empty; it has one character at least")
    return quote(name, safe="") if name.strip(".") else "%2E" * len(name)


def _prompt(prompt: str | Sequence[Mapping[str, str]]) -> dict[str, Any]:
    return {"prompt": prompt} if isinstance(prompt, str) else {"messages": [dict(message) for message in prompt]}


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}
