"""Many requests made from a server's OpenAPI document by schemathesis, as documented and otherwise; prints what no client should meet.

    python -m loadtest.fuzz --url http://127.0.0.1:8000 --examples 500 [--key KEY]

Each operation gets so many cases of each of the two kinds, and one that loads a bundle each time 20. The exit code is 1 if an answer is
a 5xx, has a status, a type or a body that the document does not say, or if a request is not answered.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.core.result import Err
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
LIMIT_S = 180.0
ALWAYS = frozenset({"user", "prompt"})
SLOW = {"POST /admin/reload": 20}
schemathesis.serializer.alias("application/x-ndjson", "text/plain")


def with_few_fields(body: dict[str, object], kept: set[int]) -> dict[str, object]:
    """Returns a body with user, prompt and a few of its other fields: one with all of them is hardly ever free of contradictions."""
    others = sorted(set(body) - ALWAYS)
    return {name: value for name, value in body.items() if name in ALWAYS or (others.index(name) in kept)}


def fuzz(
    operation: APIOperation[Any, Any, Any, Any], mode: GenerationMode, examples: int, headers: dict[str, str]
) -> tuple[Counter[int], list[str]]:
    """Returns the statuses of so many cases, and what failed."""
    statuses: Counter[int] = Counter()
    failed: list[str] = []

    @settings(max_examples=examples, phases=[Phase.generate], suppress_health_check=list(HealthCheck), database=None, deadline=None)
    @given(case=operation.as_strategy(generation_mode=mode), kept=st.none() | st.sets(st.integers(0, 15), max_size=3))
    def exchange(case: Any, kept: set[int] | None) -> None:
        if kept is not None and isinstance(case.body, dict):
            case.body = with_few_fields(case.body, kept)
        if headers:  # or most cases would end at the door, with a key that was made up
            for name in [name for name in case.headers if name.lower() in {"authorization", "x-api-key"}]:
                del case.headers[name]
        try:
            response = case.call(timeout=LIMIT_S, headers=headers)
        except requests.RequestException as error:
            failed.append(f"not answered: {error}\n{case.as_curl_command()}"[:1500])
            return
        statuses[response.status_code] += 1
        try:
            case.validate_response(response, checks=CHECKS)
        except (Failure, FailureGroup) as failure:
            failed.append(f"{failure}\n{case.as_curl_command()}"[:1500])

    exchange()
    return statuses, failed


def main() -> None:
    """Parses arguments, makes the cases, and ends with 1 if one of them failed."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--url", default="http://127.0.0.1:8000")
    options.add_argument("--examples", type=int, default=500, help="of each operation and kind")
    options.add_argument("--key", default="")
    given_options = options.parse_args()
    headers = {"x-api-key": given_options.key} if given_options.key else {}
    schema = schemathesis.openapi.from_url(f"{given_options.url}/openapi.json", timeout=LIMIT_S)
    total: Counter[int] = Counter()
    failures: list[str] = []
    for result in schema.get_all_operations():
        if isinstance(result, Err):
            raise SystemExit(f"the document has an operation that cannot be read: {result.err()}")
        operation = result.ok()
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            if mode is GenerationMode.NEGATIVE and not (operation.body or operation.path_parameters or operation.headers):
                continue
            examples = min(given_options.examples, SLOW.get(operation.label, given_options.examples))
            statuses, failed = fuzz(operation, mode, examples, headers)
            total += statuses
            failures += failed
            print(
                f"{operation.label:44} {mode.value:9} {dict(sorted(statuses.items()))}" + (f"  {len(failed)} FAILED" if failed else ""),
                flush=True,
            )
    print(f"{total.total():,} cases, statuses {dict(sorted(total.items()))}, {len(failures)} failed")
    for failure in failures[:20]:
        print(failure, end="\n\n")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
