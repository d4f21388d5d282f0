"""Reading the log as its readers do: lines of JSON, and logging as it was before once a test is over."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from attune.service.observe.logs import configure_logging


@contextmanager
def logged(level: str) -> Iterator[Callable[[], list[dict[str, object]]]]:
    """Gives a function that reads the lines written so far at this level or above, as objects."""
    root, stream = logging.getLogger(), io.StringIO()
    handlers, before = list(root.handlers), root.level
    configure_logging(level, "json", stream)
    try:
        yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    finally:
        root.handlers[:] = handlers
        root.setLevel(before)
        logging.captureWarnings(capture=False)
        logging.getLogger("uvicorn.access").disabled = False
        structlog.reset_defaults()
