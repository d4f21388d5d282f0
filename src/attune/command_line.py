"""What every command line of this project has in common: one place in which errors become sentences.

    any error of any command ─> PlainGroup.invoke ─> one line on standard error, exit code 1        --traceback: all of it

A message that was written for people is shown as it is; a file that is not there, a package that is not installed and a mistake of
the program itself are each said in words. Usage errors and exit codes that a command chose pass through.
"""

from __future__ import annotations

import errno
import json
import math
import os
import select
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

EXIT_FAILED = 1
EXIT_SETTINGS = 2
TRACEBACK = "--traceback"

EXTRAS: Mapping[str, str] = {
    **dict.fromkeys(("torch", "transformers", "peft", "safetensors"), "local"),
    **dict.fromkeys(("accelerate", "datasets", "matplotlib", "onnx", "onnxscript", "scipy", "trl"), "train"),
    "onnxruntime": "cpu",
    "pyarrow": "datasets",
}
"""Import names and the smallest extra of this package that installs each; commands that train need `train`, which holds `local`."""

KeyEnv = Annotated[
    str,
    typer.Option(
        "--key-env", metavar="NAME", help="Environment variable that holds an API key of the server; no key is sent if not given."
    ),
]
"""How every command that talks to a server is told its key: a key on the command line would be seen by whoever lists processes."""

AsJson = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON document on standard output and nothing else there, for programs."),
]
"""How every command that prints a result is asked for it by a program; see `print_document`."""

_FULL = (errno.ENOSPC, errno.EDQUOT)

_OWN_NAMES = ("KeyError", "IndexError", "TypeError", "AttributeError", "AssertionError", "NameError", "ZeroDivisionError")


class PlainGroup(TyperGroup):
    """The commands of an application, whose errors are one line each; `--traceback`, anywhere, shows where one came from."""

    _whole = False

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, *rest: Any, **options: Any) -> Any:
        """Runs the command that `args` name, without the option that is meant for this class."""
        given = list(sys.argv[1:] if args is None else args)
        ours = given[: given.index("--")] if "--" in given else given
        self._whole = TRACEBACK in ours
        kept = [word for word in ours if word != TRACEBACK] + given[len(ours) :]
        return super().main(kept, prog_name, *rest, **options)

    def invoke(self, ctx: Any) -> Any:
        """Runs the command.

        Raises:
            typer.Exit: with 1 where the command failed; why was said on standard error.
        """
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except Exception as error:
            # Usage errors of every kind know how to show themselves, and where nobody reads on (`| head`) there is nobody to tell.
            if self._whole or hasattr(error, "format_message") or (isinstance(error, BrokenPipeError) and _nobody_reads()):
                raise
            typer.echo(f"{ctx.find_root().info_name or 'attune'}: {in_words(error)}", err=True)
            raise typer.Exit(EXIT_FAILED) from None


def _nobody_reads() -> bool:
    output = select.poll()
    output.register(sys.__stdout__ or 1, 0)
    return bool(output.poll(0))  # only what is wrong with it is told


def plain_app(help_text: str, **options: Any) -> typer.Typer:
    """Returns an application of commands whose errors are one line each, with completion for shells."""
    return typer.Typer(
        cls=options.pop("cls", PlainGroup),
        no_args_is_help=True,
        add_completion=True,
        pretty_exceptions_enable=False,
        help=help_text,
        epilog=f"An error is one line; {TRACEBACK}, anywhere on the line, shows where it came from.",
        **options,
    )


def plain_group(help_text: str) -> typer.Typer:
    """Returns a group of commands for such an application, which shows the errors."""
    return typer.Typer(no_args_is_help=True, add_completion=False, help=help_text)


