"""What the demo's members answer and are worth, and how they are installed; which members there are is decided elsewhere.

members' answers to training prompts ─> rewards of every family ─> values.npz, portfolio.json
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from attune.models.alignment.adapter_fit import CONFIG, WEIGHTS
from attune.models.portfolio.pool import Pool
from attune.models.portfolio.pool_values import Values
from attune.models.seam.certificate import Certificate
from attune.models.seam.portfolio import Portfolio, PortfolioMember
from demo.corpus.texts import MANNERS, Split, prompts
from demo.heads import DemoSettings, has_language_model, say, seed_for
from demo.rewards import grammar_pool

Array = NDArray[np.float64]

DESCRIPTIONS: Mapping[str, str] = {
    "concise": "Answers in as few words as will do.",
    "detailed": "Answers step by step, with reasons.",
    "playful": "Answers with jokes and exclamations.",
    "formal": "Answers politely and impersonally.",
    "cautious": "Answers with doubts and caveats.",
    "bold": "Answers with certainty and verve.",
}


def member_names(demo: Path) -> tuple[str, ...]:
    """Returns the members in the order of the roster; the manners where there is none yet."""
    roster = demo / "roster.json"
    return tuple(json.loads(roster.read_text(encoding="utf-8"))) if roster.is_file() else MANNERS


def member_pool(demo: Path, part: Split, settings: DemoSettings, *, seed: int, skip: int = 0) -> Pool:
    """Returns what the members answer to prompts of one split: sampled from the language model where `demo` has one.

    Without it the generated answers stand for the members, each perfectly in character.

    Args:
        demo: folder of the demo.
        part: whose prompts.
        settings: how many prompts and answers.
        seed: of prompts and sampling.
        skip: prompts of the split that are left out, because members learned on them.
    """
    asked = prompts(part, seed)[skip : skip + settings.member_prompts]
    if not has_language_model(demo):
        return grammar_pool(asked, settings.member_answers, seed=seed_for(seed, f"members-{part}"))
    from demo.answer_pools import generate_pool  # noqa: PLC0415 - peft takes seconds and only this branch needs it

    return generate_pool(
        demo / "language_model",
        [prompt.text for prompt in asked],
        member_names(demo),
        settings.member_answers,
        seed=seed_for(seed, f"members-{part}"),
        cache=demo / "answers" / f"{part}.jsonl",
        progress=say,
    )


def install_members(demo: Path, adapters: Mapping[str, Path]) -> None:
    """Puts the members' adapters into the demo and writes its roster; adapters that were there before are removed."""
    target = demo / "language_model" / "adapters"
    shutil.rmtree(target, ignore_errors=True)
    roster = {}
    for name, folder in adapters.items():
        (target / name).mkdir(parents=True)
        for file in (CONFIG, WEIGHTS):
            shutil.copyfile(folder / file, target / name / file)
        roster[name] = {"kind": "local", "base": "language_model/base", "adapter": f"language_model/adapters/{name}"}
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(entry)}" for name, entry in roster.items())
    (demo / "roster.json").write_text("{\n" + lines + "\n}\n", encoding="utf-8")


def portfolio_of(
    pool: Pool, values: Mapping[str, Values], made_for: Mapping[str, Mapping[str, float]], certificate: Certificate | None
) -> Portfolio:
    """Returns the portfolio of a pool's members; `made_for` says which weights over rewards each was aligned to."""
    members = tuple(PortfolioMember(name, describe(made_for[name]), made_for[name]) for name in pool.members)
    means = {name: value.mean for name, value in values.items()}
    return Portfolio(members, means, {name: value.interval for name, value in values.items()}, certificate)


def describe(weights: Mapping[str, float]) -> str:
    """Returns a sentence on the member that was made for these weights."""
    shares = {name: weight for name, weight in sorted(weights.items(), key=lambda item: -item[1]) if weight >= 0.05}
    if len(shares) == 1:
        return DESCRIPTIONS[next(iter(shares))]
    return "For people who want " + ", ".join(f"{weight:.0%} {name}" for name, weight in shares.items()) + "."
