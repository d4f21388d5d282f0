"""The examples of the HTTP reference: the requests of `service/http/examples.json` as one story, sent in order, and what a server answers.

    python -m tests.endpoints.recorded_examples BUNDLE    serves the bundle to nobody else and writes the answers into the file

Requests are written by hand and stay; ids in them become those of the new answers. `KEPT` answers need what the demo does not have (a
second bundle, many users) and are written by hand as well.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx

from attune.service.app import create_app
from attune.service.settings import Settings
from tests.project.tree import ROOT

FILE = ROOT / "service" / "http" / "examples.json"
COMMAND = "python -m tests.endpoints.recorded_examples BUNDLE"
STORY: tuple[tuple[str, str | None], ...] = (
    *((f"get {path}", None) for path in ("/livez", "/readyz", "/version", "/bundle", "/v1/models", "/v1/models/{model}", "/errors/{code}")),
    ("post /generate", "two answers to choose from"),
    ("post /feedback", "a pair of candidates"),
    ("post /feedback", "a pair of texts"),
    ("post /feedback", "thumbs up"),
    ("post /feedback", "a ranking"),
    ("post /feedback", "what the user kept"),
    ("post /score", "two answers, with the heads behind each"),
    ("post /route", "who should answer"),
    ("post /decisions/{decision_id}/answers", "what the gateway got"),
    ("post /v1/chat/completions", "routed for a user"),
    ("post /v1/responses", "routed for a user"),
    *((f"post {path}", "two documents") for path in ("/v1/rerank", "/v2/rerank", "/rerank")),
    ("post /feedback/batch", "two people"),
    ("post /users/{user}/merge", "a visitor who has signed in"),
    *((f"get {path}", None) for path in ("/users/{user}", "/users", "/users/{user}/export", "/decisions/{decision_id}")),
    *((f"get {path}", None) for path in ("/portfolio", "/portfolio/coverage", "/metrics")),
    ("delete /users/{user}/comparisons/{event_id}", None),
    ("post /admin/reload", "the newest"),
    ("post /admin/replay", "everybody"),
    ("delete /users/{user}", None),
)
"""Each operation with the request that is sent; the answer of an operation's first one is the example."""
KEPT = {"post /admin/reload", "post /admin/replay"}
"""Operations whose examples keep answers that were written by hand."""
_VISITOR = {
    "user": "visitor-7",
    "prompt": "How do I make pancakes?",
    "chosen_text": "Mix and fry.",
    "rejected_text": "Kindly mix, then fry.",
}
_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")

Examples = dict[str, dict[str, Any]]


async def record(client: httpx.AsyncClient, examples: Examples) -> Examples:
    """Returns the examples with the answers of this server, which must not know the users yet.

    Raises:
        RuntimeError: a request was refused; the message is the server's.
    """
    text, answers = json.dumps(examples), {}
    await _asked(client, "post /feedback", {}, _VISITOR)
    for operation, title in STORY:
        now = json.loads(text)[operation]
        body = now["requests"][title] if title else None
        if operation.endswith("/answers"):  # a draw decided who should answer
            body["answers"][0]["member"] = answers["post /route"]["routing"]["member"]
            examples[operation]["requests"][title] = body
        answer = await _asked(client, operation, now.get("parameters", {}), body)
        if operation in answers or operation in KEPT:
            continue
        answers[operation] = answer
        (kept,) = now["answers"].values()
        for old, new in _renamed(kept, answer):
            text = text.replace(old, new)
    found: Examples = json.loads(text)
    route = "post /decisions/{decision_id}/answers"
    found[route]["requests"]["what the gateway got"]["answers"][0]["member"] = answers["post /route"]["routing"]["member"]
    for operation, answer in answers.items():
        (kind,) = found[operation]["answers"]
        found[operation]["answers"][kind] = _written(operation, answer)
    return found


