"""What people read of the API: each field, parameter and status has its words, and each request and answer an example that is one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from openapi_schema_validator import OAS31Validator

from attune.service.app import create_app
from attune.service.settings import Settings


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return create_app(Settings()).openapi()


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
