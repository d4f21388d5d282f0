"""`python -m studies …`: one command for each study of a paper or of the demo, a table of contents."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attune.command_line import aside, plain_app
from attune.models.commands.options import Cache, OnlyRuns, Out, Seed, Seeds, UsersAtMost
from demo.__main__ import ARTEFACTS, BASE

app = plain_app("Studies of papers and of the demo; each writes a report and its figures.")
CACHE = Path(".attune/cache")
WORK = Path(".attune/portfolio")


@app.command("families")
def families(
    data: Annotated[str, typer.Argument(help="`jester` or `ukpconvarg1`.")],
    folder: Annotated[Path, typer.Argument(help="Folder of the public set; neither is distributed with this project.")],
    out: Out = Path(".attune/families"),
    cache: Cache = CACHE,
    seeds: Seeds = 3,
    users: UsersAtMost = 400,
    only: OnlyRuns = None,
    learner: Annotated[
        list[str] | None, typer.Option(help="Family or baseline to train beside the head for everybody; may be given several times.")
    ] = None,
) -> None:
    """Few-shot curves of every family and baseline on real people's choices; writes report.md, results.json and plots."""
    from studies.families.run import evaluate_set  # noqa: PLC0415 - torch

    typer.echo(
        evaluate_set(data, folder, out, cache=cache, seeds=seeds, users=users, only=tuple(only or ()), learners=tuple(learner or ()))
    )


@app.command("small-data")
def small_data(
    folder: Annotated[
        Path, typer.Argument(help="Folder with jester5k, ukpconvarg1, hidden_context_hh, summeval_op; absent ones are skipped.")
    ],
    out: Out = Path(".attune/small-data"),
    cache: Cache = CACHE,
    only: Annotated[
        list[str] | None, typer.Option(help="Name of a set; may be given several times, and all are measured if not given.")
    ] = None,
    heads_alone: Annotated[bool, typer.Option("--heads-alone", help="Heads that know no person alone, in minutes.")] = False,
) -> None:
    """Families and simple heads on real sets cut to 500, 1,000 and 2,000 comparisons; writes report.md and results.json."""
    from studies.small_data.run import SmallDataSettings, evaluate_small_data  # noqa: PLC0415 - torch

    settings = SmallDataSettings(heads_alone=heads_alone)
    typer.echo(evaluate_small_data(folder, out, cache=cache, settings=settings, sets=tuple(only or ()), progress=aside))


@app.command("few-people")
def few_people(
    folder: Annotated[Path, typer.Argument(help="Folder with jester5k and ukpconvarg1.")],
    out: Out = Path(".attune/few-people"),
    cache: Cache = CACHE,
    only: Annotated[
        list[str] | None, typer.Option(help="`jester`, `opposed`, `three` or `alike`; may be given several times, and all if not.")
    ] = None,
) -> None:
    """What `additive` gains where 40 to 200 people are known, by the features of its axes; writes report.md and results.json."""
    from studies.few_people.run import evaluate_few_people  # noqa: PLC0415 - torch

    try:
        typer.echo(evaluate_few_people(folder, out, cache=cache, progress=aside, worlds=tuple(only or ())))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


@app.command("member-effects")
def member_effects(
    folder: Annotated[Path, typer.Argument(help="Folder with summeval_op.")],
    out: Out = Path(".attune/member-effects"),
    cache: Cache = CACHE,
) -> None:
    """What knowing the author is worth beside the text, on summaries by thirteen systems; writes report.md and results.json."""
    from studies.member_effects.run import evaluate_member_effects  # noqa: PLC0415 - torch

    typer.echo(evaluate_member_effects(folder, out, cache=cache, progress=aside))


@app.command("oracle")
def oracle(
    out: Out = Path(".attune/oracle"),
    seed: Seed = 0,
    instances: Annotated[int, typer.Option(min=10, help="Number of random worlds for each number of rewards.")] = 334,
    seeds: Annotated[int, typer.Option(min=2, help="Number of portfolios of each kind whose sizes are compared.")] = 12,
    cache: Cache = None,
) -> None:
    """Lazy search with an exact oracle: promise against truth, calls against the grid, sizes against chance."""
    from studies.oracle.oracle import OracleStudy  # noqa: PLC0415 - scipy
    from studies.oracle.run import evaluate_oracle  # noqa: PLC0415 - torch

    evaluate_oracle(out, seed=seed, study=OracleStudy(instances=instances), seeds=seeds, demo=ARTEFACTS, cache=cache, progress=aside)


