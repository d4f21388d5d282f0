"""Options that several commands share, with one name and one meaning each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attune.models.seam.artefacts import it_is
from attune.models.training.family_folder import expect_writable


class NotThere(ValueError):
    """What an option names is not there; the message says what was looked for, before anything slow is loaded."""


def model_source(value: str) -> str:
    """Returns the name of a model as given: a folder that is there, something that may be an id of the hub, or nothing.

    Raises:
        NotThere: it can only be a folder, and none is there, or the folder holds no model.
    """
    folder = Path(value)
    if folder.is_dir():
        if value and not (folder / "config.json").is_file():
            raise NotThere(f"{value} is no model: the folder has no config.json{it_is(folder)}")
    elif value.startswith(("/", ".", "~")) or value.count("/") > 1 or folder.exists():
        raise NotThere(f"{value} is no folder, and no id of a model on the hub (NAME or OWNER/NAME){it_is(folder)}")
    return value


def existing_path(path: Path | None) -> Path | None:
    """Returns the path as given; raises NotThere where nothing is there."""
    if path is not None and not path.exists():
        raise NotThere(f"{path}: no such file or folder")
    return path


def makeable(path: Path | None) -> Path | None:
    """Returns a folder to write to as given, whether or not it is there yet; nothing is left behind.

    Raises:
        NotThere: it cannot be written to or made, which would else be found when the work is done.
    """
    if path is not None:
        try:
            expect_writable(path)
        except OSError as error:
            raise NotThere(f"{path} cannot be written to: {error.filename}: {(error.strerror or str(error)).lower()}") from error
    return path


def apart_from(value: str) -> str:
    """Returns what is kept apart, as given; raises BadParameter for anything but nothing and `question`."""
    if value not in {"", "question"}:
        raise typer.BadParameter(f"{value!r} is not `question`")
    return value


Seed = Annotated[int, typer.Option(help="Seed of everything that is random in this command.")]
Out = Annotated[Path, typer.Option(file_okay=False, callback=makeable, help="Folder to write to; it is made where it is absent.")]
Cache = Annotated[
    Path | None,
    typer.Option(
        file_okay=False, callback=makeable, help="Folder that keeps the vectors of texts between runs; without it nothing is kept."
    ),
]
Base = Annotated[str, typer.Option(callback=model_source, help="Folder or hub id of a causal language model.")]
RewardsOption = Annotated[
    str, typer.Option(metavar="MODULE:NAME", help="Rewards as functions in Python; modules of the current folder are found first.")
]
PromptsOption = Annotated[
    Path,
    typer.Option(
        callback=existing_path,
        help="File with one prompt on each line, as text or a JSON object with `prompt`; a tenth is held out, a tenth chooses checkpoints.",
    ),
]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="How members are trained, such as dpo.learning_rate=1e-4 or answers=4; may be given several times.",
    ),
]
Processes = Annotated[
    int, typer.Option(min=1, help="Number of processes that embed texts, each with a copy of the trunk; not used where there is CUDA.")
]
Context = Annotated[
    int | None,
    typer.Option(
        "--context",
        "--max-tokens",
        min=8,
        help="Number of tokens of a text that are read; the model's own limit, at most 2,048, if not given.",
    ),
]
PromptShare = Annotated[
    float,
    typer.Option(
        min=0.0,
        max=0.99,
        help="Share of the context that a long prompt keeps beside a long response; what one of them leaves, the other gets.",
    ),
]
Apart = Annotated[
    str,
    typer.Option(
        callback=apart_from,
        help="`question` keeps the questions that a person answered out of what is predicted of them; nothing is kept apart if not given.",
    ),
]
KeptVectors = Annotated[
    Path,
    typer.Option(
        "--cache", file_okay=False, callback=makeable, help="Folder that keeps the vectors of texts, and what was trained, between runs."
    ),
]
Seeds = Annotated[int, typer.Option(min=1, help="Number of seeds of the main run; each has its own splits, trainings and contexts.")]
UsersAtMost = Annotated[int, typer.Option(min=10, help="Number of users of each kind and seed at most.")]
OnlyRuns = Annotated[list[str] | None, typer.Option(help="Name of a run to do; may be given several times, and all are done if not given.")]
VECTORS = Path(".attune/cache")
