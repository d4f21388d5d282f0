"""What people read of the API: each field, parameter and status has its words, and each request and answer an example that is one."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.routing import APIRoute
from openapi_schema_validator import OAS31Validator

from attune.service.api import chat, users
from attune.service.app import create_app
from attune.service.settings import Settings
from tests.endpoints.conftest import bundle, running, settings_of
from tests.endpoints.recorded_examples import COMMAND, FILE, record
from tests.stores import FreshStore
from tests.tiny_bundle import HEADS, write_tiny_bundle

__all__ = ["bundle", "settings_of"]  # fixtures of the service's own tests

SOMETIMES = {"unknown_tokens"}
"""Told of texts with words that a tokenizer does not have, as the tiny bundle's has not."""


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return create_app(Settings()).openapi()


def test_routes_are_made_once_and_not_while_the_first_request_waits():
    one, other = ([route for route in create_app(Settings()).routes if isinstance(route, APIRoute)] for _ in range(2))
    assert len(one) >= len(users.router.routes) + len(chat.router.routes)
    assert all(route is same for route, same in zip(one, other, strict=True))


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method} {path}", operation


def wrong(document: dict[str, Any], schema: dict[str, Any], value: object) -> list[str]:
    return [error.message for error in OAS31Validator({**schema, "components": document["components"]}).iter_errors(value)]


def test_every_field_has_a_description_of_its_own(document):
    schemas = document["components"]["schemas"]
    assert [name for name, schema in schemas.items() if not schema.get("description")] == []
    assert [
        f"{name}.{field}"
        for name, schema in schemas.items()
        for field, one in schema.get("properties", {}).items()
        if len(one.get("description", "")) < 4
    ] == []
    assert [name for name, schema in schemas.items() if "Attributes:" in schema["description"]] == []


def test_every_operation_and_parameter_is_described_and_has_a_place(document):
    places = {tag["name"] for tag in document["tags"]}
    for name, operation in operations(document):
        assert operation.get("summary"), name
        assert operation.get("description"), name
        assert set(operation["tags"]) <= places, name
        assert [one["name"] for one in operation.get("parameters", []) if not one.get("description") or "example" not in one] == [], name


def test_every_request_has_an_example_that_its_own_schema_takes(document):
    seen = 0
    for name, operation in operations(document):
        for media_type, media in operation.get("requestBody", {}).get("content", {}).items():
            assert media.get("examples"), name
            for title, example in media["examples"].items():
                seen += 1
                if media_type == "application/json":
                    assert wrong(document, media["schema"], example["value"]) == [], (name, title)
    assert seen > 20


def test_every_answer_has_an_example_that_its_own_schema_takes(document):
    for name, operation in operations(document):
        answers = {kind: media for kind, media in operation["responses"]["200"].get("content", {}).items() if kind != "text/event-stream"}
        assert [kind for kind, media in answers.items() if "example" not in media] == [], name
        for kind, media in answers.items():
            if kind == "application/json":
                assert media["schema"], name
                assert wrong(document, media["schema"], media["example"]) == [], name


def test_what_is_open_to_everybody_is_not_said_to_ask_for_a_key(document):
    for path in ("/livez", "/readyz", "/version", "/metrics"):
        operation = document["paths"][path]["get"]
        assert "security" not in operation
        assert not {"401", "422", "429"} & set(operation["responses"])


def differences(document: dict[str, Any], example: Any, answer: Any, where: str) -> list[str]:
    """Returns the fields that one of both has and the other has not, and those of another kind; names of heads and members are free."""
    if example is None or answer is None:
        return []
    if isinstance(example, dict) and isinstance(answer, dict):
        known = {name for schema in document["components"]["schemas"].values() for name in schema.get("properties", {})}
        apart = sorted(f"{where}.{name}" for name in (example.keys() ^ answer.keys()) & known - SOMETIMES)
        shared = [(name, example[name], answer[name]) for name in example.keys() & answer.keys()]
        return apart + [found for name, *two in shared for found in differences(document, *two, f"{where}.{name}")]
    if isinstance(example, list) and isinstance(answer, list):
        return differences(document, example[0], answer[0], f"{where}[0]") if example and answer else []
    kinds = [float if type(one) in (int, float) else type(one) for one in (example, answer)]
    return [] if kinds[0] is kinds[1] else [f"{where}: {kinds[0].__name__}, and the server's is {kinds[1].__name__}"]


async def test_every_example_answer_has_the_fields_of_what_a_server_answers(document, settings_of, tmp_path):
    examples = json.loads(FILE.read_text(encoding="utf-8"))
    ends = {end: [{"prompt": "?", "response": "yes .", "reward": reward}] for end, reward in (("highest", 1.0), ("lowest", -1.0))}
    with_cards = write_tiny_bundle(tmp_path / "bundles", cards={"vrf": dict.fromkeys(HEADS, ends)})
    async with running(settings_of(bundle=str(with_cards)), FreshStore()) as service:
        found = await record(service.client, copy.deepcopy(examples))
    apart = [one for operation in found for one in differences(document, examples[operation], found[operation], operation)]
    assert apart == [], f"if it is meant: {COMMAND}"
