"""What a command is told about members: which rewards, which weights, which prompts, which settings.

--rewards module:NAME ─> Rewards        --weights a=1,b=0.5 ─> [d]        --prompts FILE ─> Prompts        --set name=number ─> settings
"""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attune.models.alignment.base_answers import Rewards, RewardsInvalid
from attune.models.alignment.trained_member import MemberSettings, Prompts
from attune.models.seam.artefacts import recognised
from attune.models.seam.prompt_file import prompts_in

Array = NDArray[np.float64]


class SettingsInvalid(ValueError):
    """What a command was given cannot be used; the message names it."""


def load_rewards(where: str) -> Rewards:
    """Returns the `Rewards` that `module:name` is; modules of the current folder come first, as for uvicorn and celery.

    Raises:
        RewardsInvalid: there is no such thing.
    """
    module, _, name = where.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:  # a console script does not search the current folder
        sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise RewardsInvalid(f"rewards {where!r} cannot be loaded: {error}; give module:name") from error
    except Exception as error:  # whatever the module of somebody else raises while it is imported
        raise RewardsInvalid(f"rewards {where!r} cannot be loaded: {module} raises {type(error).__name__}: {error}") from error
    if not isinstance(found, Rewards):
        raise RewardsInvalid(
            f"rewards {where!r} are {type(found).__name__}; attune.models.alignment.base_answers.Rewards(names, score) was expected"
        )
    return found


def tried(rewards: Rewards, prompts: Sequence[str]) -> Rewards:
    """Returns the rewards once they have scored two short answers to each of the first prompts: before hours are spent on answers.

    Raises:
        RewardsInvalid: they cannot.
    """
    asked = [prompt for prompt in prompts[:2] for _ in range(2)]
    rewards.of(asked, ["Yes.", "I am not sure; ask somebody who knows."] * (len(asked) // 2))
    return rewards


def parse_weights(text: str, names: Sequence[str]) -> Array:
    """Returns `[d]` weights from `concise=1,formal=.5`; what is not named weighs 0.

    Raises:
        RewardsInvalid: a name is unknown or given twice, or a value is no number.
    """
    found = dict.fromkeys(names, 0.0)
    seen: set[str] = set()
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, equals, value = part.partition("=")
        try:
            number = float(value) if equals else 1.0
        except ValueError:
            raise RewardsInvalid(f"weight {part!r} is not name=number") from None
        if name not in found or name in seen:
            raise RewardsInvalid(f"weight {part!r}: the rewards are {', '.join(names)}, each at most once")
        seen.add(name)
        found[name] = number
    return np.array(list(found.values()))


def read_prompts(file: Path, held_out: int = 2) -> Prompts:
    """Returns the prompts of a file of `prompts_in`: four fifths to learn from, a tenth each to choose and to report on.

    Where a prompt belongs is fixed by its text, so that a longer file moves none of them.

    Args:
        file: of prompts.
        held_out: fewest that must be there to report on.

    Raises:
        LinesInvalid: the file cannot be read.
        SettingsInvalid: a part has fewer prompts than are needed, or the file is something else that this product wrote.
    """
    if found := recognised(file):
        raise SettingsInvalid(f"{file.name} holds no prompts: it is {found}")
    parts: dict[str, list[str]] = {"training": [], "validation": [], "held_out": []}
    for line in prompts_in(file):
        digit = hashlib.sha256(line.encode()).digest()[0] % 10
        parts["held_out" if digit == 0 else "validation" if digit == 1 else "training"].append(line)
    if min(map(len, parts.values())) < 2 or len(parts["held_out"]) < held_out:
        raise SettingsInvalid(
            f"{file.name} gives {len(parts['training'])} prompts to learn from, {len(parts['validation'])} that choose checkpoints and "
            f"{len(parts['held_out'])} held out, by their texts; "
            + ("two of each kind" if held_out == 2 else f"two of each kind and {held_out} held out")
            + f" are needed, which {'a hundred' if held_out < 5 else f'some {20 * held_out}'} prompts give"
        )
    return Prompts(**{part: tuple(lines) for part, lines in parts.items()})


def changed(settings: MemberSettings, changes: Sequence[str]) -> MemberSettings:
    """Returns the settings with `name=number` or `part.name=number` changed, numbers of the type that the field has.

    Raises:
        SettingsInvalid: there is no such field, or the value does not fit it.
    """
    for change in changes:
        path, equals, value = change.partition("=")
        *above, name = path.split(".")
        part: Any = settings
        for step in above:
            part = getattr(part, step, None)
        known = [item.name for item in fields(part) if not is_dataclass(getattr(part, item.name))] if is_dataclass(part) else []
        if not equals or name not in known or len(above) > 1:
            raise SettingsInvalid(
                f"setting {change!r} is not known; {'.'.join([*above, '']) if known else ''}{', '.join(known) or 'part.name'}=number"
            )
        kind = type(getattr(part, name))
        try:
            new: Any = value.lower() == "true" if kind is bool else kind(value)
        except ValueError:
            raise SettingsInvalid(f"setting {change!r}: {kind.__name__} was expected") from None
        try:
            settings = replace(settings, **({above[0]: replace(part, **{name: new})} if above else {name: new}))
        except ValueError as error:
            raise SettingsInvalid(f"setting {change!r}: {error}") from None
    return settings


def described(settings: MemberSettings) -> str:
    """Returns all settings as `--set` takes them, so that a run says what it was made with."""
    said = []
    for item in fields(settings):
        value = getattr(settings, item.name)
        if is_dataclass(value):
            said += [f"{item.name}.{inner.name}={getattr(value, inner.name)}" for inner in fields(value)]
        else:
            said.append(f"{item.name}={value}")
    return " ".join(said)
