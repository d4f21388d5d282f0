"""Lines of JSON, from files that somebody else wrote: plain or gzip, with or without a byte-order mark, numbered as editors do.

    file ─> read_json_lines ─> JsonLine: a value, or what is wrong with this line and nothing else

What cannot be read at all (no such file, cut gzip, another encoding) is an error with the file's name; what is wrong with one
line is told with the line, so that a reader can count it and go on. What the values mean is the readers' business.
"""

from __future__ import annotations

import errno
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from attune.models.seam.artefacts import GZIP

_UTF8_MARK = b"\xef\xbb\xbf"
_OTHER_MARKS = (b"\xff\xfe", b"\xfe\xff")
"""With which a file in UTF-16 begins, in either order of bytes; one in UTF-32 as well, or with zeros."""
_OTHER_FORMATS = (
    (b"PK\x03\x04", "a zip archive"),
    (b"BZh", "packed by bzip2"),
    (b"\xfd7zXZ", "packed by xz"),
    (b"\x28\xb5\x2f\xfd", "packed by zstd"),
)
"""What the first bytes of a file say that is no text, whatever its name says."""


MOST_DIGITS = 300
"""Of a whole number: what is longer is no float, and whoever makes one of it would fail in the middle of something else."""


class LinesInvalid(ValueError):
    """A file cannot be read at all; the message names it and says why."""


class JsonInvalid(ValueError):
    """Bytes are no JSON that anybody may use; the message says why, and where in the document."""


@dataclass(frozen=True, slots=True)
class JsonLine:
    """One line that is not blank.

    Attributes:
        number: as editors count, from 1.
        value: what it says; None where it is broken.
        broken: why it says nothing; empty where it does.
    """

    number: int
    value: Any
    broken: str = ""


def read_json_lines(path: Path) -> Iterator[JsonLine]:
    """Yields the lines of a file, one at a time; blank ones are skipped.

    Raises:
        LinesInvalid: see the class; raised when the line that cannot be reached is asked for.
    """
    try:
        with open_bytes(path) as stream:
            for number, line in enumerate(stream, start=1):
                content = line.removeprefix(_UTF8_MARK) if number == 1 else line
                if number == 1 and (other := no_text(content)):
                    raise LinesInvalid(f"{path.name} {other}")
                if content.strip():
                    yield _line(number, content)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise LinesInvalid(f"{path.name} is cut off or not gzip: {error}") from error
    except OSError as error:
        raise LinesInvalid(f"{path}: {(error.strerror or str(error)).lower()}") from error


def read_text_lines(path: Path) -> list[str]:
    """Returns the lines of a text file, plain or gzip, without a byte-order mark, without the blanks around them; blank ones are left out.

    Raises:
        LinesInvalid: it cannot be read, or is no UTF-8; the message names it.
    """
    if path.exists() and not path.is_file():
        raise LinesInvalid(f"{path} is a folder, a pipe or a device; a file is needed")
    try:
        with open_bytes(path) as stream:
            text = stream.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LinesInvalid(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise LinesInvalid(f"{path} is cut off or not gzip: {error}") from error
    except OSError as error:
        raise LinesInvalid(f"{path}: {(error.strerror or str(error)).lower()}") from error
    return [line.strip() for line in io.StringIO(text, newline=None) if line.strip()]  # U+2028 and others are signs of a prompt


def open_bytes(path: Path) -> IO[bytes]:
    """Returns the bytes of a file, unpacked where it is gzip by its content or its name.

    Raises:
        OSError: it cannot be opened.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        # A pipe would be waited for, and cannot be looked into before it is read.
        raise OSError(errno.EINVAL, "a pipe or a device; write it to a file first", str(path))
    with path.open("rb") as stream:
        packed = stream.read(2) == GZIP
    return gzip.open(path, "rb") if packed or path.suffix.lower() == ".gz" else path.open("rb")  # type: ignore[return-value]  # reads alike


def no_text(content: bytes) -> str:
    """Returns what a file is that begins with these bytes and is no text in UTF-8, and what to do; empty where it may be one."""
    if content.startswith(_OTHER_MARKS) or b"\0" in content[:4]:
        return "is UTF-16 or UTF-32; save it as UTF-8"
    return next((f"is {what}; unpack it" for mark, what in _OTHER_FORMATS if content.startswith(mark)), "")


def kind_of(value: object) -> str:
    """Returns what a value of JSON is, in words that follow `is`: a list, null."""
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "a text"
        case list():
            return "a list"
        case dict():
            return "an object"
        case _:
            return f"a {type(value).__name__}"


def parse_json(content: bytes) -> Any:
    """Returns what a JSON document says.

    Raises:
        JsonInvalid: it is not UTF-8, not JSON, nested too deeply or too large, has a name twice in one object, or a text in it is
            half of a surrogate pair, which no tokenizer and no file takes.
    """
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise JsonInvalid(f"is not UTF-8: byte 0x{content[error.start]:02x} at position {error.start + 1}") from None
    try:
        value = _DECODER.decode(text)
    except RecursionError:
        raise JsonInvalid("is nested too deeply") from None
    except MemoryError:
        raise JsonInvalid("takes more memory than there is") from None
    except JsonInvalid:
        raise
    except json.JSONDecodeError as error:
        raise JsonInvalid(f"is not JSON: {error}") from None
    if "\\u" in text and ("\\ud" in text or "\\uD" in text):
        _refuse_half_pairs(value, "")
    return value


def _line(number: int, content: bytes) -> JsonLine:
    try:
        return JsonLine(number, parse_json(content.rstrip()))
    except JsonInvalid as error:
        return JsonLine(number, None, str(error).replace(": line 1 column", ": column"))  # beside the line's own number it would mislead


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise JsonInvalid(f"has {next(name for name in names if names.count(name) > 1)!r} twice")
    return found


def _whole(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise JsonInvalid(f"has a number of more than {MOST_DIGITS} digits")
    return int(digits)


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_whole)


def _refuse_half_pairs(value: Any, where: str) -> None:
    match value:
        case str():
            try:
                value.encode("utf-8")
            except UnicodeEncodeError as error:
                raise JsonInvalid(f"{f'{where}: ' if where else ''}half of a surrogate pair at character {error.start + 1}") from None
        case dict():
            for name, one in value.items():
                _refuse_half_pairs(name, where)
                _refuse_half_pairs(one, f"{where}.{name}" if where else name)
        case list():
            for number, one in enumerate(value):
                _refuse_half_pairs(one, f"{where}[{number}]")
