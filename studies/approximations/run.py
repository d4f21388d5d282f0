"""`python -m studies approximations`: what soups and logit mixing give users between the members, beside the best single member.

    members aligned to one reward each, pairs of rewards half and half ─> MOD, soup, best member, base ─> w·v ± se on the same prompts

Both cost no training. Values are of a user whose weights are one half on each of two rewards. Letters: `P` prompts, `d` rewards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from attune.models.alignment.base_answers import Rewards, sample_answers
from attune.models.alignment.causal import BASE, load
from attune.models.measuring.aligned_members import weights_of
from attune.models.measuring.report_files import write_json
from attune.models.portfolio.inputs import SettingsInvalid
from studies.approximations.untrained_oracles import MixingOracle, OracleTask, SoupOracle

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Between:
    """What a user between two rewards gets: `w·v` and the half width of its 95 % interval, by policy."""

    rewards: tuple[str, str]
    value: dict[str, float]
    half_width: dict[str, float]
    best_member: str


def compare(
    base: Path | str,
    members: Path,
    rewards: Rewards,
    asked: Sequence[str],
    pairs: Sequence[tuple[str, str]],
    out: Path,
    *,
    answers: int = 1,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> list[Between]:
    """Returns what base, best member, soup and MOD give the user half way between each pair of rewards; writes `approximations.json`.

    Args:
        base: folder or hub id.
        members: folder with one adapter folder a member, each aligned to one reward (`weights_of`).
        rewards: in [0, 1].
        asked: prompts that nothing was trained on or chosen on.
        pairs: of names of rewards.
        out: gets the averaged adapters and the results.
        answers: to each prompt.
        seed: of the sampling; every policy answers with the same.
        progress: told a line for each pair.

    Raises:
        SettingsInvalid: a reward of a pair has no member that was aligned to it alone.
    """
    folders = sorted(folder for folder in members.iterdir() if folder.is_dir())
    corners = {folder.name: made for folder in folders if (made := weights_of(folder, rewards)) is not None}
    made_for = {name: found for name, found in corners.items() if np.isclose(found.max(), found.sum())}
    of_reward = {rewards.names[int(np.argmax(found))]: name for name, found in made_for.items()}
    missing = sorted({name for pair in pairs for name in pair} - set(of_reward))
    if missing:
        raise SettingsInvalid(f"{members} holds no member that was aligned to {', '.join(missing)} alone")
    adapters = {name: members / name for name in made_for}
    model = load(base, adapters)
    judged = OracleTask(rewards, tuple(asked), answers, seed)
    alone = {}
    for name in (BASE, *made_for):
        alone[name or "base"] = judged.per_prompt(sample_answers(model, name, judged.prompts, answers, seed))
    mixing, soups = MixingOracle(model, made_for, judged), SoupOracle(base, adapters, made_for, judged, out)
    found: list[Between] = []
    for pair in pairs:
        weights = np.array([0.5 * (name in pair) for name in rewards.names])
        best = max(made_for, key=lambda name: float(alone[name].mean(axis=0) @ weights))
        samples = {"base": alone["base"] @ weights, "best member": alone[best] @ weights}
        samples |= {"soup": soups.per_prompt(weights) @ weights, "MOD": mixing.per_prompt(weights) @ weights}
        width = {name: float(1.96 * values.std(ddof=1) / np.sqrt(len(values))) for name, values in samples.items()}
        found.append(Between(pair, {name: float(values.mean()) for name, values in samples.items()}, width, best))
        if progress is not None:
            progress(render([found[-1]]).splitlines()[-1])
    document = {"seed": seed, "prompts": len(asked), "answers": answers, "between": [asdict(one) for one in found]}
    write_json(out / "approximations.json", document)
    return found


def render(found: Sequence[Between]) -> str:
    """Returns the comparison as a Markdown table."""
    policies = ("base", "best member", "soup", "MOD")
    lines = ["| user between | " + " | ".join(policies) + " |", "|---" * (1 + len(policies)) + "|"]
    for one in found:
        cells = [f"{one.value[name]:.3f} ± {one.half_width[name]:.3f}" for name in policies]
        cells[1] += f" ({one.best_member})"
        lines.append(f"| {one.rewards[0]} and {one.rewards[1]} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
