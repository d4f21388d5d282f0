"""The OpenAPI document: what FastAPI derives from the routes, with what people and programs need to understand it.

    routes ─> FastAPI's document ─> error documents, API key ─> fields' descriptions ─> an example for each request and answer

A field is described where its class is, in the section `Attributes:` of the docstring. The examples are `examples.json` beside this
file: one story of one user, with the demo's answers as `python -m tests.endpoints.recorded_examples` recorded them. FastAPI documents
a 422 of its own shape for every route; ours are problem documents, declared by `answers.problems`.
"""

from __future__ import annotations

import json
import re
from importlib import resources
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import TypeAdapter

from attune.service.http.admission import OPEN_PATHS
from attune.service.http.problems import Problem, is_openai


def operation_name(route: APIRoute) -> str:
    """Returns the name of an operation in the document: that of the function that answers."""
    return route.name


def documented(app: FastAPI, root_path: str = "") -> dict[str, Any]:
    """Returns the OpenAPI document of the application, made once; `root_path` is what a proxy puts in front of its paths."""
    if app.openapi_schema is None:
        app.openapi_schema = _document(app, root_path)
    return app.openapi_schema


def _document(app: FastAPI, root_path: str) -> dict[str, Any]:
    servers: list[dict[str, Any]] = [{"url": root_path or "/"}]
    document = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes, servers=servers)
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas["Problem"] = TypeAdapter(Problem).json_schema()
    schemas["OpenAIError"] = _OPENAI_ERROR
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer", "description": "an API key, where keys are configured"}}
    for schema in schemas.values():
        _describe_fields(schema)
    examples = json.loads(resources.files("attune.service.http").joinpath("examples.json").read_bytes())
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if path in OPEN_PATHS:
                for status in _NEVER_WHERE_OPEN:
                    operation["responses"].pop(status, None)
            else:
                operation["security"] = [{"key": []}]
            if is_openai(path):
                _openai_errors(operation["responses"])
            _show(operation, examples.get(f"{method} {path}", {}))
    document["tags"] = [{"name": name, "description": said} for name, said in _TAGS.items()]
    return document


def _describe_fields(schema: dict[str, Any]) -> None:
    """Moves what the docstring of a class says of its fields to the fields, and what a type says to a field that may be null."""
    said, found, fields = schema.get("description", "").partition("\n\nAttributes:\n")
    if found:
        schema["description"] = said
    for name, meaning in _FIELD.findall(fields):
        schema["properties"][name].setdefault("description", " ".join(meaning.split()))
    for one in schema.get("properties", {}).values():
        told = next((branch.pop("description") for branch in one.get("anyOf", ()) if "description" in branch), None)
        if told is not None:
            one.setdefault("description", told)


def _show(operation: dict[str, Any], example: dict[str, Any]) -> None:
    """Puts an example's parts where the document has room for them: parameters, request bodies by name, the answer."""
    for parameter in operation.get("parameters", []):
        if parameter["name"] in example.get("parameters", {}):
            parameter["example"] = example["parameters"][parameter["name"]]
    for media in operation.get("requestBody", {}).get("content", {}).values():
        if requests := example.get("requests"):
            media["examples"] = {name: {"summary": name, "value": value} for name, value in requests.items()}
    for media_type, answer in example.get("answers", {}).items():
        operation["responses"]["200"].setdefault("content", {}).setdefault(media_type, {})["example"] = answer


def _openai_errors(responses: dict[str, Any]) -> None:
    responses.pop("422", None)
    schema = {"schema": {"$ref": "#/components/schemas/OpenAIError"}}
    for status in ("400", "401", "404", "413", "429", "500", "502", "503", "504"):
        responses[status] = {"description": "OpenAI error object", "content": {"application/json": schema}}


_FIELD = re.compile(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", re.MULTILINE)
"""A field and its meaning in a docstring that pydantic has cleaned of its indentation; lines that go on are indented further."""

_NEVER_WHERE_OPEN = ("401", "422", "429", "504")
"""What is open to everybody is asked for no key, has no fields, waits for no room and has no deadline."""

_TAGS = {
    "users": "Scores, routing and generation for a user, and what is learned from feedback.",
    "compatible": "The same as clients of OpenAI, Cohere and Jina speak; errors are OpenAI's error object.",
    "operations": "Health, metrics, bundle, portfolio, and what needs a key with the admin right.",
}

_OPENAI_ERROR = {
    "title": "OpenAIError",
    "description": "An error as clients of OpenAI's API read it.",
    "type": "object",
    "required": ["error"],
    "properties": {
        "message": {"type": "string", "description": "the same as `error.message`, where Cohere's clients look for it"},
        "error": {
            "type": "object",
            "description": "what was wrong",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string", "description": "the field, the number and the limit"},
                "type": {"type": "string", "description": "OpenAI's kind of error"},
                "param": {"type": ["string", "null"], "description": "the first field that is wrong, by the client's own name"},
                "code": {"type": ["string", "null"], "description": "what programs tell errors apart by"},
                "request_id": {"type": "string", "description": "as in the header `x-request-id` and in the server's log"},
            },
        },
    },
}
