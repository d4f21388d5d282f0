"""`attune bundle …`: build and inspect bundles."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

import attune
from attune.command_line import AsJson, aside, plain_group, print_document
from attune.models.commands.options import Out, existing_path

DEMO = Path(attune.__file__).parent / "demo"
"""The demo's artefacts, which are in the wheel; a symbolic link in a checkout."""

bundle_app = plain_group("Build and inspect bundles.")


class Precision(StrEnum):
    """Number format of the exported trunk."""

    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"


def stored(value: str) -> str:
    """Returns a precision as given; raises BadParameter for one that no file has, with what makes it."""
    if value not in list(Precision):
        derived = {"bf16": "the extra `openvino`", "tf32": "a GPU"}
        made = f"; pack fp32, of which ATTUNE_PRECISION={value} makes it at the start, with {derived[value]}" if value in derived else ""
        raise typer.BadParameter(f"no graph is stored in {value!r}: fp32, fp16 and int8 are{made}")
    return value


PrecisionOption = Annotated[
    str,
    typer.Option(
        metavar="[fp32|fp16|int8]",
        callback=stored,
        help="Number format of the trunk: fp16 is for CUDA, int8 for a CPU; both are faster than fp32 and less exact.",
    ),
]


@bundle_app.command("demo")
def bundle_demo(
    out: Out = Path(".attune/bundles"),
    precision: PrecisionOption = Precision.fp32.value,
    as_json: AsJson = False,
) -> None:
    """Export the trunk with the demo's heads and pack the bundle; prints its directory. Needs the extra `train`."""
    bundle_build(DEMO, portfolio=DEMO, precision=precision, name="demo", out=out, as_json=as_json)


@bundle_app.command("build")
def bundle_build(
    families: Annotated[
        Path, typer.Argument(callback=existing_path, metavar="FOLDER", help="What `train families` or `import reward` wrote.")
    ],
    portfolio: Annotated[
        Path | None,
        typer.Option(
            callback=existing_path,
            help="Folder that `portfolio build` wrote; its members are packed with what they are worth. No members if not given.",
        ),
    ] = None,
    roster: Annotated[
        Path | None,
        typer.Option(
            callback=existing_path,
            help="File that names the language models, whose worth is learned while they serve; the portfolio's if not given.",
        ),
    ] = None,
    precision: PrecisionOption = Precision.fp32.value,
    name: Annotated[str, typer.Option(help="Name of the bundle, in letters, digits and _.")] = "own",
    out: Out = Path(".attune/bundles"),
    as_json: AsJson = False,
    serve_anyway: Annotated[
        bool,
        typer.Option("--serve-anyway", help="Pack a family even if it predicts worse than a simple head, such as the length of an answer."),
    ] = False,
    member_effects: Annotated[
        bool, typer.Option("--member-effects", help="Learn also what is liked of a member beyond its texts.")
    ] = False,
) -> None:
    """Pack a folder of families into a bundle, with a portfolio, a roster, or neither (scores only); prints its directory."""
    from attune.models.export.pack import pack  # noqa: PLC0415 - torch

    done = pack(
        families,
        out,
        name,
        portfolio=portfolio,
        roster=roster,
        precision=Precision(precision).value,
        tell=aside,
        serve_anyway=serve_anyway,
        member_effects=member_effects,
    )
    if as_json:
        print_document({"bundle": str(done.path), "told": done.told})
        return
    for line in done.told:
        aside(line)
    typer.echo(done.path)
    aside(f"next: attune check --bundle {done.path}, then attune serve --bundle {done.path}")


@bundle_app.command("fetch")
def bundle_fetch(
    source: Annotated[
        str, typer.Argument(help="A folder, or file://, http(s)://, s3://, gs:// or az:// address with manifest.json in it.")
    ],
    out: Out = Path(".attune/bundles"),
    link: Annotated[
        str, typer.Option(help="Name of a link in the folder that is moved to the bundle, for servers that watch it; no link if not given.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Bring a bundle into a folder, whole and verified or not at all; prints its directory. Object stores need the extra `store`."""
    from attune.models.export.fetching import NotFetched, fetch_bundle  # noqa: PLC0415 - hashing is for those who ask
    from attune.models.seam.bundle import BundleInvalid  # noqa: PLC0415 - the same

    try:
        path = fetch_bundle(source, out, link, aside)
    except (NotFetched, BundleInvalid, OSError) as error:
        aside(f"not fetched: {error}")
        raise typer.Exit(1) from None
    if as_json:
        print_document({"bundle": str(path)})
    else:
        typer.echo(path)


@bundle_app.command("show")
def bundle_show(path: Annotated[Path, typer.Argument(help="A bundle directory.")]) -> None:
    """Verify a bundle and print its manifest without the file table."""
    from attune.models.seam.bundle import read_bundle  # noqa: PLC0415 - hashing is for those who ask

    bundle = read_bundle(path)
    shown = {key: value for key, value in bundle.manifest.items() if key != "files"}
    shown["families"] = {name: list(bundle.families[name].heads) for name in bundle.families.names}
    shown["members"] = list(bundle.portfolio.names)
    print_document(dict(sorted(shown.items())))
