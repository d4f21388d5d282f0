"""The commands of the offline half: train, bundle, evaluate. `attune` shows them beside its own.

Every import of torch is inside a command, so that `--help` costs nothing.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

import attune
from attune.models.commands.portfolio import plainly, portfolio_app

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Train, export and evaluate what the service serves.")
bundle_app = typer.Typer(no_args_is_help=True, help="Build and inspect bundles.")
train_app = typer.Typer(no_args_is_help=True, help="Train the demo from seeds.")
evaluate_app = typer.Typer(no_args_is_help=True, help="Measure, with seeds and 95 % intervals.")
data_app = typer.Typer(no_args_is_help=True, help="Look at data before training on it.")
app.add_typer(bundle_app, name="bundle")
app.add_typer(portfolio_app, name="portfolio")
app.add_typer(data_app, name="data")
app.add_typer(train_app, name="train")
app.add_typer(evaluate_app, name="evaluate")

DEMO = Path(attune.__file__).parent / "demo"


class Precision(StrEnum):
    """Number format of the exported trunk."""

    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"


Seed = Annotated[int, typer.Option(help="Seed of everything random in this command.")]
Out = Annotated[Path, typer.Option(help="Folder to write to; made if absent.")]
Cache = Annotated[Path | None, typer.Option(help="Folder that keeps embeddings between runs; none if not given.")]


@bundle_app.command("demo")
def bundle_demo(
    out: Out = Path(".attune/bundles"),
    precision: Annotated[
        Precision, typer.Option(help="fp16 is for CUDA, int8 for a CPU; both are faster than fp32 and less exact.")
    ] = Precision.fp32,
) -> None:
    """Export the trunk with the committed demo heads and pack the bundle; prints its directory."""
    from attune.models.export.pack import pack_demo  # noqa: PLC0415 - torch

    typer.echo(pack_demo(out, DEMO, precision=precision.value))


@bundle_app.command("show")
def bundle_show(path: Annotated[Path, typer.Argument(help="A bundle directory.")]) -> None:
    """Verify a bundle and print its manifest without the file table."""
    from attune.models.seam.bundle import BundleInvalid, read_bundle  # noqa: PLC0415 - hashing is for those who ask

    try:
        bundle = read_bundle(path)
    except BundleInvalid as error:
        typer.echo(f"not a usable bundle: {error}", err=True)
        raise typer.Exit(1) from None
    shown = {key: value for key, value in bundle.manifest.items() if key != "files"}
    shown["families"] = {name: list(bundle.families[name].heads) for name in bundle.families.names}
    shown["members"] = list(bundle.portfolio.names)
    typer.echo(json.dumps(shown, indent=1, sort_keys=True))


@data_app.command("check")
def data_check(
    source: Annotated[str, typer.Argument(metavar="FILE", help=".jsonl(.gz), .json, .parquet, a saved dataset, or hf:NAME:SPLIT.")],
    shape: Annotated[str, typer.Option(help="pairs, scores or ratings; found from the columns if not given.")] = "",
    column: Annotated[list[str] | None, typer.Option(help="OURS=THEIRS, for tables that call a column otherwise.")] = None,
    ignore: Annotated[list[str] | None, typer.Option(help="A column that nothing should read.")] = None,
    least_gap: Annotated[float, typer.Option(min=0.0, help="Scores or ratings that differ by no more are not compared.")] = 0.0,
    shown: Annotated[int, typer.Option(min=1, help="Bad rows to name; the others are counted.")] = 10,
) -> None:
    """Read comparisons, scores or ratings, and print counts, users, hash and what is wrong with which line; exits 1 on bad rows."""
    from attune.models.data.adapters import Reading  # noqa: PLC0415 - numpy
    from attune.models.data.check import survey  # noqa: PLC0415
    from attune.models.data.preferences import ComparisonInvalid  # noqa: PLC0415

    try:
        found = survey(source, Reading.from_words(shape, column or [], ignore or [], least_gap=least_gap, shown=shown))
    except ComparisonInvalid as error:
        typer.echo(f"cannot be read: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo("\n".join(found.lines()))
    raise typer.Exit(1 if found.bad or not found.comparisons else 0)


@train_app.command("language-model")
def train_language_model(out: Out = DEMO / "language_model", seed: Seed = 0) -> None:
    """Train the demo's base language model from scratch; its members come from `train portfolio`."""
    from demo.language_model.training import train_demo_language_model  # noqa: PLC0415 - torch

    train_demo_language_model(out, seed=seed, manners=(), progress=typer.echo)


