"""`python -m demo …`: how the demo is made and measured, a table of contents; `demo/build.sh` runs it in order."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from attune.command_line import aside, plain_app
from attune.models.commands.options import Cache, Changes, Out, Seed

app = plain_app("Make and measure the demo, from seeds.")

ARTEFACTS = Path(__file__).parent / "artefacts"
BASE = ARTEFACTS / "language_model" / "base"

Users = Annotated[int, typer.Option(min=1, help="Number of simulated users.")]
PerUser = Annotated[int, typer.Option(min=1, help="Number of comparisons of each user.")]


@app.command("language-model")
def language_model(
    out: Out = ARTEFACTS / "language_model",
    conversations: Annotated[int, typer.Option(min=1, help="Number of conversations to learn from.")] = 40_000,
    start: Annotated[Path | None, typer.Option(help="Base of an earlier corpus to go on from; from scratch if not given.")] = None,
    seed: Seed = 0,
) -> None:
    """Train the base language model from scratch; its members come from `portfolio`."""
    from demo.language_model.training import LanguageModelSettings, train_demo_language_model  # noqa: PLC0415 - torch

    settings = LanguageModelSettings(conversations=conversations)
    train_demo_language_model(out, seed, settings, manners=(), progress=typer.echo, start=start)


@app.command("judge-language-model")
def judge_language_model(
    folder: Annotated[Path, typer.Argument(help="Folder with base/ and adapters/.")] = ARTEFACTS / "language_model",
    prompts: Annotated[int, typer.Option(min=8, help="Number of held-out prompts that every member answers.")] = 40,
    seed: Seed = 0,
) -> None:
    """Do the base and its members answer fluently, on topic and in the manner asked for? Prints figures and samples."""
    from demo.language_model.judging import evaluate_language_model, render_report  # noqa: PLC0415 - torch

    typer.echo(render_report(evaluate_language_model(folder, prompts_per_member=prompts, seed=seed)))


@app.command("fidelity")
def fidelity(
    folder: Annotated[Path, typer.Argument(help="Folder with base/ and adapters/.")] = ARTEFACTS / "language_model",
    samples: Annotated[int, typer.Option(min=1, help="Number of answers of each member to every question of README and page.")] = 40,
    outside: Annotated[int, typer.Option(min=1, help="Number of questions about none of the topics.")] = 200,
    temperature: Annotated[float | None, typer.Option(min=0.01, help="Temperature of sampling; the model's own if not given.")] = None,
    question: Annotated[
        list[str] | None, typer.Option(help="Question of README or page that alone is asked; may be repeated. Everything if not given.")
    ] = None,
    seed: Seed = 0,
) -> None:
    """Do the members keep manner and subject, borrow nothing, and say so where they know nothing? Prints shares."""
    from demo.language_model.fidelity import measure_fidelity, render_fidelity  # noqa: PLC0415 - torch

    found = measure_fidelity(
        folder, seed=seed, samples=samples, outside=outside, temperature=temperature, questions=question or [], progress=aside
    )
    typer.echo(render_fidelity(found))


@app.command("heads")
def heads(out: Out = ARTEFACTS, seed: Seed = 0, cache: Cache = None) -> None:
    """Train the reward heads, on generated answers and on those of the base language model."""
    from demo.heads import train_demo  # noqa: PLC0415 - torch

    train_demo(out, seed=seed, cache=cache)


@app.command("cards")
def cards(out: Out = ARTEFACTS, seed: Seed = 0, cache: Cache = None) -> None:
    """Write the cards of the heads that are there, as training them does: the answer that each rewards most, and least."""
    from demo.heads import write_demo_cards  # noqa: PLC0415 - torch

    write_demo_cards(out, seed=seed, cache=cache)


@app.command("portfolio")
def portfolio(
    out: Out = ARTEFACTS,
    seed: Seed = 0,
    work: Annotated[Path, typer.Option(help="Folder that keeps adapters and answers; a run that was broken off goes on.")] = Path(
        ".attune/portfolio"
    ),
    jobs: Annotated[
        int, typer.Option(min=1, help="Number of adapters trained at the same time where the search allows it, each by one thread.")
    ] = 1,
) -> None:
    """Find members by lazy search, align them by DPO, prune and certify them, and measure what they are worth."""
    from demo.portfolio import train_portfolio  # noqa: PLC0415 - torch

    train_portfolio(out, work, seed=seed, jobs=jobs)


@app.command("values")
def values(out: Out = ARTEFACTS, seed: Seed = 0, cache: Cache = None) -> None:
    """Measure the members again under heads that were trained anew; refuses if the rewards they were certified by are others."""
    from demo.portfolio import measure_again  # noqa: PLC0415 - torch

    measure_again(out, seed=seed, cache=cache)


@app.command("member")
def member(
    weights: Annotated[str, typer.Option(help="Weights over the manners, such as concise=1,formal=0.5.")],
    out: Annotated[Path, typer.Option(help="Folder of this member.")],
    settings: Changes = None,
    seed: Seed = 0,
) -> None:
    """Align one member of the demo's base to manners, as `attune train member` does for any base and rewards."""
    from attune.models.measuring.aligned_members import train_one  # noqa: PLC0415 - torch
    from attune.models.portfolio.inputs import changed  # noqa: PLC0415 - torch
    from demo.rewards import DEMO_SETTINGS, MANNER_REWARDS, demo_prompts  # noqa: PLC0415 - torch

    of_member = changed(DEMO_SETTINGS, settings or [])
    document = train_one(BASE, weights, out, MANNER_REWARDS, demo_prompts(), settings=of_member, seed=seed, progress=typer.echo)
    typer.echo(json.dumps(document["held_out"], indent=1))


