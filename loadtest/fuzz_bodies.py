"""Bodies and paths that fit a running server: what a schema cannot say, so that cases reach what lies behind the checks.

    what the server gave (users, candidates, decisions, events, names) ─> GivenOut ─> fitted(case): one form of a body, ids that are there

A case made from a schema alone is nearly always refused for rules between fields, or for an id that nobody gave out.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import requests

USERS = ("fuzz-a", "fuzz-b")
PROMPT = "Name a fruit."
TEXTS = ("An apple.", "A pear, if you like pears.", "x", "naïve — 你好 🙂", "a " * 400)
SAID = [{"role": "user", "content": PROMPT}]

# The first fields of each form must be there; the others may.
FORMS: Mapping[str, Sequence[tuple[str, ...]]] = {
    "/feedback": (
        ("chosen", "rejected"),
        ("prompt", "chosen_text", "rejected_text"),
        ("candidate", "rating"),
        ("prompt", "response_text", "rating"),
        ("ranking",),
        ("kept", "over", "how", "prompt"),
        ("kept", "over", "how"),
    ),
    "/score": (("prompt", "responses"), ("messages", "responses")),
    "/route": (("prompt",), ("messages",), ("prompts", "policy"), ("prompt", "member")),
    "/generate": (("prompt",), ("messages",), ("prompt", "candidates"), ("prompt", "member"), ("prompt", "stream")),
    "/v1/chat/completions": (("messages", "model"), ("messages", "model", "stream"), ("messages", "model", "attune")),
    "/v1/responses": (("input", "model"), ("input", "model", "stream"), ("input", "model", "attune")),
    "/rerank": (("query", "documents"), ("query", "texts")),
    "/v1/rerank": (("query", "documents"), ("query", "texts")),
    "/v2/rerank": (("query", "documents"), ("query", "texts")),
}
_EXCLUSIVE = frozenset({"prompt", "messages", "prompts", "policy", "member"})
_OF_FEEDBACK = frozenset({name for form in FORMS["/feedback"] for name in form} | _EXCLUSIVE | {"decision_id"})
_OFTEN = 0.7


@dataclass(slots=True)
class GivenOut:
    """What a server gave out.

    Attributes:
        candidates: of each user, in pairs of one decision.
        decisions, events: ids.
        members, families: names.
    """

    candidates: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    decisions: list[str] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    members: list[str] = field(default_factory=list)
    families: list[str] = field(default_factory=list)


def known_of(url: str, headers: Mapping[str, str]) -> GivenOut:
    """Returns what a server gives: a few decisions of two users, and feedback on them."""
    known = GivenOut()
    bundle = requests.get(f"{url}/bundle", headers=headers, timeout=60).json()
    known.families = list(bundle["families"])
    known.members = [member["name"] for member in requests.get(f"{url}/portfolio", headers=headers, timeout=60).json()["members"]]
    for user in USERS:
        for _ in range(3):
            ask: dict[str, Any] = {"user": user, "prompt": PROMPT, "candidates": 2, "max_tokens": 4}
            made = requests.post(f"{url}/generate", json=ask, headers=headers, timeout=60).json()
            pair = tuple(one["candidate_id"] for one in made["candidates"])
            known.decisions.append(made["decision_id"])
            known.candidates.setdefault(user, []).append(pair)
            event = f"fuzz-{uuid.uuid4().hex}"  # the same server may be asked again
            liked = {"user": user, "chosen": pair[0], "rejected": pair[1], "event_id": event}
            requests.post(f"{url}/feedback", json=liked, headers=headers, timeout=60).raise_for_status()
            known.events.append(event)
    return known


def fit_path(parameters: dict[str, Any], known: GivenOut, rng: random.Random, *, removes: bool) -> None:
    """Puts ids that are there into the parameters of a path; users that shall be there later are not removed."""
    there = {
        "user": ["fuzz-gone"] if removes else list(USERS),
        "decision_id": known.decisions,
        "event_id": known.events,
        "model": ["attune", *known.members],
    }
    for name in parameters:
        if there.get(name) and rng.random() < _OFTEN:
            parameters[name] = rng.choice(there[name])


def fitted(path: str, body: dict[str, Any], known: GivenOut, rng: random.Random) -> dict[str, Any]:
    """Returns a body of one form: its fields, a few of the others, and ids that are there in place of made-up ones."""
    forms = FORMS.get(path)
    if forms is None:
        return body
    form = rng.choice(forms)
    beside = _OF_FEEDBACK if path == "/feedback" else _EXCLUSIVE
    others = sorted(set(body) - set(form) - beside - {"user"})
    kept = rng.sample(others, min(len(others), rng.randrange(4)))
    found = {name: body[name] for name in (*form, *kept) if body.get(name) is not None}
    user = rng.choice(USERS)
    found["user"] = user
    found |= {name: value for name, value in _ids(user, form, known, rng).items() if name in form}
    for name, value in _fillings(known, rng).items():
        if name in form and (name not in found or name in {"policy", "member", "model", "how"}):
            found[name] = value
    if "family" in found:
        found["family"] = rng.choice(known.families)
    if form == ("prompts", "policy"):
        found["policy"] = "learn"
    return found


def _ids(user: str, form: tuple[str, ...], known: GivenOut, rng: random.Random) -> dict[str, Any]:
    first, second = rng.sample(rng.choice(known.candidates[user]), 2)
    every = [candidate for pair in known.candidates[user] for candidate in pair]
    ids: dict[str, Any] = {"chosen": first, "rejected": second, "candidate": first, "ranking": rng.sample(every, rng.randrange(2, 5))}
    return ids if "prompt" in form else ids | {"kept": first, "over": second}


def _fillings(known: GivenOut, rng: random.Random) -> dict[str, Any]:
    one, other = rng.sample(TEXTS, 2)
    return {
        "prompt": PROMPT,
        "messages": SAID,
        "input": rng.choice([PROMPT, SAID]),
        "prompts": [PROMPT, "Name a tree."],
        "responses": list(TEXTS[: rng.randrange(1, 4)]),
        "documents": list(TEXTS[: rng.randrange(1, 4)]),
        "query": PROMPT,
        "chosen_text": one,
        "rejected_text": other,
        "response_text": one,
        "kept": one,
        "over": other,
        "rating": rng.random(),
        "how": rng.choice(["regenerate", "edit", "copy"]),
        "candidates": rng.choice([1, 2]),
        "member": rng.choice(known.members),
        "policy": rng.choice(["learn", "best"]),
        "model": rng.choice(["attune", *known.members]),
        "stream": rng.random() < 0.5,
        "attune": {},
    }