@app.command("palm")
def palm(
    out: Out = Path(".attune/palm"),
    seeds: Seeds = 3,
    fresh: Annotated[int, typer.Option(min=2, help="Number of draws of prompts that certify.")] = 3000,
    only: Annotated[
        list[str] | None, typer.Option(help="Set of rewards for best-of-n; may be given several times, and all are measured if not given.")
    ] = None,
    adapters: Annotated[
        list[str] | None, typer.Option(help="Set of rewards to align adapters to as well; may be given several times, none if not given.")
    ] = None,
) -> None:
    """Few members for rewards that can be traded: worst case and certificate, by best-of-n and by aligned adapters."""
    from studies.palm.run import REWARD_SETS, PalmStudy, evaluate_palm  # noqa: PLC0415 - torch

    study, sets = PalmStudy(fresh=fresh), tuple(only or REWARD_SETS)
    evaluate_palm(BASE, out, seeds=range(seeds), study=study, sets=sets, aligned=tuple(adapters or ()), progress=aside)
    typer.echo((out / "report.md").read_text(encoding="utf-8"))


@app.command("zeroeval")
def zeroeval(
    data: Annotated[Path, typer.Argument(help="Folder with gsm, crux and math-l5 response matrices.")],
    out: Out = Path(".attune/zeroeval"),
    seed: Seed = 0,
    splits: Annotated[int, typer.Option(min=2, help="Number of random halves of the questions.")] = 10,
    without: Annotated[str, typer.Option(help="Models whose names start with this are left out; o1 hides what it writes.")] = "o1",
    cache: Cache = CACHE,
) -> None:
    """Real LLMs as a portfolio for users who weigh correctness against length: routing against the best single model."""
    from studies.zeroeval.run import evaluate_zeroeval  # noqa: PLC0415 - torch

    evaluate_zeroeval(data, out, seed=seed, splits=splits, without=without, cache=cache, progress=aside)


@app.command("routing")
def routing(
    bundle: Annotated[Path, typer.Argument(help="A demo bundle with a certificate.")],
    out: Out = Path(".attune/routing"),
    users: Annotated[int, typer.Option(min=10, help="Number of simulated users for each of three seeds.")] = 100,
) -> None:
    """Users of the portfolio round by round, against bandits that start anew with each; writes report.md and regret.png."""
    from studies.bandits.portfolio_routing import evaluate_demo_routing  # noqa: PLC0415 - torch

    evaluate_demo_routing(bundle, ARTEFACTS, out, users=users)


@app.command("sparserm")
def sparserm(
    data: Annotated[Path, typer.Option(help="Folder with ukpconvarg1, hidden_context_hh, summeval_op; absent ones are skipped.")],
    out: Out = Path(".attune/sparserm"),
    cache: Annotated[Path, typer.Option(help="Folder that keeps vectors, token states and the autoencoder.")] = CACHE,
    seeds: Annotated[int, typer.Option(min=2, help="Number of cuts, starts and random directions.")] = 10,
    autoencoder: Annotated[
        Path | None, typer.Option(help="Public autoencoder (SAELens or Gemma Scope) of the same layer to compare with; none if not given.")
    ] = None,
    seed: Seed = 0,
) -> None:
    """Directions of a sparse autoencoder against random ones, the dense state and latents; writes report.md, results.json, sweep.png."""
    from studies.sparserm.comparison import StudySettings  # noqa: PLC0415 - torch
    from studies.sparserm.run import evaluate_sparserm  # noqa: PLC0415

    evaluate_sparserm(data, out, cache, seed=seed, settings=StudySettings(tuple(range(seeds))), public=autoencoder, progress=aside)


