"""Many requests made from a server's OpenAPI document by schemathesis, as documented and otherwise; prints what no client should meet.

    python -m loadtest.fuzz --url http://127.0.0.1:8000 --examples 500 [--key KEY] [--processes 2]

Each operation gets so many cases of each of the two kinds, and one that loads a bundle each time 20; half of those as documented are
made to fit the server, see `fuzz_bodies`. The exit code is 1 if an answer is a 5xx, has a status, a type or a body that the document
does not say, or if a request is not answered.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
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

from loadtest.fuzz_bodies import GivenOut, fit_path, fitted, known_of
from loadtest.reaching import reaching

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
LIMIT_S = 180.0
ALWAYS = frozenset({"user", "prompt"})
SLOW = {"POST /admin/reload": 20}
Operation = APIOperation[Any, Any, Any, Any]
schemathesis.serializer.alias("application/x-ndjson", "text/plain")


@dataclass(slots=True)
class Fuzzer:
    """What the cases of one process share.

    Attributes:
        operations: of the document, by label.
        headers: with the key, if there is one.
        known: what the server gave; None where there is no right to ask.
        session: keeps its connection.
    """

    operations: Mapping[str, Operation]
    headers: Mapping[str, str]
    known: GivenOut | None
    session: requests.Session


def operations_of(url: str) -> dict[str, Operation]:
    """Returns every operation of the document by its label."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json", timeout=LIMIT_S)
    found: dict[str, Operation] = {}
    for result in schema.get_all_operations():
        if isinstance(result, Err):
            raise SystemExit(f"the document has an operation that cannot be read: {result.err()}")
        operation = result.ok()
        found[operation.label] = operation
    return found


def with_few_fields(body: dict[str, object], kept: set[int]) -> dict[str, object]:
    """Returns a body with user, prompt and a few of its other fields: one with all of them is hardly ever free of contradictions."""
    others = sorted(set(body) - ALWAYS)
    return {name: value for name, value in body.items() if name in ALWAYS or (others.index(name) in kept)}


def prepared(case: Any, seed: int, caller: Fuzzer, mode: GenerationMode) -> None:
    """Changes a case: half of those as documented fit the server, of the others every second has few fields."""
    rng = random.Random(seed)
    if caller.known and mode is GenerationMode.POSITIVE and rng.random() < 0.5:
        fit_path(case.path_parameters, caller.known, rng, removes=case.method == "DELETE" or case.path.endswith("/merge"))
        if isinstance(case.body, dict):
            case.body = fitted(case.path, case.body, caller.known, rng)
    elif isinstance(case.body, dict) and rng.random() < 0.5:
        case.body = with_few_fields(case.body, set(rng.sample(range(16), rng.randrange(4))))
    if caller.headers:  # or most cases would end at the door, with a key that was made up
        for name in [name for name in case.headers if name.lower() in {"authorization", "x-api-key"}]:
            del case.headers[name]


def fuzz(caller: Fuzzer, label: str, mode: GenerationMode, examples: int) -> tuple[Counter[int], list[str]]:
    """Returns the statuses of so many cases, and what failed."""
    statuses: Counter[int] = Counter()
    failed: list[str] = []

    @settings(max_examples=examples, phases=[Phase.generate], suppress_health_check=list(HealthCheck), database=None, deadline=None)
    @given(case=caller.operations[label].as_strategy(generation_mode=mode), seed=st.integers(0, 2**32))
    def exchange(case: Any, seed: int) -> None:
        prepared(case, seed, caller, mode)
        try:
            response = case.call(timeout=LIMIT_S, headers=dict(caller.headers), session=caller.session)
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


_caller: Fuzzer | None = None


def _begin(url: str, headers: Mapping[str, str], known: GivenOut | None) -> None:
    global _caller  # noqa: PLW0603 - what one process of the pool has
    _caller = Fuzzer(operations_of(url), headers, known, requests.Session())


def _work(label: str, mode: GenerationMode, examples: int) -> tuple[str, str, Counter[int], list[str], float]:
    assert _caller is not None, "`_begin` comes first in every process"
    began_s = time.process_time()
    statuses, failed = fuzz(_caller, label, mode, examples)
    return label, mode.value, statuses, failed, time.process_time() - began_s


def _tasks(url: str, examples: int) -> Iterator[tuple[str, GenerationMode, int]]:
    for label, operation in operations_of(url).items():
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            if mode is GenerationMode.NEGATIVE and not (operation.body or operation.path_parameters or operation.headers):
                continue
            yield label, mode, min(examples, SLOW.get(label, examples))


def main() -> None:
    """Parses arguments, makes the cases, and ends with 1 if one of them failed."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--url", default="http://127.0.0.1:8000")
    options.add_argument("--examples", type=int, default=500, help="of each operation and kind")
    options.add_argument("--key", default="")
    options.add_argument("--stranger", action="store_true", help="the server has keys and this caller none")
    options.add_argument("--only", default="", help="operations whose label holds this")
    options.add_argument("--processes", type=int, default=2, help="that make cases: most of the time goes there")
    given_options = options.parse_args()
    headers = {"x-api-key": given_options.key} if given_options.key else {}
    with reaching(given_options.url, requests.RequestException):
        known = None if given_options.stranger else known_of(given_options.url, headers)
        tasks = [task for task in _tasks(given_options.url, given_options.examples) if given_options.only in task[0]]
    total: Counter[int] = Counter()
    failures: list[str] = []
    begun: dict[str, Any] = {"initializer": _begin, "initargs": (given_options.url, headers, known)}
    with ProcessPoolExecutor(given_options.processes, **begun) as pool:
        for label, mode, statuses, failed, seconds in pool.map(_work, *zip(*tasks, strict=True)):
            total += statuses
            failures += failed
            told = f"  {len(failed)} FAILED" if failed else ""
            print(f"{label:44} {mode:9} {dict(sorted(statuses.items()))} {seconds:.0f} s{told}", flush=True)
    print(f"{total.total():,} cases, statuses {dict(sorted(total.items()))}, {len(failures)} failed")
    for failure in failures[:20]:
        print(failure, end="\n\n")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
