"""The OpenAPI document is a checked-in file: a difference is a change of the API, to be seen in a review.

After a change that is meant: `python -m tests.endpoints.test_openapi` writes the file anew.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from openapi_spec_validator import validate

from attune.service.app import create_app
from attune.service.settings import Settings

FILE = Path(__file__).with_name("openapi.json")


def document() -> str:
    """Returns the document as it is kept."""
    found = create_app(Settings()).openapi()
    del found["info"]["version"]  # a release is no change of the API
    return json.dumps(found, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def test_the_checked_in_document_is_what_is_served():
    assert FILE.read_text(encoding="utf-8") == document(), "the API changed; if it is meant: python -m tests.endpoints.test_openapi"


def test_the_document_is_valid_and_its_patterns_mean_the_same_to_javascript():
    validate(create_app(Settings()).openapi())
    patterns = set(re.findall(r'"pattern": "((?:[^"\\\\]|\\\\.)*)"', FILE.read_text(encoding="utf-8")))
    assert patterns
    assert [pattern for pattern in patterns if re.search(r"\\\\[AZz]|\(\?[P<#]", pattern)] == []


def test_behind_a_prefix_the_document_says_where_the_service_is():
    assert create_app(Settings()).openapi()["servers"] == [{"url": "/"}]
    assert create_app(Settings(root_path="/attune")).openapi()["servers"] == [{"url": "/attune"}]


def test_every_route_of_the_contract_is_documented_with_its_errors():
    paths = json.loads(FILE.read_text(encoding="utf-8"))["paths"]
    contract = {
        "/score": "post",
        "/generate": "post",
        "/route": "post",
        "/feedback": "post",
        "/users/{user}": "get",
        "/users/{user}/export": "get",
        "/users/{user}/comparisons/{event_id}": "delete",
        "/decisions/{decision_id}": "get",
        "/portfolio": "get",
        "/portfolio/coverage": "get",
        "/bundle": "get",
        "/livez": "get",
        "/readyz": "get",
        "/metrics": "get",
        "/version": "get",
        "/admin/reload": "post",
        "/admin/replay": "post",
        "/v1/chat/completions": "post",
        "/v1/models": "get",
        "/v1/rerank": "post",
    }
    for path, method in contract.items():
        assert method in paths[path], path
    assert set(paths["/feedback"]["post"]["responses"]) >= {"200", "403", "404", "409", "410", "413", "422", "429", "503"}
    assert "delete" in paths["/users/{user}"]


if __name__ == "__main__":
    FILE.write_text(document(), encoding="utf-8")
