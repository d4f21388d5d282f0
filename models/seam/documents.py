"""The JSON documents of a bundle: objects that name their schema. What is in them is their readers' business."""

from __future__ import annotations

from typing import Any

from attune.models.seam.json_lines import JsonInvalid, kind_of, parse_json


def read_document(content: bytes, *, file: str, schema: int, invalid: type[ValueError]) -> dict[str, Any]:
    """Returns the object that a JSON document holds.

    Args:
        content: the file's bytes.
        file: its name, for messages.
        schema: the schema that the caller reads.
        invalid: the error to raise.

    Raises:
        ValueError: as `invalid`: it is not JSON that can be read, not an object, or of another schema.
    """
    try:
        document = parse_json(content)
    except JsonInvalid as error:
        raise invalid(f"{file} {error}") from error
    if not isinstance(document, dict):
        raise invalid(f"{file} holds {kind_of(document)}; an object is needed")
    if document.get("schema") != schema:
        raise invalid(f"{file} has schema {document.get('schema')!r}; this version reads {schema}")
    return document
