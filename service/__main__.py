"""The command line: `attune serve`, `settings`, `feedback`, `reload`, `replay` and others, and the commands that other packages attach.

A package attaches commands through the entry-point group `attune.commands`: each entry names a typer app whose commands appear at the
top level (`attune bundle demo`). Such a package is imported only when one of its commands or the full help is asked for, so serving
needs nothing that training needs, and a package that cannot be imported is an error of its own commands alone.
"""

from __future__ import annotations

import os
import socket
import sys
from dataclasses import asdict
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from attune import __version__
from attune.command_line import EXIT_FAILED, EXIT_SETTINGS, AsJson, PlainGroup, in_words, plain_app, print_document, refuse
from attune.service.calling import feedback, reload_replicas, replay
from attune.service.ending import EXIT_PART
from attune.service.members_command import members_app

COMMAND_GROUP = "attune.commands"

EXIT_ADDRESS = 4

BundleOption = Annotated[Path | None, typer.Option(help="Folder of the bundle; it goes before ATTUNE_BUNDLE.")]
DataDirOption = Annotated[Path | None, typer.Option(help="Data directory; it goes before ATTUNE_DATA_DIR.")]
RosterOption = Annotated[Path | None, typer.Option(help="File that names the language models; it goes before ATTUNE_ROSTER.")]


class AttachedCommands(PlainGroup):
    """The commands of this package and, once they are asked for, those of `attune.commands`."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Returns the names of all commands, own ones first; what cannot be loaded is named on standard error."""
        for failure in self._attach():
            typer.echo(f"attune: {failure}", err=True)
        return list(super().list_commands(ctx))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Returns the command of this name; None where there is none.

        Raises:
            typer.Exit: no command has this name, and a package that may have it could not be loaded.
        """
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        failures = self._attach()
        attached = super().get_command(ctx, cmd_name)
        if attached is None and failures:
            typer.echo("\n".join([f"attune: no command `{cmd_name}`", *failures]), err=True)
            raise typer.Exit(EXIT_FAILED)
        return attached

    def _attach(self) -> list[str]:
        failures = []
        for entry in entry_points(group=COMMAND_GROUP):
            try:
                group = typer.main.get_command(entry.load())
            except Exception as error:  # noqa: BLE001  whatever another package raises on import is reported as that
                failures.append(f"the commands of `{entry.value}` cannot be loaded: {in_words(error)}")
                continue
            for name, command in getattr(group, "commands", {}).items():
                self.commands.setdefault(name, command)
        return failures


app = plain_app("Score, generate, learn and route for each user; train and measure what does it.", cls=AttachedCommands, name="attune")


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"attune {__version__}")
        raise typer.Exit


@app.callback()
def attune(
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Online personalization inference: per-user scores, routing over a portfolio, learning from comparisons."""
    del version


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on; it goes before ATTUNE_HOST.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on, 0 for a free one; it goes before ATTUNE_PORT.")] = None,
    bundle: BundleOption = None,
    data_dir: DataDirOption = None,
    roster: RosterOption = None,
) -> None:
    """Serve HTTP until SIGTERM or Ctrl-C; every other setting comes from ATTUNE_* or the file ATTUNE_CONFIG."""
    # Before numpy is loaded: its products here are small, and threads started for one wait for cores that the scorer has.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from attune.service.live.hangup import keep_hangups  # noqa: PLC0415  the other commands stay fast without it
    from attune.service.observe.logs import configure_logging  # noqa: PLC0415  the same
    from attune.service.settings import SettingsError, read_settings  # noqa: PLC0415  the same

    try:
        settings = read_settings(host=host, port=port, data_dir=data_dir, bundle=bundle, roster=roster)
        configure_logging(settings.log_level, settings.log_format)
        keep_hangups()
        if settings.workers > 1:
            _run_many(settings)
        _run(settings, _bind(settings.host, settings.port))
    except SettingsError as error:
        refuse("cannot start with these settings", [str(problem) for problem in error.problems], EXIT_SETTINGS)


@app.command()
def check(bundle: BundleOption = None, data_dir: DataDirOption = None, roster: RosterOption = None, *, as_json: AsJson = False) -> None:
    """Check settings, keys, roster, store, bundle and members as a start would, without serving; exit code 1 if it would not start."""
    from attune.service.observe.logs import configure_logging  # noqa: PLC0415  the other commands stay fast without it
    from attune.service.settings import SettingsError, read_settings  # noqa: PLC0415  the same

    configure_logging("error", "json")
    try:
        settings = read_settings(data_dir=data_dir, bundle=bundle, roster=roster)
    except SettingsError as error:
        rows = [{"part": "settings", "state": "refused", "detail": str(problem), "setting": problem.name} for problem in error.problems]
        _show(rows, as_json=as_json)
        raise typer.Exit(EXIT_SETTINGS) from None
    from attune.service.start_check import run_checks  # noqa: PLC0415  imports what serving needs

    rows = [row.to_json() for row in run_checks(settings)]
    _show(rows, as_json=as_json)
    if any(row["state"] == "refused" for row in rows):
        raise typer.Exit(EXIT_FAILED)


