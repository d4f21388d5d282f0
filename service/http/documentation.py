"""The OpenAPI document: what FastAPI derives from the routes, with the error documents and the API key in place.

FastAPI documents a 422 of its own shape for every route; ours are problem documents, declared by `answers.problems`.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import TypeAdapter

from attune.service.http.admission import OPEN_PATHS
from attune.service.http.problems import Problem, is_openai


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
    for path, operations in document["paths"].items():
        for operation in operations.values():
            if path not in OPEN_PATHS:
                operation["security"] = [{"key": []}]
            if is_openai(path):
                _openai_errors(operation["responses"])
    return document


def _openai_errors(responses: dict[str, Any]) -> None:
    responses.pop("422", None)
    schema = {"schema": {"$ref": "#/components/schemas/OpenAIError"}}
    for status in ("400", "401", "404", "413", "429", "500", "502", "503", "504"):
        responses[status] = {"description": "OpenAI error object", "content": {"application/json": schema}}


_OPENAI_ERROR = {
    "title": "OpenAIError",
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
                "request_id": {"type": "string"},
            },
        }
    },
}
