"""What every test may rely on: no network for model libraries, one thread per library, random numbers from a seed."""

from __future__ import annotations

import gc
import os
from collections.abc import Generator
from pathlib import Path

# Set before any test module imports numpy, tokenizers, torch or transformers; a test that needs another value sets its own.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Nothing here speaks TLS, and a client of httpx reads a file of 140 certificates when it is made, 25 ms each time: no certificate is here.
os.environ.pop("SSL_CERT_FILE", None)
os.environ.setdefault("SSL_CERT_DIR", str(Path(__file__).parent))

import numpy as np
import pytest
import structlog
from hypothesis import settings

settings.register_profile("attune", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("attune")
# For `make fast`, which is asked after every change; `make test` draws the full number.
settings.register_profile("fast", settings.get_profile("attune"), max_examples=10)

# Without a configuration, structlog draws tracebacks with every local variable, which takes tens of seconds and holds up the event loop.
_plain = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
structlog.configure(processors=[*structlog.get_config()["processors"][:-1], _plain])

LONGEST = (
    "models/test_measuring_members.py",
    "demo/test_heads.py",
    "ui/test_page.py",
    "models/test_alignment_member.py",
    "endpoints/test_any_trunk.py",
    "models/test_alignment_causal.py",
    "models/test_training_population.py",
    "models/test_training_families.py",
    "project/test_serving.py",
    "project/test_starting.py",
    "project/test_processes.py",
    "members/test_transformers_serve.py",
    "project/test_environment.py",
)
"""Files that take longest, some half a minute: they begin, so that none of them runs alone at the end."""


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Imports everything without the collector, which finds nothing to free there, and has it never walk those 800,000 objects later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Orders the files; `make test` has xdist keep this order, which would otherwise put the files of fewest tests last."""
    place = {Path(__file__).parent / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))


@pytest.fixture(autouse=True)
def _no_settings_from_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own ATTUNE_* variables must not decide what a test sees."""
    for name in [name for name in os.environ if name.upper().startswith("ATTUNE_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def rng() -> np.random.Generator:
    """Returns a generator with a fixed seed."""
    return np.random.default_rng(20260101)
