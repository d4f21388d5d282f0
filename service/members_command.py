"""`attune members measure`: what language models are worth, measured before they serve."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attune.command_line import EXIT_FAILED, EXIT_SETTINGS, AsJson, KeyEnv, aside, key_in, plain_app, print_document, refuse

members_app = plain_app("What members are worth, measured before they serve.")


@members_app.command("measure")
def measure(
    bundle: Annotated[Path, typer.Option(help="Folder of the bundle that scores the answers.")],
    roster: Annotated[Path, typer.Option(help="File that names the language models.")],
    prompts: Annotated[
        Path, typer.Option(help="File with one prompt on each line: text, or JSON with `prompt`.", exists=True, dir_okay=False)
    ],
    out: Annotated[Path, typer.Option(help="File to write to, as JSON; answers are kept beside it, and a run broken off goes on.")],
    url: Annotated[str, typer.Option(help="Address of a running Attune that takes what was measured as evidence; none if not given.")] = "",
    key_env: KeyEnv = "",
    max_tokens: Annotated[int, typer.Option(min=1, help="Number of tokens of an answer at most.")] = 512,
    together: Annotated[int, typer.Option(min=1, help="Number of requests at the same time at most.")] = 8,
    per_second: Annotated[float, typer.Option(min=0.0, help="Number of requests begun in a second at most; 0 sets no limit.")] = 0.0,
    *,
    as_json: AsJson = False,
) -> None:
    """Ask members the same prompts, score the answers, and say what each is worth, with intervals and a certificate."""
    from attune.service import upstream_measurement as measuring  # noqa: PLC0415  the other commands stay fast without it
    from attune.service.errors import AttuneError  # noqa: PLC0415  the same
    from attune.service.observe.logs import configure_logging  # noqa: PLC0415  the same
    from attune.service.settings import SettingsError, read_settings  # noqa: PLC0415  the same

    key = key_in(key_env)
    try:
        settings = read_settings(bundle=str(bundle), roster=str(roster))
        configure_logging("error", settings.log_format)  # what a start says is not what was asked for
        asking = measuring.Asking(max_tokens=max_tokens, together=together, per_second=per_second)
        document = measuring.measure_members(settings, measuring.read_prompts(prompts), out, asking, aside)
        taken = measuring.import_measured(url, document, key) if url else None
        if as_json:
            print_document({**document, "written": str(out), "imported": taken})
            return
        typer.echo("\n".join(measuring.in_lines(document, out, url, taken)))
    except SettingsError as error:
        refuse("cannot measure with these settings", [str(problem) for problem in error.problems], EXIT_SETTINGS)
    except (AttuneError, measuring.MeasureFailed) as error:
        goes_on = isinstance(error, measuring.MeasureFailed) and error.goes_on
        refuse(f"the measurement stopped{'; the same command goes on with what is left' if goes_on else ''}", [str(error)], EXIT_FAILED)
