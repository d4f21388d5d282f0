"""What a server's `GET /models` says of the model that the roster names: the usual mistake is a name that the server does not have.

Lists are not to be relied on: servers take names that they do not list, list other names than they take, or have no list. So what is
missing there is a doubt, and never a failure. Pure; knows no connection.
"""

from __future__ import annotations

from attune.service.members.openai_wire import BadAnswer, read_json

MOST_BYTES = 2_000_000
MOST_NAMED = 8
MOST_CHARS = 60


def doubt_of(model: str, content: bytes) -> str:
    """Returns a sentence where this is a list of models without `model`, or its tag (`name:latest`); else nothing."""
    try:
        document = read_json(content, "the list of models")
    except BadAnswer:
        return ""
    entries = document.get("data") if isinstance(document, dict) else None
    names = [entry["id"] for entry in entries if isinstance(entry, dict) and isinstance(entry.get("id"), str)] if entries else []
    if not names or any(name == model or name.startswith(f"{model}:") for name in names):
        return ""
    shown = ", ".join(repr(name if len(name) <= MOST_CHARS else f"{name[:MOST_CHARS]}…") for name in names[:MOST_NAMED])
    more = f" and {len(names) - MOST_NAMED:,} more" if len(names) > MOST_NAMED else ""
    return f"its server lists no model {model!r}, but {shown}{more}"
