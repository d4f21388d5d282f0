"""`attune measure …`: what trained heads, members and routing policies are worth, with seeds and 95 % intervals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from attune.command_line import AsJson, aside, plain_group, print_document
from attune.models.commands.options import (
    VECTORS,
    Apart,
    Base,
    KeptVectors,
    OnlyRuns,
    Out,
    Processes,
    PromptsOption,
    RewardsOption,
    Seed,
    Seeds,
    UsersAtMost,
    existing_path,
    makeable,
    model_source,
)
from attune.models.commands.reading import TABLE, reads_table

measure_app = plain_group("Measure what heads, members and routing policies are worth, with 95 % intervals. Needs the extra `train`.")


@measure_app.command("families")
@reads_table
def measure_families(
    families: Annotated[
        Path, typer.Argument(metavar="FOLDER", callback=existing_path, help="What `train families` or `import reward` wrote.")
    ],
    data: Annotated[str, typer.Argument(metavar="FILE", help=f"Comparisons of other people: {TABLE}.")],
    reading: Any,
    out: Annotated[
        Path | None,
        typer.Option(file_okay=False, callback=makeable, help="Folder to write the report to; `measured` in FOLDER if not given."),
    ] = None,
    trunk: Annotated[
        str,
        typer.Option(
            metavar="ID_OR_DIR", callback=model_source, help="Folder or hub id of the heads' trunk; where it was in training if not given."
        ),
    ] = "",
    apart: Apart = "",
    cache: KeptVectors = VECTORS,
    processes: Processes = 1,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Curves of heads that are trained already, on people training never met, and a verdict; trains none of them."""
    from attune.models.measuring.families.more_people import MorePeople, measure_more  # noqa: PLC0415 - torch

    written = out or families / "measured"
    found = measure_more(families, data, reading, written, MorePeople(trunk or None, seed, apart, processes), cache=cache, tell=aside)
    if as_json:
        print_document(found)
    else:
        typer.echo((written / "report.md").read_text(encoding="utf-8"))


@measure_app.command("learners")
@reads_table
def measure_learners(
    data: Annotated[str, typer.Argument(metavar="FILE", help=f"Comparisons of users: {TABLE}.")],
    reading: Any,
    out: Out = Path(".attune/families"),
    cache: KeptVectors = VECTORS,
    seeds: Seeds = 3,
    users: UsersAtMost = 400,
    only: OnlyRuns = None,
    as_json: AsJson = False,
) -> None:
    """Train every family and baseline on a part of a table and compare them on the rest; writes report.md, results.json and plots."""
    from attune.models.measuring.families.runs import evaluate_file  # noqa: PLC0415 - torch

    report = evaluate_file(data, reading, out, cache=cache, seeds=seeds, users=users, only=tuple(only or ()))
    if as_json:
        print_document(json.loads((out / "results.json").read_bytes()))
    else:
        typer.echo(report)


@measure_app.command("members")
def measure_members(
    members: Annotated[Path, typer.Argument(callback=existing_path, help="Folder that holds a folder with the adapter of each member.")],
    base: Base,
    rewards: RewardsOption,
    prompts: PromptsOption,
    answers: Annotated[int, typer.Option(min=1, help="Number of answers to each prompt, by the base and by each member.")] = 2,
    out: Out = Path(".attune/members"),
    seed: Seed = 1,
    as_json: AsJson = False,
) -> None:
    """What aligning did to each member on held-out prompts: rewards, KL, perplexity, diversity; writes members.md and .json."""
    from attune.models.measuring.aligned_members import judge  # noqa: PLC0415 - torch
    from attune.models.portfolio.inputs import load_rewards, read_prompts, tried  # noqa: PLC0415 - torch

    asked = read_prompts(prompts).held_out
    table = judge(base, members, tried(load_rewards(rewards), asked), asked, answers, out, seed=seed, progress=aside)
    if as_json:
        print_document(json.loads((out / "members.json").read_bytes()))
    else:
        typer.echo(table)


@measure_app.command("policy")
def measure_policy(
    decisions: Annotated[Path, typer.Option(help="JSON lines with the decisions: exports of users, or answers of GET /decisions.")],
    feedback: Annotated[Path, typer.Option(help="JSON lines with the comparisons: exports of users; this may be the same file.")],
    out: Out = Path(".attune/policy"),
    as_json: AsJson = False,
) -> None:
    """What other routing policies would have been worth, from logged propensities: IPS, SNIPS, DR with 95 % intervals."""
    from attune.models.measuring.policy.values_report import evaluate_log  # noqa: PLC0415 - scipy

    evaluate_log(decisions, feedback, out)
    if as_json:
        print_document(json.loads((out / "results.json").read_bytes()))
    else:
        typer.echo((out / "report.md").read_text(encoding="utf-8"))