def _show(rows: list[dict[str, str]], *, as_json: bool) -> None:
    if as_json:
        starts = not any(row["state"] == "refused" for row in rows)
        print_document({"starts": starts, "checks": rows})
        return
    for row in rows:
        typer.echo(f"{row['state']:8} {row['part']}: {row['detail']}" + (f" (see {row['setting']})" if row["setting"] else ""))


@app.command("settings")
def print_settings(
    in_force: Annotated[bool, typer.Option("--in-force", help="Print what is set here, and where, in place of the table.")] = False,
    *,
    as_json: AsJson = False,
) -> None:
    """Print every setting as the Markdown table of docs/reference/settings.md, or what is in force here."""
    from attune.service import setting_rows  # noqa: PLC0415  the help stays fast without pydantic
    from attune.service.settings import SettingsError  # noqa: PLC0415  the same

    try:
        if as_json:
            rows = setting_rows.settings_in_force() if in_force else setting_rows.describe_settings()
            print_document({"settings": [asdict(row) for row in rows]})
            return
        typer.echo(setting_rows.in_force_table() if in_force else setting_rows.settings_table())
    except SettingsError as error:
        refuse("these settings cannot be used", [str(problem) for problem in error.problems], EXIT_SETTINGS)


app.command()(feedback)
app.command()(replay)
app.command("reload")(reload_replicas)

app.add_typer(members_app, name="members")


def _bind(host: str, port: int) -> socket.socket:
    """Returns a bound socket, before anything slow: a port in use is known at once, and port 0 becomes a number.

    It listens once everything is ready, so that until then callers and probes are refused and do not hang.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        _refuse_address(host, port, error)
    return listener


def _listen(listener: socket.socket, backlog: int) -> None:
    try:
        listener.listen(backlog)
    except OSError as error:  # somebody else bound it as well, and was ready first
        host, port = listener.getsockname()[:2]
        _refuse_address(host, port, error)


def _refuse_address(host: str, port: int, error: OSError) -> NoReturn:
    refuse(f"cannot listen on {host} port {port}", [f"{error.strerror}; choose another with --host and --port"], EXIT_ADDRESS)


def _check(settings: Any) -> None:
    """Checks what costs nothing, before the application is imported, which a start that is refused does not need."""
    from attune.service.parts import check_cheap, check_data_dir  # noqa: PLC0415  only `serve` needs it
    from attune.service.state.data_dir import EmbeddedRedisError  # noqa: PLC0415  the same

    check_cheap(settings)
    try:
        check_data_dir(settings)
    except EmbeddedRedisError as error:
        refuse("cannot start", [str(error)], EXIT_PART)


def _run_many(settings: Any) -> NoReturn:
    """Serves with several processes until a signal, and ends this one, their parent."""
    _check(settings)
    from attune.service.many import serve_many  # noqa: PLC0415  only `serve` needs it

    try:
        sys.exit(serve_many(settings))
    except OSError as error:
        _refuse_address(settings.host, settings.port, error)


@app.command("serve-worker", hidden=True)
def serve_worker(control: str, index: int, listener: Annotated[int, typer.Option()]) -> None:
    """Take requests as one of several processes; started by `attune serve` alone."""
    settings = _as_child()
    _run(settings, socket.socket(fileno=listener), place=(control, index))


@app.command("serve-scorer", hidden=True)
def serve_scorer(control: str, index: int, socket_path: Annotated[str, typer.Option("--socket")]) -> None:
    """Own the scorer of several processes, or one of them; started by `attune serve` alone."""
    from attune.service.many import run_scorer  # noqa: PLC0415  only this process needs it

    run_scorer(_as_child(), control, index, socket_path)


@app.command("serve-engine", hidden=True)
def serve_engine(control: str, index: int, socket_path: Annotated[str, typer.Option("--socket")]) -> None:
    """Have the local members of several processes; started by `attune serve` alone."""
    from attune.service.many import run_engine  # noqa: PLC0415  only this process needs it

    run_engine(_as_child(), control, index, socket_path)


def _as_child() -> Any:
    from attune.service.live.hangup import leave_hangups_to_parent  # noqa: PLC0415  the other commands stay fast without it
    from attune.service.observe.logs import configure_logging  # noqa: PLC0415  the same
    from attune.service.settings import read_settings  # noqa: PLC0415  the same

    leave_hangups_to_parent()
    settings = read_settings()
    configure_logging(settings.log_level, settings.log_format)
    return settings


def _run(settings: Any, listener: socket.socket, place: tuple[str, int] | None = None) -> None:
    """Serves with this process until a signal, and ends it; its exit code is 3 if a part could not start.

    Raises:
        SettingsError: a check that costs nothing fails: keys, URL of the store, roster, no bundle.
    """
    if place is None:  # of several processes the parent has, and one that is started again goes by what serves
        _check(settings)
    from attune.service.one_process import serve_one  # noqa: PLC0415  only `serve` needs it

    serve_one(settings, listener, partial(_listen, listener), place)


def main() -> None:
    """Runs the command line."""
    app(prog_name="attune")


if __name__ == "__main__":
    main()
