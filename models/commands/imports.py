"""`attune import …`: what was trained elsewhere becomes a folder of families."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from attune.command_line import aside, plain_app, print_document
from attune.models.commands.options import Cache, Context, Out, PromptShare, Seed, model_source
from attune.models.commands.reading import TABLE, reads_table

import_app = plain_app("Bring in what was trained elsewhere. Needs the extra `train`.")


@import_app.callback()
def import_group() -> None:
    """Keeps `reward` a command of its own while it is the only one."""


@import_app.command("reward")
@reads_table
def import_reward(
    model: Annotated[
        str,
        typer.Argument(
            metavar="ID_OR_DIR",
            callback=model_source,
            help="Folder or hub id of a sequence classifier; code that comes with it is never run.",
        ),
    ],
    reading: Any,
    out: Out,
    names: Annotated[str, typer.Option(help="Names of the heads, with commas between them; the model's labels if not given.")] = "",
    users: Annotated[
        str,
        typer.Option(
            metavar="FILE", help=f"Comparisons of people, to learn how they weigh the heads; nothing is learned if not given. {TABLE}."
        ),
    ] = "",
    context: Context = None,
    prompt_share: PromptShare = 0.25,
    cache: Cache = None,
    seed: Seed = 0,
) -> None:
    """Make a trained reward model's outputs named heads, checked against transformers on 32 texts."""
    from attune.models.data.templates import TextLimits  # noqa: PLC0415
    from attune.models.export.trial import expect_graph  # noqa: PLC0415 - torch
    from attune.models.training.reward_model_import import import_reward_model  # noqa: PLC0415 - torch

    given = [name.strip() for name in names.split(",")] if names else []
    done = import_reward_model(
        model,
        out,
        given,
        users,
        reading=reading,
        limits=TextLimits(context, prompt_share),
        cache=cache,
        seed=seed,
        expect=lambda trunk: expect_graph(trunk, cache, aside),
    )
    for line in done.told:
        aside(line)
    print_document(done.summary)
    aside(f"next: attune bundle build {out} --out .attune/bundles")
