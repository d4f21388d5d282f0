"""`attune users …`: what a deployment knows of its users."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attune.at_server import DEFAULT_URL, Url, at_server, named
from attune.command_line import EXIT_FAILED, AsJson, KeyEnv, aside, confirmed, key_hint, key_in, plain_group, print_document, refuse
from attune.models.commands.reading import TABLE, reads_table
from attune.models.seam.counts import counted

if TYPE_CHECKING:
    from attune.client import User
    from attune.models.data.logged import Logged

SHOWN = 10

users_app = plain_group("What a running deployment knows of its users.")

Who = Annotated[
    str, typer.Argument(metavar="USER", help="Id of the user, as the product calls them; after `--` where it begins with a dash.")
]


@users_app.callback()
def users() -> None:
    """What a running deployment knows of its users."""


@users_app.command("show")
def users_show(
    user: Who,
    family: Annotated[str, typer.Option(help="Family whose weights the table has; the one that serves if not given.")] = "",
    url: Url = DEFAULT_URL,
    key_env: KeyEnv = "",
    *,
    as_json: AsJson = False,
) -> None:
    """Print what a running server knows of a user: comparisons, the weight of each named head, and what members are worth to them.

    Somebody who was never seen is at the prior. With --json every family is there, as `GET /users/{user}` answers.
    """
    with at_server(url, key_env) as client:
        known = client.user(user)
    if family and family not in known.families:
        raise ValueError(f"the bundle {known.bundle} has no family {family!r}; it has {', '.join(known.families)}")
    if as_json:
        print_document(known.model_dump(mode="json", exclude_unset=True))
        return
    typer.echo("\n".join(_in_lines(known, family or known.family)))


def _in_lines(known: User, family: str) -> list[str]:
    times = f", from {known.user.get('first_seen')} to {known.user.get('last_seen')}" if known.comparisons else "; this is the prior"
    others = ", ".join(name for name in known.families if name != family)
    under = known.families.get(family, {})
    lines = [
        f"{named(known.user['id'])}: {counted(known.comparisons, 'comparison')}{times}",
        f"bundle {known.bundle}, family {family}{f' (others: {others})' if others else ''}",
    ]
    weights = under.get("weights") or {}
    spread = under.get("weights_std") or {}
    lines += _table("weight of each head", {name: (weight, spread.get(name)) for name, weight in weights.items()})
    expected = (known.portfolio or {}).get("expected") or {}
    return lines + _table("worth of each member's answers", {name: (each["mean"], each["std"]) for name, each in expected.items()})


def _table(title: str, rows: dict[str, tuple[float, float | None]]) -> list[str]:
    """Returns a title and rows of a name, a number and its standard deviation, largest first; nothing where there are no rows.

    Rows that are exactly 0, such as the other ends of a user's axes, are counted.
    """
    said = {name: row for name, row in rows.items() if row != (0.0, None)}
    wide = max(map(len, said), default=0)
    ranked = sorted(said.items(), key=lambda row: -row[1][0])
    told = [f"  {name:{wide}}  {mean:7.3f}{'' if std is None else f' ± {std:.3f}'}" for name, (mean, std) in ranked]
    told += [f"  0 for {len(rows) - len(said)} others"] if told and len(said) < len(rows) else []
    return ["", title, *told] if told else []


@users_app.command("export")
def users_export(user: Who, url: Url = DEFAULT_URL, key_env: KeyEnv = "") -> None:
    """Print everything that a running server has of a user, as JSON lines, which `attune users import` reads."""
    with at_server(url, key_env) as client:
        lines = client.export(user)
    for line in lines:
        typer.echo(json.dumps(line, ensure_ascii=False).encode())


@users_app.command("forget")
def users_forget(
    user: Who,
    url: Url = DEFAULT_URL,
    key_env: KeyEnv = "",
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before; needed where nobody is there to answer.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete everything that a running server has of a user, and print what there was; asks before."""
    with at_server(url, key_env) as client:
        if not yes:
            known = counted(client.user(user).comparisons, "comparison")
            if not confirmed(f"Forget {named(user)} ({known}) at {url}? It cannot be undone"):
                refuse(f"{named(user)} is not forgotten", ["--yes does it without asking"], EXIT_FAILED)
        receipt = client.forget(user)
    if as_json:
        print_document(receipt.model_dump(mode="json", exclude_unset=True))
        return
    gone = receipt.deleted
    comparisons, decisions, keys = (counted(gone.get(f"{what}s", 0), what) for what in ("comparison", "decision", "key"))
    said = f"{comparisons}, {decisions} and {keys}"
    nothing = (
        f"{named(user)} had been forgotten before, and nothing came since"
        if receipt.deleted_before
        else f"nothing is kept of {named(user)}"
    )
    typer.echo(f"{named(user)} is forgotten: {said}" if any(gone.values()) else nothing)