@app.command("groups")
def groups(out: Out = Path(".attune/groups"), seed: Seed = 1) -> None:
    """Two to eight opposed groups: share of Bayes-optimal accuracy, groups recovered, too few and too many heads."""
    from studies.groups.run import evaluate_groups  # noqa: PLC0415 - torch

    evaluate_groups(out, seed=seed)


@app.command("opposed")
def opposed(out: Out = Path(".attune/opposed"), seed: Seed = 1, cache: Cache = None) -> None:
    """Two groups with opposed tastes on the demo's answers: one head for all stays at chance, mixtures do not."""
    from studies.groups.manners import evaluate_manners  # noqa: PLC0415 - torch

    evaluate_manners(out, seed=seed, cache=cache)


@app.command("controlled")
def controlled(out: Out = Path(".attune/controlled"), seed: Seed = 1) -> None:
    """The attribute-style controlled set: does the sparse mixture divide prompts and users as it should?"""
    from studies.controlled.run import evaluate_controlled  # noqa: PLC0415 - torch

    evaluate_controlled(out, seed=seed)


@app.command("approximations")
def approximations(
    members: Annotated[Path, typer.Argument(help="Folder that holds a folder with an adapter of the demo's base for each manner.")],
    pair: Annotated[list[str], typer.Option(help="Two manners, such as concise,formal; may be given several times.")],
    out: Out = Path(".attune/approximations"),
    seed: Seed = 1,
) -> None:
    """What soups and logit mixing give users between two members, without training, on held-out prompts."""
    from demo.rewards import MANNER_REWARDS, demo_prompts  # noqa: PLC0415 - torch
    from studies.approximations.run import compare, render  # noqa: PLC0415 - torch

    pairs = [(one.partition(",")[0].strip(), one.partition(",")[2].strip()) for one in pair]
    typer.echo(render(compare(BASE, members, MANNER_REWARDS, demo_prompts().held_out, pairs, out, seed=seed)))


@app.command("portfolio-users")
def portfolio_users(
    work: Annotated[Path, typer.Option(help="Folder that `python -m demo portfolio` worked in; users' models join its members.")] = WORK,
    out: Out = Path(".attune/compare"),
    users: Annotated[int, typer.Option(min=8, help="Number of users with a model of their own, a minute or two of one core each.")] = 30,
    draws: Annotated[int, typer.Option(min=2, help="Number of random portfolios of each size.")] = 20,
    jobs: Annotated[int, typer.Option(min=1, help="Number of models trained at the same time, each by one thread.")] = 1,
    seed: Seed = 0,
) -> None:
    """What users lose with the demo's members against a model aligned to them alone, and what random portfolios lose."""
    from studies.portfolio_users.run import compare_portfolios, render  # noqa: PLC0415 - torch

    typer.echo(render(compare_portfolios(ARTEFACTS, work, out, users=users, draws=draws, seed=seed, jobs=jobs, progress=aside)))


@app.command("certificates")
def certificates(
    trials: Annotated[int, typer.Option(min=1, help="Number of trials of each world and method.")] = 1000,
    out: Out = Path(".attune/certificates"),
    seed: Seed = 0,
) -> None:
    """How often every number of a certificate holds, in worlds whose truth is known; writes report.md and results.json."""
    from studies.certificates.run import evaluate_certificates  # noqa: PLC0415 - scipy

    evaluate_certificates(out, trials=trials, seed=seed, progress=typer.echo)


@app.command("offpolicy-check")
def offpolicy_check(
    logs: Annotated[int, typer.Option(min=1, help="Number of simulated logs.")] = 1000,
    users: Annotated[int, typer.Option(min=5, help="Number of users of each log, with eight duels each.")] = 200,
    learn: Annotated[int, typer.Option(min=0, max=8, help="How many of a user's eight duels policy `learn` draws first.")] = 0,
    out: Out = Path(".attune/policy"),
    seed: Seed = 0,
) -> None:
    """Do the 95 % intervals of off-policy values hold the truth, on simulated logs of routing that learns?"""
    from studies.offpolicy_check.run import check_estimators  # noqa: PLC0415 - scipy

    check_estimators(logs, out, users=users, learn_rounds=learn, seed=seed, progress=aside)
    typer.echo((out / "coverage.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    app(prog_name="python -m studies")
