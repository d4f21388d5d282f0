"""The commands `attune portfolio …`: build one for any model and rewards, and serve its members with vLLM.

Every import of torch is inside a command, so that `--help` costs nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

import attune

DEMO = Path(attune.__file__).parent / "demo"


@contextmanager
def plainly() -> Iterator[None]:
    """Tells what is wrong with a command's arguments, files or members in a line instead of a traceback, and exits with 1."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        if type(error) in {RuntimeError, ValueError}:
            raise  # not one of ours: whoever reports it needs to see where it came from
        typer.echo(f"{type(error).__name__}: {error}", err=True)
        raise typer.Exit(1) from None


portfolio_app = typer.Typer(no_args_is_help=True, help="Build, inspect and serve portfolios of members.")


@portfolio_app.command("build")
def portfolio_build(
    base: Annotated[str, typer.Option(help="Folder or hub id of a causal language model.")],
    rewards: Annotated[str, typer.Option(help="module:name of Rewards, two or more, each in [0, 1].")],
    prompts: Annotated[Path, typer.Option(help="Text file, one prompt a line; a tenth is held out, a tenth chooses checkpoints.")],
    out: Annotated[Path, typer.Option(help="Folder to write to; made if absent.")] = Path(".attune/portfolio"),
    base_name: Annotated[str, typer.Option(help="What the adapters call their base.")] = "",
    max_calls: Annotated[int, typer.Option(min=2, help="Most members that are trained.")] = 12,
    most_members: Annotated[int | None, typer.Option(min=1, help="That are kept; as many as the promise takes if not given.")] = None,
    changes: Annotated[list[str] | None, typer.Option("--set", help="Of a member: dpo.beta=.2, answers=4, ...")] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random in this command.")] = 0,
) -> None:
    """Search, align, prune and certify a portfolio for any base model and rewards; run again to go on after a kill."""
    from attune.models.measuring.members import DEMO_SETTINGS, changed, load_rewards  # noqa: PLC0415 - torch
    from attune.models.portfolio.build import PalmSettings, build_from_files  # noqa: PLC0415 - torch

    with plainly():
        settings = PalmSettings(max_calls=max_calls, most_members=most_members, member=changed(DEMO_SETTINGS, changes or []))
        judged_by = load_rewards(rewards)
        told = build_from_files(base, judged_by, prompts, out, settings=settings, seed=seed, base_name=base_name, progress=typer.echo)
        typer.echo(told)


@portfolio_app.command("show")
def portfolio_show(
    path: Annotated[Path, typer.Argument(help="A bundle, or a folder with portfolio.json and heads; the demo's if not given.")] = DEMO,
    family: Annotated[str | None, typer.Option(help="Whose values; the certificate's family if not given.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw the simplex of users here: .png, .svg or .pdf.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,  # noqa: FBT002 - a command-line flag is a boolean
) -> None:
    """Print members, weights, values with intervals and the certificate; draw who is served by whom and what is proved."""
    from attune.models.portfolio.show import BundleInvalid, PortfolioInvalid, show_portfolio  # noqa: PLC0415 - torch

    try:
        typer.echo(show_portfolio(path, family=family, picture=picture, as_json=as_json))
    except (BundleInvalid, PortfolioInvalid, OSError) as error:
        typer.echo(f"cannot be shown: {error}", err=True)
        raise typer.Exit(1) from None


@portfolio_app.command("approximations")
def portfolio_approximations(
    members: Annotated[Path, typer.Argument(help="Folder with one adapter folder a member, each made for one reward.")],
    pair: Annotated[list[str], typer.Option(help="Two rewards, as in concise,formal; may be repeated.")],
    base: Annotated[str, typer.Option(help="Folder or hub id of their base.")] = str(DEMO / "language_model" / "base"),
    rewards: Annotated[str | None, typer.Option(help="module:name of Rewards; the demo's manners if not given.")] = None,
    out: Annotated[Path, typer.Option(help="Folder to write to; made if absent.")] = Path(".attune/approximations"),
    seed: Annotated[int, typer.Option(help="Seed of everything random in this command.")] = 1,
) -> None:
    """What soups and logit mixing give users between two members, without training, on held-out prompts."""
    from attune.models.measuring.members import DEMO_REWARDS, demo_prompts, load_rewards  # noqa: PLC0415 - torch
    from studies.approximations.compare import compare, render  # noqa: PLC0415 - torch

    with plainly():
        pairs = [(one.partition(",")[0].strip(), one.partition(",")[2].strip()) for one in pair]
        typer.echo(render(compare(base, members, load_rewards(rewards or DEMO_REWARDS), demo_prompts().held_out, pairs, out, seed=seed)))


@portfolio_app.command("compare")
def portfolio_compare(
    work: Annotated[Path, typer.Option(help="Of `attune train portfolio`; users' models join its members.")] = Path(".attune/portfolio"),
    out: Annotated[Path, typer.Option(help="Folder to write to; made if absent.")] = Path(".attune/compare"),
    users: Annotated[int, typer.Option(min=8, help="Users with a model of their own, a minute or two of one core each.")] = 30,
    draws: Annotated[int, typer.Option(min=2, help="Random portfolios of each size.")] = 20,
    jobs: Annotated[int, typer.Option(min=1, help="Models trained at the same time, one thread each.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of users and draws.")] = 0,
) -> None:
    """What users lose with the demo's members against a model aligned to them alone, and what random portfolios lose."""
    from studies.portfolio_users.run import compare_portfolios, render  # noqa: PLC0415 - torch

    with plainly():
        found = compare_portfolios(
            DEMO, work, out, users=users, draws=draws, seed=seed, jobs=jobs, progress=lambda line: typer.echo(line, err=True)
        )
        typer.echo(render(found))


@portfolio_app.command("vllm")
def portfolio_vllm(
    path: Annotated[Path, typer.Argument(help="A bundle, or a folder with base/ and adapters/.")],
    host: str = "127.0.0.1",
    port: int = 8001,
    api_key_env: Annotated[str | None, typer.Option(help="Environment variable with vLLM's key; none if not given.")] = None,
) -> None:
    """Print the command that serves the members with vLLM, and the roster that reaches them."""
    from attune.models.alignment.adapter_fit import AdapterMisfit  # noqa: PLC0415 - torch
    from attune.models.alignment.vllm import members_in, plan_vllm  # noqa: PLC0415 - torch

    try:
        base, adapters = members_in(path)
        plan = plan_vllm(base, adapters, host=host, port=port, api_key_env=api_key_env)
    except (AdapterMisfit, OSError, ValueError) as error:
        typer.echo(f"cannot be served: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(plan.shell())
    typer.echo("\n# roster file (ATTUNE_ROSTER)\n" + json.dumps(plan.members, indent=1))
