"""Log lines: one JSON object a line (or coloured text), from structlog and from libraries that use `logging` alike.

    get_logger(__name__).info("bundle loaded", bundle=..., heads=...)   events are fixed sentences, what varies is a field
    with request_context(request_id): ...                              every line inside carries `request_id`

Fields that could hold what a user wrote are cut to their length before anything is rendered, and tracebacks carry no local variables.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Literal, TextIO, cast

import orjson
import structlog
from structlog.contextvars import bound_contextvars
from structlog.typing import EventDict, FilteringBoundLogger, Processor

from attune.models.seam.counts import counted

LogFormat = Literal["json", "console"]

# What people write, in every name that it goes by on the wire and inside; user ids are personal data as well.
PRIVATE_FIELDS = frozenset(
    {
        "answer", "api_key", "authorization", "body", "chosen_text", "completion", "content", "context", "input", "messages", "prompt",
        "query", "rejected_text", "response", "responses", "text", "texts", "user", "user_id", "documents",
    }
)  # fmt: skip
# Libraries that say at `info` what a metric or a line of ours says better, or repeat URLs that carry credentials.
_QUIET = ("httpcore", "httpx", "urllib3", "transformers", "filelock", "asyncio", "uvicorn.error")
_LONGEST_VALUE = 2000
_json_stream: TextIO | None = None


def configure_logging(level: str = "info", log_format: LogFormat = "json", stream: TextIO | None = None) -> None:
    """Routes structlog and `logging` to one stream; to be called once, before the first line.

    Args:
        level: least severe level that is written: debug, info, warning or error.
        log_format: `json`, or `console` for people.
        stream: where lines go; standard error where None.
    """
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        cut_private_fields,
    ]
    global _json_stream  # noqa: PLW0603  logging is one for the whole process
    _json_stream = (stream or sys.stderr) if log_format == "json" else None
    rendering: list[Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if log_format == "json":
        transformer = structlog.tracebacks.ExceptionDictTransformer(show_locals=False, max_frames=20)
        rendering += [structlog.processors.ExceptionRenderer(transformer), structlog.processors.JSONRenderer(serializer=_to_json)]
    else:
        plain = structlog.dev.plain_traceback
        rendering.append(
            structlog.dev.ConsoleRenderer(colors=(stream or sys.stderr).isatty(), exception_formatter=plain, timestamp_key="time")
        )

    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=rendering))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(capture=True)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
    logging.getLogger("uvicorn.access").disabled = True  # counted by route in the metrics; its lines carry raw paths with user ids
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))

    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def get_logger(name: str) -> FilteringBoundLogger:
    """Returns the logger of a module; it may be made at import, before `configure_logging`."""
    return cast("FilteringBoundLogger", structlog.stdlib.get_logger(name))


@contextmanager
def request_context(request_id: str, **fields: str) -> Iterator[None]:
    """Adds `request_id` and further fields to every line inside the block, across awaits and into tasks started there."""
    with bound_contextvars(request_id=request_id, **fields):
        yield


def log_request(level: int, make: Callable[[], Mapping[str, object]]) -> None:
    """Writes the line of one request; `make` is called only where the line is written, and returns nothing that a user wrote.

    The one line that every request writes: as JSON it is put together here, in a twentieth of the time that the general way takes.
    """
    if _json_stream is None or not structlog.is_configured():
        structlog.stdlib.get_logger("attune.request").log(level, "request", **make())
    elif logging.getLogger("attune.request").isEnabledFor(level):
        time = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        line = {"event": "request", "level": logging.getLevelName(level).lower(), "logger": "attune.request", "time": time, **make()}
        _json_stream.write(orjson.dumps(line, default=repr).decode() + "\n")
        _json_stream.flush()


def log_ready(address: str, bundle: str, members: int, store: str, missing: Sequence[str] = ()) -> None:
    """Writes the one line that says the service takes requests.

    Args:
        address: `http://host:port`, with the port that was really taken.
        bundle: name of the bundle.
        members: size of the portfolio.
        store: `embedded` or `external`.
        missing: what does not work; a line that has it is a warning.
    """
    line = f"attune ready on {address} (bundle {bundle}, {counted(members, 'member')}, redis {store})"
    if missing:
        get_logger("attune").warning(f"{line}; without {'; '.join(missing)}")
    else:
        get_logger("attune").info(line)


def log_stopping(left_s: float) -> None:
    """Writes the line that says that a signal ends the service; what runs has `left_s` seconds."""
    get_logger("attune").info("attune stopping", left_s=left_s)


def log_stopped() -> None:
    """Writes the last line: everything is closed, and what was acknowledged is kept."""
    get_logger("attune").info("attune stopped")


def cut_private_fields(_logger: Any, _method: str, event: EventDict) -> MutableMapping[str, Any]:
    """Returns the event with what users wrote replaced by its size, and with over-long values cut."""
    for name, value in event.items():
        if name in PRIVATE_FIELDS:
            event[name] = (
                f"[{len(value)} {'characters' if isinstance(value, str) else 'items'}]" if hasattr(value, "__len__") else "[hidden]"
            )
        elif isinstance(value, str) and len(value) > _LONGEST_VALUE:
            # Cut in the middle: the end of a traceback is its reason.
            event[name] = f"{value[: _LONGEST_VALUE // 2]}… [{len(value)} characters] …{value[-_LONGEST_VALUE // 2 :]}"
    return event


def _to_json(event: Mapping[str, Any], **_options: Any) -> str:
    return orjson.dumps(event, default=repr, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY).decode()
