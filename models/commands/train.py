"""`attune train …`: from data to what is served."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from attune.command_line import aside, plain_group
from attune.models.commands.options import Base, Changes, Out, PromptsOption, RewardsOption, Seed
from attune.models.commands.reading import reads_table

train_app = plain_group("Train on your own data. Needs the extra `train`.")


@train_app.command("router")
@reads_table
def train_router(
    bundle: Annotated[Path, typer.Option(help="The bundle that serves.")],
    comparisons: Annotated[str, typer.Option(help="Exports of users, or a table with prompt, chosen, rejected, user and context.")],
    reading: Any,
    family: Annotated[str, typer.Option(help="Name of the mixture; not needed where the bundle has one.")] = "",
    out: Out = Path(".attune/bundles"),
    tau: Annotated[float, typer.Option(help="Temperature of the targets; the paper has 1e-3 and 1e-4.")] = 1e-3,
    audit: Annotated[bool, typer.Option(help="Mask heads that harm on held-out comparisons.")] = True,
    seed: Seed = 0,
) -> None:
    """Retrain the router of a mixture on logged comparisons with contexts (MiCRo, stage 2); users keep what they taught."""
    from attune.models.data.logged import read_logged  # noqa: PLC0415
    from attune.models.data.preferences import Comparisons  # noqa: PLC0415
    from attune.models.export.router import retrain_router  # noqa: PLC0415
    from attune.models.training.micro_context import RouterSettings  # noqa: PLC0415

    logged = read_logged(comparisons, reading)
    aside(f"{len(logged.records):,} comparisons, {logged.with_context:,} with a context; {logged.without_texts:,} without texts left out")
    for kind, count in logged.unknown.items():
        aside(f"{count:,} lines of the kind {kind!r} passed over")
    told = Comparisons.from_records(logged.records)
    done = retrain_router(bundle, told, out, family=family, settings=RouterSettings(tau=tau), audit=audit, seed=seed)
    typer.echo(json.dumps({"bundle": str(done.path), "without_texts": logged.without_texts, **done.summary}, indent=1))


@train_app.command("member")
def train_member(
    weights: Annotated[str, typer.Option(help="Over the rewards, as in concise=1,formal=0.5; used as they are.")],
    out: Annotated[Path, typer.Option(help="Folder of this member; run again with the same options to go on after a kill.")],
    base: Base,
    rewards: RewardsOption,
    prompts: PromptsOption,
    shared: Annotated[Path | None, typer.Option(help="Where the base's answers are kept for all members.")] = None,
    base_name: Annotated[str, typer.Option(help="What the adapter calls its base.")] = "",
    settings: Changes = None,
    seed: Seed = 0,
) -> None:
    """Align one member of a portfolio with DPO and a guard; writes a peft adapter and member.json."""
    from attune.models.alignment.member import MemberSettings  # noqa: PLC0415 - torch
    from attune.models.measuring.members import train_one  # noqa: PLC0415 - torch
    from attune.models.portfolio.inputs import changed, load_rewards, read_prompts  # noqa: PLC0415 - torch

    document = train_one(
        base,
        weights,
        out,
        load_rewards(rewards),
        read_prompts(prompts),
        settings=changed(MemberSettings(), settings or []),
        seed=seed,
        shared=shared,
        base_name=base_name,
        progress=typer.echo,
    )
    typer.echo(json.dumps(document["held_out"], indent=1))
