"""What a folder of `portfolio build` was begun with: a run with anything else would go on with members that were made for something else.

base, heads, prompts, seed, settings of members ─> out/begun.json, written first, compared by every later run
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from attune.models.alignment.trained_member import MemberSettings, Prompts, fingerprint
from attune.models.portfolio.inputs import described

FILE = "begun.json"


class PortfolioConflict(ValueError):
    """A folder holds a portfolio that was begun with other arguments; the message names them."""


def begin(out: Path, base: Path | str, rewards: Mapping[str, str], asked: Prompts, seed: int, settings: MemberSettings) -> None:
    """Writes down what a portfolio is built with, or refuses to go on with one that was begun with something else.

    How long is searched and how much is kept may differ: that is decided anew from the members that are there.

    Args:
        out: folder of the portfolio, made if absent.
        base: folder or hub id.
        rewards: what tells rewards apart, by a name that people understand.
        asked: all prompts.
        seed: of everything random.
        settings: of members.

    Raises:
        PortfolioConflict: `out` was begun with other arguments, or its account of them is damaged.
    """
    parts = (*asked.training, *asked.validation, *asked.held_out)
    told = {"base": fingerprint(base), **rewards, "prompts": hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12], "seed": str(seed)}
    told |= {f"--set {name}": value for name, _, value in (word.partition("=") for word in described(settings).split())}
    file = out / FILE
    if not file.is_file():
        out.mkdir(parents=True, exist_ok=True)
        temporary = file.with_suffix(".part")
        temporary.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
        temporary.replace(file)
        return
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        # A setting that one of the two versions does not know had the same effect in both.
        differing = [f"{name} was {found[name]} and is {told[name]}" for name in told if name in found and found[name] != told[name]]
    except (ValueError, TypeError, RecursionError) as error:
        raise PortfolioConflict(f"{file} is damaged: {error}; give another folder with --out") from error
    if differing:
        raise PortfolioConflict(f"{out} holds a portfolio that was begun with something else ({'; '.join(differing)}): give another --out")