@app.command("members")
def members(
    folder: Annotated[Path, typer.Argument(help="Folder that holds a folder with the adapter of each member.")] = ARTEFACTS
    / "language_model"
    / "adapters",
    answers: Annotated[int, typer.Option(min=1, help="Number of answers to each prompt, by the base and by each member.")] = 2,
    out: Out = Path(".attune/members"),
    seed: Seed = 1,
) -> None:
    """What aligning did to each member on test prompts, judged by the manners themselves."""
    from attune.models.measuring.aligned_members import judge  # noqa: PLC0415 - torch
    from demo.rewards import MANNER_REWARDS, demo_prompts  # noqa: PLC0415 - torch

    typer.echo(judge(BASE, folder, MANNER_REWARDS, demo_prompts().held_out, answers, out, seed=seed, progress=aside))


@app.command("data")
def data(
    out: Out = Path(".attune/demo"),
    users: Users = 500,
    per_user: PerUser = 40,
    seed: Seed = 0,
) -> None:
    """Write prefs.jsonl and prompts.txt, from which `demo/build.sh` makes a bundle by public commands alone."""
    from demo.sample import write_data  # noqa: PLC0415 - torch

    typer.echo(f"{write_data(out, users=users, per_user=per_user, seed=seed):,} comparisons in {out / 'prefs.jsonl'}")


@app.command("sample")
def sample(
    out: Annotated[Path, typer.Option(help="File to write, as .jsonl.")] = Path("examples/prefs-sample.jsonl"),
    users: Users = 20,
    per_user: PerUser = 10,
    seed: Seed = 0,
) -> None:
    """Write preference data of simulated users on generated answers, in the shape that `attune data check` reads."""
    from demo.sample import write_sample  # noqa: PLC0415 - torch

    typer.echo(f"{write_sample(out, users=users, per_user=per_user, seed=seed):,} comparisons in {out}")


@app.command("report")
def report(
    bundle: Annotated[Path | None, typer.Option(help="Bundle to evaluate; the committed heads if not given.")] = None,
    out: Out = Path(".attune/evaluation"),
    seed: Seed = 1,
    users: Annotated[int, typer.Option(min=10, help="Number of simulated users.")] = 200,
) -> None:
    """Simulated users with known tastes, through the server's own functions; writes report.md and results.json."""
    from demo.report import evaluate_demo  # noqa: PLC0415 - torch

    evaluate_demo(bundle, out, seed=seed, users=users)


