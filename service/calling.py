"""Commands that call an Attune that runs somewhere: `feedback`, `reload` (see `rollout`), and `replay` (see `replay_client`).

`attune users` is attached by `attune.models`, which reads the tables that one of its commands takes.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from attune.at_server import DEFAULT_URL, CallFailed, Url, as_typed, at_server, named, quoted, same_server
from attune.command_line import EXIT_FAILED, AsJson, KeyEnv, aside, key_in, print_document, refuse
from attune.models.seam.counts import counted

STANDARD_INPUT = "-"


def replay(
    url: Url = DEFAULT_URL,
    tenant: Annotated[str | None, typer.Option(help="Replay only users of this tenant; those of all tenants if not given.")] = None,
    user: Annotated[
        str | None,
        typer.Option(help="Replay only this user, of the tenant that is named or else of the key's own; all users if not given."),
    ] = None,
    key_env: KeyEnv = "",
    *,
    as_json: AsJson = False,
) -> None:
    """Learn what users chose anew under the bundle that a running Attune serves; safe to break off and to repeat."""
    from attune.service.replay_client import Replayed, ReplayFailed, replay_logs  # noqa: PLC0415  the other commands stay fast without httpx

    so_far = Replayed()
    try:
        for so_far in replay_logs(url, tenant=tenant, user=user, key=key_in(key_env)):
            (aside if as_json else typer.echo)(str(so_far))
    except ReplayFailed as error:
        refuse(f"the replay stopped{'; the same command goes on with what is left' if error.goes_on else ''}", [str(error)], EXIT_FAILED)
    if as_json:
        print_document(asdict(so_far))


def reload_replicas(
    url: Annotated[
        list[str] | None, typer.Option(help="Address of a replica; may be given several times, and is http://127.0.0.1:8000 if not given.")
    ] = None,
    *,
    everyone: Annotated[
        bool, typer.Option("--all", help="Take every address of a name as a replica, as behind a headless Service.")
    ] = False,
    bundle: Annotated[str | None, typer.Option(help="Folder of the bundle on the servers; the configured one if not given.")] = None,
    key_env: KeyEnv = "",
    as_json: AsJson = False,
) -> None:
    """Have every replica load the newest bundle; exit code 1 unless all of them serve the same one."""
    import httpx  # noqa: PLC0415  the other commands stay fast without it

    from attune.service.rollout import NameNotFound, find_replicas, reload_replica, verdict  # noqa: PLC0415  the same

    done, key = [], key_in(key_env)
    try:
        replicas = find_replicas(url or [DEFAULT_URL], every_address=everyone)
    except NameNotFound as error:
        refuse("no replica was asked", [str(error)], EXIT_FAILED)
    with httpx.Client() as client:
        for replica in replicas:
            done.append(reload_replica(replica, bundle=bundle, key=key, client=client))
            (aside if as_json else typer.echo)(str(done[-1]))
    wrong = verdict(done)
    if as_json:
        print_document({"same": not wrong, "replicas": [asdict(replica) for replica in done]})
    if wrong:
        refuse("not every replica serves the newest bundle", [wrong], EXIT_FAILED)


def feedback(
    user: Annotated[str, typer.Option(help="Id of the user who chose.")],
    chosen: Annotated[
        str | None, typer.Option(metavar="ID", help="Id of the candidate that was liked better; not needed with texts.")
    ] = None,
    rejected: Annotated[str | None, typer.Option(metavar="ID", help="Id of the other candidate; not needed with texts.")] = None,
    prompt: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Prompt of two answers that are texts; not needed with ids. A lone - reads standard input."),
    ] = None,
    chosen_text: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Answer that was liked better; not needed with ids. A lone - reads standard input.")
    ] = None,
    rejected_text: Annotated[
        str | None, typer.Option(metavar="TEXT", help="The other answer; not needed with ids. A lone - reads standard input.")
    ] = None,
    event_id: Annotated[
        str | None, typer.Option(metavar="ID", help="Id under which this counts once, however often it is sent; a new one if not given.")
    ] = None,
    url: Url = DEFAULT_URL,
    key_env: KeyEnv = "",
    *,
    tie: Annotated[bool, typer.Option("--tie", help="Both were liked alike.")] = False,
    as_json: AsJson = False,
) -> None:
    """Tell a running server which of two answers a user liked better: two candidates by their ids, or a prompt and two texts.

    The id of the event is printed; with it `attune users take-back` undoes this.
    """
    from attune.client.requests import new_event_id  # noqa: PLC0415  the other commands stay fast without httpx

    given = {"prompt": prompt, "chosen_text": chosen_text, "rejected_text": rejected_text}
    read = [name for name, text in given.items() if text == STANDARD_INPUT]
    if len(read) > 1:
        raise typer.BadParameter("standard input can be read for one of them", param_hint=" and ".join(_option(name) for name in read))
    for name in read:
        given[name] = _standard_input()
    if event_id == "":  # of a variable that is not set: a new id in its place would count a repeat again
        raise typer.BadParameter("an id has one character at least", param_hint="--event-id")
    event = event_id or new_event_id()
    try:
        with at_server(url, key_env) as client:
            learned = client.feedback(user, event_id=event, chosen=chosen, rejected=rejected, tie=tie or None, **given)
    except CallFailed as error:
        if not error.may_pass:
            raise
        raise CallFailed(f"{error}; with `--event-id {quoted(event)}` it is sent again and counts once") from error
    if as_json:
        print_document(learned.model_dump(mode="json", exclude_unset=True))
        return
    before = learned.result == "duplicate" and event_id is not None  # a new id is known where its first sending had no answer
    typer.echo(f"{'known before' if before else 'learned'}: event {named(learned.event_id)}")
    typer.echo(f"{named(user)} has {counted(learned.user.comparisons, 'comparison')}")
    if cut := learned.truncated_tokens:
        typer.echo(counted(cut, "token of the texts had no room and was not read", "tokens of the texts had no room and were not read"))
    if unknown := learned.unknown_tokens:
        typer.echo(counted(unknown, "token of the texts is not known", "tokens of the texts are not known"))
    back = as_typed("users", "take-back", *same_server(url, key_env), "--", user, learned.event_id)
    typer.echo(f"to take it back: {back}")


def _standard_input() -> str:
    """Returns all of standard input, without the line break at its end, as a shell takes the output of a command."""
    try:
        return typer.get_binary_stream("stdin").read().decode("utf-8").removesuffix("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"standard input is not UTF-8: {error.reason} at byte {error.start}") from error


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
