"""Prompts of a file, one a line, for whatever command asks them: plain text, or JSON objects with the field `prompt`."""

from __future__ import annotations

from pathlib import Path

from attune.models.seam.artefacts import it_is
from attune.models.seam.json_lines import JsonInvalid, LinesInvalid, parse_json, read_text_lines


def prompts_in(file: Path) -> list[str]:
    """Returns the prompts of a file, each once, in their order.

    Args:
        file: of lines; one that begins with `{` is a JSON object, and its `prompt` may have several lines.

    Raises:
        LinesInvalid: the file cannot be read, or a line of JSON has no such text.
    """
    return list(dict.fromkeys(_prompt(file, line) for line in read_text_lines(file)))


def _prompt(file: Path, line: str) -> str:
    if not line.startswith("{"):
        return line
    try:
        kept = parse_json(line.encode()).get("prompt")
    except JsonInvalid as error:
        raise LinesInvalid(f"{file}: {line[:60]}: {error}{it_is(file)}") from error
    if not isinstance(kept, str) or not kept.strip():
        raise LinesInvalid(f"{file}: {line[:60]}: an object with the text `prompt` is needed{it_is(file)}")
    return kept.strip()
