"""Members as a command makes and judges them: one aligned to weights, and the table of what aligning did to each.

Rewards, Prompts, weights ─> train_one ─> DIR/member.json
base + DIR/*/ ─> evaluate_members ─> [MemberRow] ─> members.md, members.json
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attune.models.alignment.adapter_fit import CONFIG
from attune.models.alignment.base_answers import Rewards, sample_answers
from attune.models.alignment.causal import BASE, load
from attune.models.alignment.guard import GuardLimits
from attune.models.alignment.measured import Measured, measure
from attune.models.alignment.trained_member import MemberSettings, Prompts, fingerprint, read_member, train_member
from attune.models.measuring.report_files import write_report
from attune.models.portfolio.inputs import SettingsInvalid, described, parse_weights

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class MemberRow:
    """One member beside its base on held-out prompts; `violations` are of the guard."""

    name: str
    measured: Measured
    violations: tuple[str, ...]


def evaluate_members(
    base: Path | str,
    folder: Path,
    rewards: Rewards,
    asked: Sequence[str],
    *,
    answers: int,
    seed: int,
    cache: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> list[MemberRow]:
    """Returns a row for every adapter below `folder`, all on the same prompts and beside the same answers of the base.

    Args:
        base: folder or hub id.
        folder: holds one folder a member. A member's weights are those of its `member.json`; an adapter without one that is
            named like a reward counts as made for that reward.
        rewards: to judge by.
        asked: prompts that no member was trained on or chosen on.
        answers: to each prompt.
        seed: of the sampling.
        cache: folder in which answers are kept and found again.
        progress: told a line now and then.

    Raises:
        SettingsInvalid: there is no member with known weights.
        AdapterMisfit: a member does not fit the base.
    """
    if not folder.is_dir():
        raise SettingsInvalid(f"{folder} is not a folder; one with a folder for each member is needed")
    made_for = {
        path.parent.name: found for path in sorted(folder.glob(f"*/{CONFIG}")) if (found := weights_of(path.parent, rewards)) is not None
    }
    if not made_for:
        raise SettingsInvalid(f"{folder} holds no adapter whose weights over {', '.join(rewards.names)} are known")
    model = load(base, {name: folder / name for name in made_for})
    source = fingerprint(base)
    kept = None if cache is None else cache / "base.jsonl"
    before = sample_answers(model, BASE, asked, answers, seed, kept, source, progress)
    rows = []
    for name, weights in made_for.items():
        kept = None if cache is None else cache / f"{name}.jsonl"
        after = sample_answers(model, name, asked, answers, seed + 1, kept, f"{source} {fingerprint(folder / name)}", progress)
        measured = measure(model, name, rewards, weights, before, after)
        rows.append(MemberRow(name, measured, tuple(measured.violations(GuardLimits()))))
    return rows


def weights_of(folder: Path, rewards: Rewards) -> Array | None:
    """Returns `[d]` the weights that a member was made for, or None if nothing says so."""
    member = read_member(folder)
    if member is None:
        return np.eye(len(rewards.names))[rewards.names.index(folder.name)] if folder.name in rewards.names else None
    named: Mapping[str, float] = member.document["weights"]
    return np.array([float(named.get(name, 0.0)) for name in rewards.names]) if set(named) <= set(rewards.names) else None


def render_members(rows: Sequence[MemberRow]) -> str:
    """Returns the rows as a Markdown table, and the objections of the guard below it."""
    lines = [
        "| member | own w·r before | after | gain ± se | in se | KL | perplexity / base | length | distinct-2 (of all answers) | guard |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        found: dict[str, Any] = row.measured.document()
        own, relative = found["own"], found["ratios"]
        lines.append(
            f"| {row.name} | {own['before']:.3f} | {own['after']:.3f} | {own['gain']:.3f} ± {own['se']:.3f} "
            f"| {row.measured.standard_errors_gained:.1f} | {found['kl']:.2f} | {relative['perplexity']:.2f} | {relative['length']:.2f} "
            f"| {relative['distinct_2']:.2f} ({relative['diversity']:.2f}) | {'refuses' if row.violations else 'passes'} |"
        )
    lines += [f"\n{row.name}: {'; '.join(row.violations)}" for row in rows if row.violations]
    return "\n".join(lines)


def write_members(rows: Sequence[MemberRow], out: Path) -> None:
    """Writes `members.md` and `members.json` into `out`."""
    document = {row.name: row.measured.document() | {"violations": row.violations} for row in rows}
    write_report(out, document, render_members(rows) + "\n", names=("members.json", "members.md"))


def train_one(
    base: Path | str,
    weights: str,
    out: Path,
    rewards: Rewards,
    asked: Prompts,
    *,
    settings: MemberSettings,
    seed: int,
    shared: Path | None = None,
    base_name: str = "",
    progress: Callable[[str], None] | None = None,
) -> Mapping[str, Any]:
    """Trains one member as the command line describes it and returns its document; see `train_member` for errors."""
    if progress is not None:
        progress(f"settings: {described(settings)}")
    over = parse_weights(weights, rewards.names)
    member = train_member(
        base, rewards, over, out, asked, seed=seed, settings=settings, shared=shared, base_name=base_name, progress=progress
    )
    return member.document


def judge(
    base: Path | str,
    members: Path,
    rewards: Rewards,
    asked: Sequence[str],
    answers: int,
    out: Path,
    *,
    seed: int,
    progress: Callable[[str], None] | None = None,
) -> str:
    """Evaluates members as the command line describes them, writes the report, and returns its table."""
    rows = evaluate_members(base, members, rewards, asked, answers=answers, seed=seed, cache=out / "answers", progress=progress)
    write_members(rows, out)
    return render_members(rows)