@app.command("curves")
def curves(
    out: Out = Path(".attune/curves"),
    heads: Annotated[Path, typer.Option(help="Folder with heads.json and heads.safetensors.")] = ARTEFACTS,
    users: Annotated[int, typer.Option(min=2, help="Number of simulated users for each of three seeds.")] = 40,
    half_life: Annotated[
        float | None, typer.Option(help="Number of comparisons after which one counts half; none ever does if not given.")
    ] = None,
    change: Annotated[int, typer.Option(min=0, help="Every user is somebody else after so many comparisons; 0 for never.")] = 0,
    counts: Annotated[
        str, typer.Option(help="Numbers of comparisons after which is measured, with commas between them.")
    ] = "0,5,10,20,50,200,1000",
    cache: Cache = None,
) -> None:
    """Accuracy, log-loss and calibration of every family, from the first comparison of a user to the thousandth."""
    from demo.curves import CurveSettings, evaluate_curves  # noqa: PLC0415 - torch

    at = tuple(int(one) for one in counts.split(","))
    wanted = CurveSettings(users=users, counts=at, half_life=half_life, change=change)
    evaluate_curves(heads, out, settings=wanted, cache=cache, progress=aside)
    typer.echo((out / "report.md").read_text(encoding="utf-8"))


@app.command("own-members")
def own_members(
    out: Out = Path(".attune/own-members"),
    seeds: Annotated[int, typer.Option(min=1, help="Number of deployments.")] = 5,
    users: Annotated[int, typer.Option(min=10, help="Number of users of each deployment.")] = 60,
    joining: Annotated[
        int | None,
        typer.Option(min=1, help="Measure a member that joins, after so many decisions, and nothing else; everything else if not given."),
    ] = None,
    onboarding: Annotated[
        bool, typer.Option("--onboarding", help="Measure how soon each policy finds the best member, and nothing else.")
    ] = False,
    ideal: Annotated[
        bool, typer.Option("--ideal", help="Measure exact Bayes as well, which knows the law of users and every answer; with --onboarding.")
    ] = False,
    cache: Cache = None,
    seed: Seed = 0,
) -> None:
    """Upstreams of whom nothing is known, one that joins and one that changes; and policy `learn` beside `sample` on the demo's members."""
    from demo.own_members_report import report_joining, report_learning, report_own_members  # noqa: PLC0415 - torch

    if onboarding:
        typer.echo(report_learning(out, seeds=seeds, users=users, seed=seed, cache=cache, ideal=ideal))
        return
    if joining is not None:
        typer.echo(report_joining(out, seeds=seeds, users=users, seed=seed, decisions=joining, cache=cache))
        return
    typer.echo(report_own_members(out, seeds=seeds, users=users, seed=seed, cache=cache))


@app.command("precision")
def precision(texts: Annotated[int, typer.Option(min=16, help="Number of held-out answers to compare on.")] = 256, seed: Seed = 0) -> None:
    """Accuracy loss and batch dependence of the int8 scorer against fp32."""
    from demo.precision import precision_loss  # noqa: PLC0415 - torch

    typer.echo(json.dumps(asdict(precision_loss(ARTEFACTS, texts=texts, seed=seed)), indent=1))


@app.command("simulated-users")
def simulated_users(
    url: Annotated[str, typer.Option(help="Address of a running Attune.")] = "http://127.0.0.1:8000",
    users: Annotated[int, typer.Option(min=2, help="Number of simulated users.")] = 50,
    together: Annotated[int, typer.Option(min=1, help="Number of users at the same time.")] = 8,
    as_json: Annotated[
        Path | None, typer.Option("--json", help="File to write the table to as well, as JSON; it is only printed if not given.")
    ] = None,
    seed: Seed = 7,
) -> None:
    """Users with known tastes against a running server, over HTTP alone; prints a table with 95 % intervals over users."""
    from demo.simulated_users import print_users  # noqa: PLC0415 - httpx

    print_users(url, users, seed, together, as_json)


if __name__ == "__main__":
    app(prog_name="python -m demo")