@train_app.command("router")
def train_router(
    bundle: Annotated[Path, typer.Option(help="The bundle that serves.")],
    comparisons: Annotated[Path, typer.Option(help="JSONL: exports of users, or lines with prompt, chosen, rejected, user, context.")],
    out: Out = Path(".attune/bundles"),
    tau: Annotated[float, typer.Option(help="Temperature of the targets; the paper has 1e-3 and 1e-4.")] = 1e-3,
    audit: Annotated[bool, typer.Option(help="Mask heads that harm on held-out comparisons.")] = True,
    seed: Seed = 0,
) -> None:
    """Retrain the router of `micro` on logged comparisons with contexts (MiCRo, stage 2); users keep what they taught."""
    from attune.models.data.preferences import Comparisons  # noqa: PLC0415
    from attune.models.export.router import retrain_router  # noqa: PLC0415
    from attune.models.seam.exports import read_logged  # noqa: PLC0415 - torch below, and numpy for --help
    from attune.models.training.micro_context import RouterSettings  # noqa: PLC0415

    try:
        logged = read_logged(comparisons)
        told = Comparisons.from_records(logged.records)
        done = retrain_router(bundle, told, out, settings=RouterSettings(tau=tau), audit=audit, seed=seed)
    except (FileNotFoundError, RuntimeError, ValueError) as error:
        typer.echo(f"no new router: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(json.dumps({"bundle": str(done.path), "without_texts": logged.without_texts, **done.summary}, indent=1))


@train_app.command("demo")
def train_demo(out: Out = DEMO, seed: Seed = 0, cache: Cache = None) -> None:
    """Train the demo's reward heads, on generated answers and on those of the demo's base language model."""
    from demo.heads import train_demo  # noqa: PLC0415 - torch

    train_demo(out, seed=seed, cache=cache)


@train_app.command("portfolio")
def train_portfolio(
    out: Out = DEMO,
    seed: Seed = 0,
    work: Annotated[Path, typer.Option(help="Keeps adapters and answers; a run that was broken off goes on.")] = Path(".attune/portfolio"),
    jobs: Annotated[int, typer.Option(min=1, help="Adapters trained at the same time where the search allows it, a thread each.")] = 1,
) -> None:
    """Find the demo's members by lazy search, align them by DPO, prune and certify them, and measure what they are worth."""
    from demo.portfolio import train_portfolio  # noqa: PLC0415 - torch

    train_portfolio(out, work, seed=seed, jobs=jobs)


@train_app.command("member")
def train_member(
    weights: Annotated[str, typer.Option(help="Over the rewards, as in concise=1,formal=.5; used as they are.")],
    out: Annotated[Path, typer.Option(help="Folder of this member; run again with the same options to go on after a kill.")],
    base: Annotated[str, typer.Option(help="Folder or hub id of a causal language model.")] = str(DEMO / "language_model" / "base"),
    rewards: Annotated[str | None, typer.Option(help="module:name of Rewards; the demo's manners if not given.")] = None,
    prompts: Annotated[Path | None, typer.Option(help="Text file, one prompt a line; the demo's if not given.")] = None,
    shared: Annotated[Path | None, typer.Option(help="Where the base's answers are kept for all members.")] = None,
    base_name: Annotated[str, typer.Option(help="What the adapter calls its base.")] = "",
    settings: Annotated[list[str] | None, typer.Option("--set", help="dpo.beta=.2, limits.most_perplexity=3, answers=4, ...")] = None,
    seed: Seed = 0,
) -> None:
    """Align one member of a portfolio with DPO and a guard; writes a peft adapter and member.json."""
    from attune.models.measuring.members import train_one  # noqa: PLC0415 - torch

    with plainly():
        document = train_one(base, weights, out, rewards, prompts, shared, base_name, settings or [], seed=seed, progress=typer.echo)
        typer.echo(json.dumps(document["held_out"], indent=1))


@evaluate_app.command("members")
def evaluate_members(
    members: Annotated[Path, typer.Argument(help="Folder with one adapter folder a member.")] = DEMO / "language_model" / "adapters",
    base: Annotated[str, typer.Option(help="Folder or hub id of their base.")] = str(DEMO / "language_model" / "base"),
    rewards: Annotated[str | None, typer.Option(help="module:name of Rewards; the demo's manners if not given.")] = None,
    prompts: Annotated[Path | None, typer.Option(help="Text file, one prompt a line, of which a tenth is held out.")] = None,
    answers: Annotated[int, typer.Option(min=1, help="To each prompt, of base and member.")] = 2,
    out: Out = Path(".attune/members"),
    seed: Seed = 1,
) -> None:
    """What aligning did to each member on held-out prompts: rewards, KL, perplexity, diversity; writes members.md and .json."""
    from attune.models.measuring.members import judge  # noqa: PLC0415 - torch

    with plainly():
        typer.echo(judge(base, members, rewards, prompts, answers, out, seed=seed, progress=lambda line: typer.echo(line, err=True)))


@evaluate_app.command("oracle")
def evaluate_oracle(
    out: Out = Path(".attune/oracle"),
    seed: Seed = 0,
    instances: Annotated[int, typer.Option(min=10, help="Random worlds for each number of rewards.")] = 334,
    seeds: Annotated[int, typer.Option(min=2, help="Portfolios of each kind whose sizes are compared.")] = 12,
    cache: Cache = None,
) -> None:
    """Lazy search with an exact oracle: promise against truth, calls against the grid, sizes against chance."""
    from studies.oracle.oracle import OracleStudy  # noqa: PLC0415 - scipy
    from studies.oracle.run import evaluate_oracle  # noqa: PLC0415 - torch

    evaluate_oracle(out, seed=seed, study=OracleStudy(instances=instances), seeds=seeds, demo=DEMO, cache=cache, progress=_aside)


@evaluate_app.command("zeroeval")
def evaluate_zeroeval(
    data: Annotated[Path, typer.Argument(help="Folder with gsm, crux and math-l5 response matrices.")],
    out: Out = Path(".attune/zeroeval"),
    seed: Seed = 0,
    splits: Annotated[int, typer.Option(min=2, help="Random halves of the questions.")] = 10,
    without: Annotated[str, typer.Option(help="Models whose names start so are left out: o1 hides what it writes.")] = "o1",
    cache: Cache = Path(".attune/cache"),
) -> None:
    """Real LLMs as a portfolio for users who weigh correctness against length: routing against the best single model."""
    from attune.models.data.trunk import TrunkUnavailable  # noqa: PLC0415 - torch
    from studies.zeroeval.responses import ResponsesInvalid  # noqa: PLC0415
    from studies.zeroeval.run import evaluate_zeroeval  # noqa: PLC0415 - torch

    try:
        evaluate_zeroeval(data, out, seed=seed, splits=splits, without=without, cache=cache, progress=_aside)
    except (ResponsesInvalid, TrunkUnavailable) as error:
        typer.echo(f"cannot be read: {error}", err=True)
        raise typer.Exit(1) from None


@evaluate_app.command("policy")
def evaluate_policy(
    decisions: Annotated[Path | None, typer.Option(help="JSONL: exports of users, or GET /decisions answers.")] = None,
    feedback: Annotated[Path | None, typer.Option(help="JSONL with the comparisons: exports of users; may be the same file.")] = None,
    check: Annotated[int, typer.Option(min=0, help="Simulated logs on which the intervals are checked against the truth.")] = 0,
    out: Out = Path(".attune/policy"),
    seed: Seed = 0,
) -> None:
    """What other routing policies would have been worth, from logged propensities: IPS, SNIPS, DR with 95 % intervals."""
    from attune.models.measuring.policy.estimators import LogInvalid  # noqa: PLC0415 - scipy
    from attune.models.measuring.policy.report import check_estimators, evaluate_log  # noqa: PLC0415

    if check:
        check_estimators(check, out, seed=seed, progress=_aside)
        typer.echo((out / "coverage.md").read_text(encoding="utf-8"))
    if (decisions is None) != (feedback is None) or not (decisions or check):
        raise typer.BadParameter("--decisions and --feedback belong together; --check needs neither")
    if decisions is not None and feedback is not None:
        try:
            evaluate_log(decisions, feedback, out)
        except (LogInvalid, OSError) as error:
            typer.echo(f"cannot be evaluated: {error}", err=True)
            raise typer.Exit(1) from None
        typer.echo((out / "report.md").read_text(encoding="utf-8"))


@evaluate_app.command("demo")
def evaluate_demo(
    bundle: Annotated[Path | None, typer.Option(help="Bundle to evaluate; the committed heads if not given.")] = None,
    out: Out = Path(".attune/evaluation"),
    seed: Seed = 1,
    users: Annotated[int, typer.Option(min=10, help="Simulated users.")] = 200,
) -> None:
    """Simulated users with known tastes, through the server's own functions; writes report.md and results.json."""
    from demo.report import evaluate_demo  # noqa: PLC0415 - torch

    evaluate_demo(bundle, out, seed=seed, users=users)


@evaluate_app.command("routing")
def evaluate_routing(
    bundle: Annotated[Path, typer.Argument(help="A demo bundle with a certificate.")],
    out: Out = Path(".attune/routing"),
    users: Annotated[int, typer.Option(min=10, help="Simulated users for each of three seeds.")] = 100,
) -> None:
    """Users of the portfolio round by round, against bandits that start anew with each; writes report.md and regret.png."""
    from studies.bandits.routing import evaluate_demo_routing  # noqa: PLC0415 - torch

    evaluate_demo_routing(bundle, DEMO, out, users=users)


@evaluate_app.command("precision")
def evaluate_precision(
    texts: Annotated[int, typer.Option(min=16, help="Held-out answers to compare on.")] = 256,
    seed: Seed = 0,
) -> None:
    """Accuracy loss and batch dependence of the int8 scorer against fp32."""
    from attune.models.export.pack import precision_loss  # noqa: PLC0415 - torch

    typer.echo(json.dumps(asdict(precision_loss(DEMO, texts=texts, seed=seed)), indent=1))


@evaluate_app.command("families")
def evaluate_families(
    data: Annotated[str, typer.Option(help="`jester`, `ukpconvarg1`, or a file of comparisons with a user each.")],
    folder: Annotated[Path | None, typer.Option(help="Folder of the public set; neither is distributed with this project.")] = None,
    out: Out = Path(".attune/families"),
    cache: Annotated[Path | None, typer.Option(help="Folder of the embedding cache.")] = Path(".attune/cache"),
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of the main run: splits, trainings and contexts.")] = 3,
    users: Annotated[int, typer.Option(min=10, help="Most users of each kind and seed.")] = 400,
    only: Annotated[list[str] | None, typer.Option(help="Runs by name; all if not given.")] = None,
) -> None:
    """Few-shot curves of every family and baseline on real people's choices; writes report.md, results.json and plots."""
    from attune.models.measuring.families.runs import evaluate_set  # noqa: PLC0415 - torch

    evaluate_set(data, folder, out, cache=cache, seeds=seeds, users=users, only=tuple(only or ()))


def _aside(line: str) -> None:
    typer.echo(line, err=True)


@evaluate_app.command("sparserm")
def evaluate_sparserm(
    data: Annotated[Path, typer.Option(help="Folder with ukpconvarg1, hidden_context_hh and summeval_op; absent ones are left out.")],
    out: Out = Path(".attune/sparserm"),
    cache: Annotated[Path, typer.Option(help="Keeps vectors, token states and the autoencoder.")] = Path(".attune/cache"),
    seeds: Annotated[int, typer.Option(min=2, help="Cuts, starts and random directions.")] = 10,
    autoencoder: Annotated[Path | None, typer.Option(help="A public one (SAELens or Gemma Scope) of the same layer.")] = None,
    seed: Seed = 0,
) -> None:
    """Directions of a sparse autoencoder against random ones, the dense state and latents; writes report.md, results.json, sweep.png."""
    from attune.models.data.sae_files import AutoencoderInvalid  # noqa: PLC0415 - torch
    from studies.sparserm.comparison import StudySettings  # noqa: PLC0415
    from studies.sparserm.run import evaluate_sparserm  # noqa: PLC0415

    try:
        evaluate_sparserm(data, out, cache, seed=seed, settings=StudySettings(tuple(range(seeds))), public=autoencoder, progress=_aside)
    except AutoencoderInvalid as error:
        typer.echo(f"cannot be used: {error}", err=True)
        raise typer.Exit(1) from None


@evaluate_app.command("groups")
def evaluate_groups(out: Out = Path(".attune/groups"), seed: Seed = 1) -> None:
    """Two to eight opposed groups: share of Bayes-optimal accuracy, groups recovered, too few and too many heads."""
    from studies.groups.run import evaluate_groups  # noqa: PLC0415 - torch

    evaluate_groups(out, seed=seed)


@evaluate_app.command("controlled")
def evaluate_controlled(out: Out = Path(".attune/controlled"), seed: Seed = 1) -> None:
    """The attribute-style controlled set: does the sparse mixture divide prompts and users as it should?"""
    from studies.controlled.run import evaluate_controlled  # noqa: PLC0415 - torch

    evaluate_controlled(out, seed=seed)


if __name__ == "__main__":
    app()