@users_app.command("take-back")
def users_take_back(
    user: Who,
    event_id: Annotated[str, typer.Argument(metavar="EVENT", help="Id of the event, which `attune feedback` and every export show.")],
    url: Url = DEFAULT_URL,
    key_env: KeyEnv = "",
    *,
    as_json: AsJson = False,
) -> None:
    """Take one piece of feedback back, exactly: the user is as if it had never been given. Its id stays used."""
    with at_server(url, key_env) as client:
        taken = client.take_back(user, event_id)
    if as_json:
        print_document(taken.model_dump(mode="json", exclude_unset=True))
        return
    typer.echo(f"taken back: {named(taken.event_id)}; {named(user)} has {counted(taken.user.comparisons, 'comparison')}")


@users_app.command("import")
@reads_table
def users_import(
    source: Annotated[str, typer.Argument(metavar="FILE", help=f"Exports of users, or a table: {TABLE}.")],
    reading: Any,
    url: Url = DEFAULT_URL,
    key_env: KeyEnv = "",
    key: Annotated[str, typer.Option(envvar="ATTUNE_API_KEY", hidden=True)] = "",
    as_json: AsJson = False,
) -> None:
    """Teach a running server what users chose before it; each choice counts once, so that a run that was broken off is started again.

    Exits 1 where the server refused something, or no row has a user.
    """
    from attune.client import AttuneFailed, Client  # noqa: PLC0415 - httpx
    from attune.models.data.logged import read_logged  # noqa: PLC0415 - numpy
    from attune.models.data.sending import Sent, bodies_of, send  # noqa: PLC0415 - numpy

    if key:
        aside("--key and ATTUNE_API_KEY will go: name the variable that holds the key with --key-env, where no list of processes shows it")
    key = key_in(key_env) or key
    logged = read_logged(source, reading).of_somebody()
    _expect_people(source, logged)
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
        left_out = {"without_texts": logged.without_texts, "without_user": logged.without_user, "alone": logged.alone}
        print_document({"applied": sent.applied, "duplicate": sent.duplicate, **left_out, "refused": refused})
        raise typer.Exit(1 if refused else 0)
    typer.echo("\n".join([f"{sent.applied:,} learned, {sent.duplicate:,} known before, {len(sent.refused):,} refused", *_left_out(logged)]))
    for number, status, detail in sent.refused[:SHOWN]:
        aside(f"comparison {number + 1}: {status} {detail}")
    if len(sent.refused) > SHOWN:
        aside(f"and {len(sent.refused) - SHOWN:,} more")
    raise typer.Exit(1 if sent.refused else 0)


def _expect_people(source: str, logged: Logged) -> None:
    from attune.models.seam.weighted import IMPLICIT  # noqa: PLC0415 - numpy

    if logged.of_attributes:
        raise ValueError(f"{source} holds scores, whose attributes are no users of a server; `attune train families` learns from them")
    if not logged.records and logged.without_user:
        raise ValueError(
            f"{source}: there is nobody to teach: {counted(logged.without_user, 'row has', 'rows have')} no user, and no other has"
        )
    if weighted := sum(one.weight not in {1.0, *IMPLICIT.values()} for one in logged.records):
        told = counted(weighted, "comparison has a weight of training", "comparisons have weights of training")
        aside(f"{told}, which no server knows: each counts once")


def _left_out(logged: Logged) -> list[str]:
    """Returns a line for each kind of rows that nothing was made of; none where there are none."""
    rated = "line of the file is a rating, a ranking, or a comparison whose texts were not kept, and was left out"
    several = "lines of the file are ratings, rankings, or comparisons whose texts were not kept, and were left out"
    kinds = (
        (logged.without_texts, rated, several),
        (logged.without_user, "row has no user, and was left out", "rows have no user, and were left out"),
        (logged.alone, "rating is the only one of its user for a prompt", "ratings are the only one of their user for a prompt"),
    )
    return [counted(*kind) for kind in kinds if kind[0]]
