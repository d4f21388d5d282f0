"""`attune data …`: look at data before training on it."""

from __future__ import annotations

from typing import Annotated

import typer

from attune.command_line import plain_app

data_app = plain_app("Look at data before training on it.")


@data_app.callback()
def data() -> None:
    """Look at data before training on it."""


@data_app.command("check")
def data_check(
    source: Annotated[str, typer.Argument(metavar="FILE", help=".jsonl(.gz), .json, .parquet, a saved dataset, or hf:NAME:SPLIT.")],
    shape: Annotated[str, typer.Option(help="pairs, scores or ratings; found from the columns if not given.")] = "",
    column: Annotated[list[str] | None, typer.Option(help="OURS=THEIRS, for tables that call a column otherwise.")] = None,
    ignore: Annotated[list[str] | None, typer.Option(help="A column that nothing should read.")] = None,
    least_gap: Annotated[float, typer.Option(min=0.0, help="Scores or ratings that differ by no more are not compared.")] = 0.0,
    shown: Annotated[int, typer.Option(min=1, help="Bad rows to name; the others are counted.")] = 10,
) -> None:
    """Read comparisons, scores or ratings, and print counts, users, hash and what is wrong with which line; exits 1 on bad rows."""
    from attune.models.data.adapters import Reading  # noqa: PLC0415 - numpy
    from attune.models.data.check import survey  # noqa: PLC0415

    found = survey(source, Reading.from_words(shape, column or [], ignore or [], least_gap=least_gap, shown=shown))
    typer.echo("\n".join(found.lines()))
    raise typer.Exit(1 if found.bad or not found.comparisons else 0)
