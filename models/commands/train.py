"""`attune train …`: from data to what is served."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from attune.command_line import AsJson, aside, plain_group, print_document
from attune.models.commands.options import (
    VECTORS,
    Apart,
    Base,
    Changes,
    Context,
    KeptVectors,
    Out,
    Processes,
    PromptShare,
    PromptsOption,
    RewardsOption,
    Seed,
    existing_path,
    makeable,
    model_source,
)
from attune.models.commands.reading import TABLE, reads_table
from attune.models.seam.counts import counted


class Pooling(StrEnum):
    """How the states of a text's tokens become one vector."""

    mean = "mean"
    last = "last"
    cls = "cls"


train_app = plain_group("Train on your own data. Needs the extra `train`.")


@train_app.command("families")
@reads_table
def train_families(
    source: Annotated[str, typer.Argument(metavar="FILE", help=f"Comparisons, votes, ratings or scores: {TABLE}.")],
    reading: Any,
    out: Out,
    trunk: Annotated[
        str,
        typer.Option(
            metavar="ID_OR_DIR",
            callback=model_source,
            help="Folder or hub id of an encoder or decoder; a small encoder of sentences if not given.",
        ),
    ] = "",
    layers: Annotated[
        str, typer.Option(help="Hidden states that are pooled, such as 0,3,6; an early, a middle and the last one if not given.")
    ] = "",
    pooling: Annotated[Pooling, typer.Option(help="How the states of a text's tokens become one vector.")] = Pooling.mean,
    context: Context = None,
    prompt_share: PromptShare = 0.25,
    beside: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            callback=existing_path,
            help="What `import reward` wrote: its heads are kept beside those trained here, on its trunk; none if not given.",
        ),
    ] = None,
    families: Annotated[
        str,
        typer.Option(help="Names of families to train, with commas between them; those that did best in every measurement if not given."),
    ] = "",
    personalise: Annotated[
        bool,
        typer.Option("--personalise", help="Personalise even where no gain was found, or people are too few to learn how they differ."),
    ] = False,
    apart: Apart = "",
    folds: Annotated[
        int,
        typer.Option(
            min=0, help="How often people are divided anew into those who train and strangers; 0 decides by how many people there are."
        ),
    ] = 0,
    cache: KeptVectors = VECTORS,
    processes: Processes = 1,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Train reward families on your comparisons, measure them on people they never met, and say whether to personalise."""
    from attune.models.data.adapters import read_comparisons  # noqa: PLC0415 - numpy
    from attune.models.data.hub import DEMO_TRUNK, located  # noqa: PLC0415
    from attune.models.data.templates import TextLimits  # noqa: PLC0415
    from attune.models.seam.registry import expect_trainable  # noqa: PLC0415 - numpy

    if layers and not all(one.strip().isdigit() for one in layers.split(",")):
        raise typer.BadParameter(f"{layers!r} is not numbers with commas between, such as 0,3,6", param_hint="--layers")
    named = tuple(int(one) for one in layers.split(",")) if layers else None
    if beside is not None and (trunk or layers or context or pooling is not Pooling.mean):
        raise typer.BadParameter("the trunk is that of the imported heads, with its layers, pooling and context", param_hint="--beside")
    wanted = tuple(one.strip() for one in families.split(",")) if families else ()
    try:
        expect_trainable(wanted)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--families") from None
    if trunk and trunk != DEMO_TRUNK:
        located(trunk)  # before a table is read, which may take minutes
    comparisons = read_comparisons(source, reading)
    comparisons.expect_decided()
    unknown = int(comparisons.anonymous.sum())
    known = counted(len(comparisons.users) - unknown, "person", "people")
    aside(f"{counted(len(comparisons), 'comparison')} of {known}" + (f" and {unknown:,} of nobody named" if unknown else ""))
    # Only now, for torch takes seconds to load, and a table that teaches nothing is refused without it.
    from attune.models.data.trunk import load_trunk, spread_layers  # noqa: PLC0415 - torch
    from attune.models.export.trial import expect_graph  # noqa: PLC0415 - torch
    from attune.models.measuring.families.own_data import OwnData, train_own  # noqa: PLC0415 - torch
    from attune.models.training.beside import read_beside  # noqa: PLC0415 - torch

    limits = TextLimits(context, prompt_share)
    named_trunk = trunk or DEMO_TRUNK
    if beside is not None:
        imported, loaded = read_beside(beside)
    else:
        imported, loaded = None, load_trunk(named_trunk, layers=named or spread_layers(named_trunk), pooling=pooling.value, limits=limits)
    expect_graph(loaded, cache, aside)
    settings = OwnData(names=wanted, personalise=personalise, apart=apart, folds=folds, processes=processes, seed=seed)
    found = train_own(comparisons, loaded, out, settings, cache=cache, tell=aside, beside=imported)
    if as_json:
        print_document(found)
    else:
        typer.echo((out / "report.md").read_text(encoding="utf-8"))
    packing = f"attune bundle build {out} --out .attune/bundles"
    if found["at_first"].get(found["default"], {}).get("below"):  # such a folder is refused
        packing = f"train on more comparisons, or {packing} --serve-anyway"
    aside(f"next: {packing}")


@train_app.command("router")
@reads_table
def train_router(
    bundle: Annotated[Path, typer.Option(callback=existing_path, help="The bundle that serves.")],
    comparisons: Annotated[str, typer.Option(help="Exports of users, or a table with prompt, chosen, rejected, user and context.")],
    reading: Any,
    family: Annotated[str, typer.Option(help="Name of the mixture to retrain; not needed where the bundle has only one.")] = "",
    out: Out = Path(".attune/bundles"),
    tau: Annotated[float, typer.Option(help="Temperature of the targets; the paper uses 0.001 and 0.0001.")] = 1e-3,
    audit: Annotated[bool, typer.Option(help="Mask heads that do harm on held-out comparisons.")] = True,
    seed: Seed = 0,
) -> None:
    """Retrain the router of a mixture on logged comparisons with contexts (MiCRo, stage 2); users keep what they taught."""
    from attune.models.data.logged import read_logged  # noqa: PLC0415
    from attune.models.data.preferences import Comparisons  # noqa: PLC0415
    from attune.models.export.router import retrain_router  # noqa: PLC0415
    from attune.models.training.micro_context import RouterSettings  # noqa: PLC0415

    logged = read_logged(comparisons, reading)
    aside(
        f"{counted(len(logged.records), 'comparison')}, {logged.with_context:,} with a context; "
        f"{logged.without_texts:,} without texts left out"
    )
    for kind, count in logged.unknown.items():
        aside(f"{counted(count, 'line')} of the kind {kind!r} passed over")
    told = Comparisons.from_records(logged.records)
    done = retrain_router(bundle, told, out, family=family, settings=RouterSettings(tau=tau), audit=audit, seed=seed)
    print_document({"bundle": str(done.path), "without_texts": logged.without_texts, **done.summary})


@train_app.command("member")
def train_member(
    weights: Annotated[str, typer.Option(help="Weights over the rewards, such as concise=1,formal=0.5; they are used as they are.")],
    out: Annotated[Path, typer.Option(callback=makeable, help="Folder of this member; the same command goes on after a kill.")],
    base: Base,
    rewards: RewardsOption,
    prompts: PromptsOption,
    shared: Annotated[
        Path | None,
        typer.Option(
            callback=makeable, help="Folder that keeps the base's answers for several members; the member's own folder if not given."
        ),
    ] = None,
    base_name: Annotated[str, typer.Option(help="Name that the adapter's configuration gives its base; none if not given.")] = "",
    settings: Changes = None,
    seed: Seed = 0,
) -> None:
    """Align one member of a portfolio with DPO and a guard; writes a peft adapter and member.json."""
    from attune.models.alignment.trained_member import MemberSettings  # noqa: PLC0415 - torch
    from attune.models.measuring.aligned_members import train_one  # noqa: PLC0415 - torch
    from attune.models.portfolio.inputs import changed, load_rewards, read_prompts, tried  # noqa: PLC0415 - torch

    judged_by = load_rewards(rewards)
    asked = read_prompts(prompts)
    document = train_one(
        base,
        weights,
        out,
        tried(judged_by, asked.training),
        asked,
        settings=changed(MemberSettings(), settings or []),
        seed=seed,
        shared=shared,
        base_name=base_name,
        progress=aside,
    )
    print_document(document["held_out"])
