"""Commands that call an Attune that runs somewhere: `attune reload` (see `rollout`) and `attune replay` (see `replay_client`)."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from attune.command_line import EXIT_FAILED, AsJson, KeyEnv, aside, key_in, print_document, refuse


def replay(
    url: Annotated[str, typer.Option(help="Address of a running Attune.")] = "http://127.0.0.1:8000",
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
        replicas = find_replicas(url or ["http://127.0.0.1:8000"], every_address=everyone)
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
