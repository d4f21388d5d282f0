"""`attune portfolio …`: build one for any model and rewards, look at it, and serve its members with vLLM."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from attune.command_line import AsJson, aside, plain_group, print_document
from attune.models.commands.bundle import DEMO
from attune.models.commands.options import Base, Cache, Changes, Out, PromptsOption, Seed, existing_path

portfolio_app = plain_group("Build, inspect and serve portfolios of members. Needs the extra `train`.")


@portfolio_app.command("build")
def portfolio_build(
    base: Base,
    prompts: PromptsOption,
    rewards: Annotated[
        str,
        typer.Option(
            metavar="MODULE:NAME",
            help="Rewards as functions in Python, of a module that may lie in the current folder; give this or --families.",
        ),
    ] = "",
    families: Annotated[
        Path | None, typer.Option(callback=existing_path, help="Folder of families whose heads are the rewards; give this or --rewards.")
    ] = None,
    family: Annotated[str, typer.Option(help="Name of the family whose heads are the rewards; the folder's default if not given.")] = "",
    heads: Annotated[
        str | None,
        typer.Option(
            help="Names of 2 to 12 of the family's heads, with commas between them; all, or those that matter most, if not given."
        ),
    ] = None,
    out: Out = Path(".attune/portfolio"),
    base_name: Annotated[str, typer.Option(help="Name that the adapters' configuration gives their base; none if not given.")] = "",
    max_calls: Annotated[int, typer.Option(min=2, help="Number of members that are trained at most.")] = 12,
    most_members: Annotated[
        int | None, typer.Option(min=1, help="Number of members that are kept at most; as many as the promise takes if not given.")
    ] = None,
    changes: Changes = None,
    cache: Cache = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Search, align, prune and certify a portfolio for any base model and rewards; run again to go on after a kill."""
    if bool(rewards) == (families is not None):
        raise typer.BadParameter("give --rewards or --families, one of the two")
    if rewards and (family or heads is not None):
        raise typer.BadParameter("--family and --heads choose among the heads of --families")
    from attune.models.alignment.trained_member import MemberSettings  # noqa: PLC0415 - torch
    from attune.models.portfolio.end_to_end import PalmSettings, build_from_files  # noqa: PLC0415 - torch
    from attune.models.portfolio.inputs import changed, load_rewards  # noqa: PLC0415 - torch
    from attune.models.portfolio.show import ACCOUNT  # noqa: PLC0415 - torch

    settings = PalmSettings(max_calls=max_calls, most_members=most_members, member=changed(MemberSettings(), changes or []))
    if families is not None:
        from attune.models.portfolio.own_heads import build_over_heads  # noqa: PLC0415 - torch

        told = build_over_heads(
            base,
            families,
            prompts,
            out,
            family=family,
            heads=[name.strip() for name in heads.split(",")] if heads is not None else [],
            settings=settings,
            seed=seed,
            base_name=base_name,
            cache=cache,
            progress=aside,
        )
    else:
        judged_by = load_rewards(rewards)
        told = build_from_files(base, judged_by, prompts, out, settings=settings, seed=seed, base_name=base_name, progress=aside)
    if as_json:
        print_document({"portfolio": str(out), **json.loads((out / ACCOUNT).read_bytes())})
    else:
        typer.echo(told)


@portfolio_app.command("show")
def portfolio_show(
    path: Annotated[
        Path,
        typer.Argument(
            callback=existing_path, help="A bundle, or a folder that `portfolio build` wrote; the demo's if not given.", show_default=False
        ),
    ] = DEMO,
    family: Annotated[str | None, typer.Option(help="Name of the family whose values are shown; the certificate's if not given.")] = None,
    picture: Annotated[
        Path | None, typer.Option(help="File to draw the simplex of users into (.png, .svg, .pdf); nothing is drawn if not given.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print members, weights, values with intervals and the certificate; draw who is served by whom and what is proved."""
    from attune.models.portfolio.show import show_portfolio  # noqa: PLC0415 - torch

    typer.echo(show_portfolio(path, family=family, picture=picture, as_json=as_json))


@portfolio_app.command("vllm")
def portfolio_vllm(
    path: Annotated[Path, typer.Argument(callback=existing_path, help="A bundle, or a folder that `portfolio build` wrote.")],
    host: Annotated[str, typer.Option(help="Address at which vLLM will listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port at which vLLM will listen.")] = 8001,
    api_key_env: Annotated[
        str | None, typer.Option(help="Environment variable that will hold vLLM's key; vLLM asks for no key if not given.")
    ] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Print the command that serves the members with vLLM, and the roster that reaches them."""
    from attune.models.alignment.vllm import members_in, plan_vllm  # noqa: PLC0415 - torch

    base, adapters = members_in(path)
    plan = plan_vllm(base, adapters, host=host, port=port, api_key_env=api_key_env)
    if as_json:
        print_document({"command": plan.command, "roster": plan.members})
        return
    typer.echo(plan.shell())
    typer.echo("\n# roster file (ATTUNE_ROSTER)\n" + json.dumps(plan.members, indent=1))
