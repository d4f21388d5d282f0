"""`attune data …`: look at data before training on it."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from attune.command_line import AsJson, aside, plain_group, print_document
from attune.models.commands.reading import TABLE, reads_table
from attune.models.seam.counts import counted

data_app = plain_group("Look at data before training on it.")


@data_app.callback()
def data() -> None:
    """Look at data before training on it."""


@data_app.command("check")
@reads_table
def data_check(
    source: Annotated[str, typer.Argument(metavar="FILE", help=f"Comparisons, votes, ratings or scores: {TABLE}.")],
    reading: Any,
    write: Annotated[
        Path | None,
        typer.Option(help="File to write the good comparisons to, as .jsonl that needs no options; nothing is written if not given."),
    ] = None,
    shown: Annotated[int, typer.Option(min=1, help="Number of bad rows that are named; the others are counted.")] = 10,
    as_json: AsJson = False,
) -> None:
    """Read comparisons, votes, ratings or scores, and print counts, users, hash and what is wrong with which line; exits 1 on bad rows."""
    from attune.models.data.check import survey  # noqa: PLC0415 - numpy

    found = survey(source, replace(reading, shown=shown), write=write)
    if as_json:
        print_document(asdict(found))
    else:
        typer.echo("\n".join(found.lines()))
    if write is not None:
        aside(
            f"wrote {counted(found.comparisons, 'comparison')} to {write}"
            + (f"; {counted(found.bad, 'bad row is', 'bad rows are')} not in it" if found.bad else "")
        )
    raise typer.Exit(1 if found.bad or not found.comparisons else 0)
