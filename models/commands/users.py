"""`attune users …`: what a deployment knows of its users."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from attune.command_line import EXIT_FAILED, AsJson, KeyEnv, aside, key_hint, key_in, plain_group, print_document, refuse
from attune.models.commands.reading import TABLE, reads_table
from attune.models.seam.counts import counted

SHOWN = 10

users_app = plain_group("What a running deployment knows of its users.")


@users_app.callback()
def users() -> None:
    """What a running deployment knows of its users."""


@users_app.command("import")
@reads_table
def users_import(
    source: Annotated[str, typer.Argument(metavar="FILE", help=f"Exports of users, or a table: {TABLE}.")],
    reading: Any,
    url: Annotated[str, typer.Option(help="Address of the server.")] = "http://127.0.0.1:8000",
    key_env: KeyEnv = "",
    key: Annotated[str, typer.Option(envvar="ATTUNE_API_KEY", hidden=True)] = "",
    as_json: AsJson = False,
) -> None:
    """Teach a running server what users chose before it; each choice counts once, so that a run that was broken off is started again.

    Exits 1 where the server refused something.
    """
    from attune.client import AttuneFailed, Client  # noqa: PLC0415 - httpx
    from attune.models.data.logged import read_logged  # noqa: PLC0415 - numpy
    from attune.models.data.sending import Sent, bodies_of, send  # noqa: PLC0415 - numpy

    if key:
        aside("--key and ATTUNE_API_KEY will go: name the variable that holds the key with --key-env, where no list of processes shows it")
    key = key_in(key_env) or key
    logged = read_logged(source, reading)
    began_s = time.monotonic()

    def tell(sent: Sent) -> None:
        if sent.waiting:
            aside(f"waiting for the server: {sent.waiting}")
            return
        left_s = (time.monotonic() - began_s) * (sent.total - sent.done) / max(1, sent.done)
        aside(f"{sent.done:,} of {sent.total:,} sent; about {left_s:.0f} s left")

    with Client(url, key or None) as client:
        try:
            sent = send(client, bodies_of(logged.records, logged.events), tell)
        except AttuneFailed as error:
            if not (hint := key_hint(error.status)):
                raise
            refuse(f"{url} takes nothing", [f"{error}{hint}"], EXIT_FAILED)
    if as_json:
        refused = [{"comparison": number + 1, "status": status, "detail": detail} for number, status, detail in sent.refused]
        counts = {"applied": sent.applied, "duplicate": sent.duplicate, "without_texts": logged.without_texts, "refused": refused}
        print_document(counts)
        raise typer.Exit(1 if refused else 0)
    typer.echo(f"{sent.applied:,} learned, {sent.duplicate:,} known before, {len(sent.refused):,} refused")
    if logged.without_texts:
        one = "line of the file is a rating, a ranking, or a comparison whose texts were not kept, and was left out"
        several = "lines of the file are ratings, rankings, or comparisons whose texts were not kept, and were left out"
        typer.echo(counted(logged.without_texts, one, several))
    for number, status, detail in sent.refused[:SHOWN]:
        aside(f"comparison {number + 1}: {status} {detail}")
    if len(sent.refused) > SHOWN:
        aside(f"and {len(sent.refused) - SHOWN:,} more")
    raise typer.Exit(1 if sent.refused else 0)