async def _asked(client: httpx.AsyncClient, operation: str, parameters: dict[str, Any], body: Any) -> Any:
    method, path = operation.split(" ")
    for name in re.findall(r"\{(\w+)\}", path):
        path = path.replace(f"{{{name}}}", str(parameters[name]))
    sent: dict[str, Any] = {} if body is None else {"json": body}
    if isinstance(body, str):
        sent = {"content": body, "headers": {"content-type": "application/x-ndjson"}}
    answer = await client.request(method, path, **sent, timeout=300.0)
    if answer.status_code != httpx.codes.OK:
        raise RuntimeError(f"{operation}: {answer.status_code} {answer.text}")
    kind = answer.headers["content-type"].partition(";")[0]
    if kind == "application/json":
        return answer.json()
    return [json.loads(line) for line in answer.text.splitlines()] if kind == "application/x-ndjson" else answer.text


def _renamed(before: Any, after: Any) -> list[tuple[str, str]]:
    """Returns the ids of an example and those that stand in their places now: decisions, candidates, bundle, basis, users' tags."""
    if isinstance(before, dict) and isinstance(after, dict):
        pairs = [pair for name in before.keys() & after.keys() for pair in _renamed(before[name], after[name])]
        named = {"bundle", "basis", "tag", "user_tag"} & before.keys() & after.keys()
        return pairs + [(before[name], after[name]) for name in named]
    if isinstance(before, list) and isinstance(after, list):
        return [pair for one, other in zip(before, after, strict=False) for pair in _renamed(one, other)]
    if isinstance(before, str) and isinstance(after, str):
        return list(zip(_ID.findall(before), _ID.findall(after), strict=False))
    return []


def _written(operation: str, answer: Any) -> Any:
    """Returns an answer as the file has it: four decimals, and of what there is much of, one or two as an example."""
    answer = _rounded(answer)
    match operation:
        case "get /users/{user}":
            answer["families"] = _two(answer["families"], answer["family"])
        case "get /bundle":
            answer["families"] = _two(answer["families"], answer["family"])
            cards = answer["cards"].get(answer["family"], {})
            answer["cards"] = {answer["family"]: {head: {end: texts[:1] for end, texts in cards[head].items()} for head in list(cards)[:1]}}
            manifest = answer["manifest"]
            answer["manifest"] = {name: manifest[name] for name in ("schema", "name", "id", "basis")} | {
                "files": dict(list(manifest["files"].items())[:1])
            }
        case "get /portfolio":
            family = answer["certificate"]["family"] if answer["certificate"] else ""
            answer["members"] = answer["members"][:1]
            for name in ("values", "intervals", "worth"):
                answer["members"][0][name] = {key: value for key, value in answer["members"][0][name].items() if key == family}
        case "get /metrics":
            return "".join(line for line in answer.splitlines(keepends=True) if re.match(r"(# \w+ )?attune_decisions_total\b", line))
        case "get /users/{user}/export":
            return _lines(list({line["type"]: line for line in reversed(answer)}.values())[::-1])
        case "post /feedback/batch":
            return _lines(answer)
    return answer


def _two(families: dict[str, Any], serving: str) -> dict[str, Any]:
    return {name: family for at, (name, family) in enumerate(families.items()) if at == 0 or name == serving}


def _lines(answers: list[Any]) -> str:
    return "".join(json.dumps(answer, ensure_ascii=False) + "\n" for answer in answers)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return round(value, 4) if isinstance(value, float) else value


async def rewrite(bundle: Path) -> None:
    """Serves the bundle in this process, on an empty store of its own, and writes its answers into the file."""
    with tempfile.TemporaryDirectory() as folder:
        app = create_app(Settings(data_dir=Path(folder), bundle=str(bundle)))
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client, app.router.lifespan_context(app):
            found = await record(client, json.loads(FILE.read_text(encoding="utf-8")))
    FILE.write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(COMMAND)
    asyncio.run(rewrite(Path(sys.argv[1]).resolve()))
