"""`attune import …`: what was trained elsewhere becomes a folder of families."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from attune.command_line import plain_app
from attune.models.commands.options import Cache, Out, Seed

import_app = plain_app("Bring in what was trained elsewhere. Needs the extra `train`.")


@import_app.callback()
def import_group() -> None:
    """Keeps `reward` a command of its own while it is the only one."""


@import_app.command("reward")
def import_reward(
    model: Annotated[str, typer.Argument(metavar="ID_OR_DIR", help="A sequence classifier, folder or hub id; its code is never run.")],
    out: Out,
    names: Annotated[str, typer.Option(help="Of its heads, with commas between; the model's labels if not given.")] = "",
    users: Annotated[str, typer.Option(metavar="FILE", help="Comparisons of people, to fit how they weigh the heads.")] = "",
    max_tokens: Annotated[int | None, typer.Option(min=8, help="Of a text; the model's own limit up to 2048 if not given.")] = None,
    cache: Cache = None,
    seed: Seed = 0,
) -> None:
    """Make a trained reward model's outputs named heads, checked against transformers on 32 texts."""
    from attune.models.training.importing import import_reward_model  # noqa: PLC0415 - torch

    given = [name.strip() for name in names.split(",")] if names else []
    done = import_reward_model(model, out, given, users, max_tokens=max_tokens, cache=cache, seed=seed)
    for line in done.told:
        typer.echo(line, err=True)
    typer.echo(json.dumps(done.summary, indent=1))