def in_words(error: BaseException) -> str:
    """Returns a sentence for people about an error: what is wrong with what, and what to do where that is known."""
    if isinstance(error, ImportError):
        return _import_in_words(error)
    if isinstance(error, UnicodeDecodeError):
        return f"a file is not UTF-8: {error.reason} at byte {error.start}"
    if isinstance(error, UnicodeEncodeError):
        sign = error.object[error.start : error.start + 1]
        return f"a text is no Unicode: {sign!r}" if "\ud800" <= sign <= "\udfff" else f"{sign!r} cannot be written as {error.encoding}"
    if isinstance(error, OSError) and error.strerror:
        what = f"{error.filename}: {error.strerror.lower()}" if error.filename is not None else error.strerror.lower()
        return f"{what}; make room and run the same command again" if error.errno in _FULL else what
    if isinstance(error, RecursionError):
        return "a file is nested too deeply to be read"
    if isinstance(error, MemoryError):
        return f"this takes more memory than there is{f' ({error})' if str(error) else ''}"
    text = str(error).strip()
    if not text or type(error).__name__ in _OWN_NAMES:
        return f"this is a mistake in the program ({type(error).__name__}: {text}); please report it with what {TRACEBACK} shows"
    return text


def how_to_install(extra: str) -> str:
    """Returns how to add an extra to this package, from a checkout and from a wheel; the package is on no index."""
    return f"pip install '.[{extra}]' in a checkout, or pip install 'attune_serve-{_version()}-py3-none-any.whl[{extra}]' with the wheel"


def _import_in_words(error: ImportError) -> str:
    if error.name is None and isinstance(error.__cause__, ImportError):  # a library that loads its parts late, around what was missing
        return _import_in_words(error.__cause__)
    name = (error.name or "").partition(".")[0]
    if name in EXTRAS and isinstance(error, ModuleNotFoundError):
        extra = EXTRAS[name]
        # What needs the parts of `local` on the command line trains or exports, and `train` holds them too.
        return f"this needs {name}: {how_to_install('train' if extra == 'local' else extra)}"
    return f"this needs {name}, which is not installed" if isinstance(error, ModuleNotFoundError) and name else str(error)


def _version() -> str:
    try:
        return version("attune-serve")
    except ImportError:
        return "VERSION"


def key_in(variable: str) -> str:
    """Returns the API key that an environment variable holds; none where none is named.

    Raises:
        typer.BadParameter: it holds nothing, so that a request would go without the key that was meant, or something that no header
            can hold, which a library would refuse with the key in its message.
    """
    if not variable:
        return ""
    key = os.environ.get(variable, "").strip()  # a secret from a file ends in a line break
    if not key:
        raise typer.BadParameter(f"{variable} is not set; it names the environment variable that holds the key", param_hint="--key-env")
    if not key.isascii() or not key.isprintable() or " " in key:
        signs = "spaces, line breaks or others that are no ASCII"
        raise typer.BadParameter(f"{variable} holds signs that no key has: {signs}", param_hint="--key-env")
    return key


def key_hint(status: int, code: str = "") -> str:
    """Returns what to do about a server's refusal of a key, as the rest of a sentence; empty where it refused something else.

    A candidate of another user is a 403, too, which another key does not change.
    """
    wanted = {401: "an API key of the server", 403: "an API key that has the right"}.get(status if code != "not-your-candidate" else 0)
    return f"; --key-env NAME names the environment variable that holds {wanted}" if wanted else ""


def confirmed(question: str) -> bool:
    """Returns whether somebody says yes to a question on standard error; standard output stays for results. Where nobody is there, no."""
    typer.echo(f"{question} [y/N] ", err=True, nl=False)
    said = sys.stdin.readline()
    if not sys.stdin.isatty():
        typer.echo(err=True)
    return said.strip().lower() in {"y", "yes"}


def print_document(document: object) -> None:
    """Prints a result for programs on standard output: one JSON document, see `finite`."""
    typer.echo(json.dumps(finite(document), indent=1, allow_nan=False))


def finite(value: object) -> object:
    """Returns a document with None, which JSON has, in place of infinities and of what is no number, which it has not."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(one) for key, one in value.items()}
    return [finite(one) for one in value] if isinstance(value, list | tuple) else value


def aside(line: str) -> None:
    """Says a line of progress on standard error, so that standard output stays for results."""
    typer.echo(line, err=True)


def refuse(what: str, reasons: Sequence[str], code: int) -> NoReturn:
    """Says on standard error what a command did not do and why, a line each, and ends it.

    Raises:
        typer.Exit: with this exit code.
    """
    typer.echo("\n".join([f"attune: {what}", *(f"  {reason}" for reason in reasons)]), err=True)
    raise typer.Exit(code)
