"""How a command reads a table: one set of options, the same for every command that takes one.

@reads_table
def command(data: …, reading: Reading, …)       the command line gets --shape --column --ignore --least-gap --most-pairs
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from typing import Annotated, Any

import typer

TABLE = ".jsonl, .csv, .tsv (also .gz), .json, .parquet, a saved dataset, or hf:NAME:SPLIT"
"""For the help of an argument."""


def _options(
    shape: Annotated[
        str, typer.Option(help="What the table holds: pairs, votes, ratings or scores; found from the names of its columns if not given.")
    ] = "",
    column: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OURS=THEIRS",
            help="Where the table calls a column otherwise; meta.user.id lies inside of meta. May be given several times.",
        ),
    ] = None,
    ignore: Annotated[list[str] | None, typer.Option(help="A column that nothing should read; may be given several times.")] = None,
    least_gap: Annotated[float, typer.Option(min=0.0, help="Scores or ratings that differ by no more than this are not compared.")] = 0.0,
    most_pairs: Annotated[
        int,
        typer.Option(
            min=1,
            help="Number of comparisons at most of a user's ratings of one prompt's answers; a fair sample where more are possible.",
        ),
    ] = 200,
) -> None:
    """Its parameters are the options."""


def reads_table(command: Callable[..., None]) -> Callable[..., None]:
    """Returns the command with the options above in place of its parameter `reading`, which it gets as a `Reading`."""
    options = inspect.signature(_options, eval_str=True).parameters
    own = inspect.signature(command, eval_str=True).parameters

    @functools.wraps(command)
    def with_reading(**given: Any) -> None:
        # Before numpy is loaded: the products of a training are small, so that a second thread waits more than it works, and beside
        # other work takes ten times the processor time. torch, which embeds texts, has threads of its own.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        from attune.models.data.table_shapes import Reading  # noqa: PLC0415 - numpy

        said = {name: given.pop(name) for name in options}
        words = said.pop("shape"), said.pop("column") or [], said.pop("ignore") or []
        command(reading=Reading.from_words(*words, **said), **given)

    parameters = [one for name, one in own.items() if name != "reading"]
    keyword = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in [*parameters, *options.values()]]
    with_reading.__signature__ = inspect.Signature(keyword)  # type: ignore[attr-defined]  # what `inspect` looks at first
    with_reading.__annotations__ = {one.name: one.annotation for one in keyword}
    return with_reading
