"""Members as a command makes and judges them: which rewards, which prompts, and the table of what aligning did to each.

    --rewards module:name, --prompts FILE ─> Rewards, Prompts ─> train_member ─> DIR/member.json
    base + DIR/*/ ─> evaluate_members ─> [MemberRow] ─> render_members, results.json

Without options the demo's: its prompts by split, and how strongly an answer shows each manner as rewards.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attune.models.alignment.adapter_fit import CONFIG
from attune.models.alignment.answers import Rewards, RewardsInvalid, sample_answers
from attune.models.alignment.causal import BASE, load
from attune.models.alignment.dpo import DpoSettings
from attune.models.alignment.guard import GuardLimits
from attune.models.alignment.measured import Measured, measure
from attune.models.alignment.member import MemberSettings, Prompts, fingerprint, read_member, train_member
from demo.corpus.tastes import manner_scores
from demo.corpus.texts import MANNERS, prompts

Array = NDArray[np.float64]

DEMO_REWARDS = "attune.models.measuring.members:MANNER_REWARDS"

# Chosen on the demo's validation prompts and those that value policies in the search. The best of sixteen answers shows clearly what a
# user wants; of eight, four in ten of the chosen ones did not. The diversity limit is low because the base speaks in six manners and a
# member keeps to one: even the grammar's own answers in one manner have .24 (formal) to .66 (detailed) of the mixture's distinct pairs.
DEMO_SETTINGS = MemberSettings(
    answers=16,
    pairs=2,
    dpo=DpoSettings(imitation=1.0, learning_rate=2e-3, epochs=2, checkpoints=8),
    limits=GuardLimits(least_diversity=0.2),
    held_out_answers=1,
)


def _manners(_prompts: Sequence[str], responses: Sequence[str]) -> Array:
    return np.array([manner_scores(text) for text in responses]).reshape(len(responses), len(MANNERS))


MANNER_REWARDS = Rewards(MANNERS, _manners)
"""How strongly an answer shows each manner: the ground truth that the demo's heads are learned from."""


class SettingsInvalid(ValueError):
    """What a command was given cannot be used; the message names it."""


@dataclass(frozen=True, slots=True)
class MemberRow:
    """One member beside its base on held-out prompts; `violations` are of the guard."""

    name: str
    measured: Measured
    violations: tuple[str, ...]


def load_rewards(where: str) -> Rewards:
    """Returns the `Rewards` that `module:name` is.

    Raises:
        RewardsInvalid: there is no such thing.
    """
    module, _, name = where.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise RewardsInvalid(f"rewards {where!r} cannot be loaded: {error}; give module:name") from error
    if not isinstance(found, Rewards):
        raise RewardsInvalid(f"rewards {where!r} are {type(found).__name__}; models.alignment.answers.Rewards was expected")
    return found


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


def demo_prompts(seed: int = 0, training: int = 400, validation: int = 60) -> Prompts:
    """Returns the demo's prompts: training topics to learn from, validation topics to choose on, test topics to report on."""
    asked = {part: tuple(prompt.text for prompt in prompts(part, seed)) for part in ("train", "validation", "test")}
    return Prompts(asked["train"][:training], asked["validation"][:validation], asked["test"])


def read_prompts(file: Path) -> Prompts:
    """Returns the prompts of a text file, one a line: four fifths to learn from, a tenth each to choose and to report on.

    Where a prompt belongs is fixed by its text, so that a longer file moves none of them.

    Raises:
        SettingsInvalid: a part has fewer than two prompts.
    """
    parts: dict[str, list[str]] = {"training": [], "validation": [], "held_out": []}
    for line in dict.fromkeys(filter(None, (line.strip() for line in file.read_text(encoding="utf-8").splitlines()))):
        digit = hashlib.sha256(line.encode()).digest()[0] % 10
        parts["held_out" if digit == 0 else "validation" if digit == 1 else "training"].append(line)
    if min(map(len, parts.values())) < 2:
        raise SettingsInvalid(
            f"{file.name} gives {dict(zip(parts, map(len, parts.values()), strict=True))} prompts; two of each kind are needed"
        )
    return Prompts(**{part: tuple(lines) for part, lines in parts.items()})


def evaluate_members(
    base: Path | str,
    folder: Path,
    rewards: Rewards,
    asked: Sequence[str],
    *,
    answers: int,
    seed: int,
    limits: GuardLimits | None = None,
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
        limits: of the guard, for `violations`.
        cache: folder in which answers are kept and found again.
        progress: told a line now and then.

    Raises:
        SettingsInvalid: there is no member with known weights.
        AdapterMisfit: a member does not fit the base.
    """
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
        rows.append(MemberRow(name, measured, tuple(measured.violations(limits or GuardLimits()))))
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
    out.mkdir(parents=True, exist_ok=True)
    (out / "members.md").write_text(render_members(rows) + "\n", encoding="utf-8")
    document = {row.name: row.measured.document() | {"violations": row.violations} for row in rows}
    (out / "members.json").write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def train_one(
    base: Path | str,
    weights: str,
    out: Path,
    rewards: str | None,
    asked: Path | None,
    shared: Path | None,
    base_name: str,
    changes: Sequence[str],
    *,
    seed: int,
    progress: Callable[[str], None] | None = None,
) -> Mapping[str, Any]:
    """Trains one member as the command line describes it and returns its document; see `train_member` for errors."""
    judged_by = load_rewards(rewards or DEMO_REWARDS)
    member = train_member(
        base,
        judged_by,
        parse_weights(weights, judged_by.names),
        out,
        demo_prompts() if asked is None else read_prompts(asked),
        seed=seed,
        settings=changed(DEMO_SETTINGS, changes),
        shared=shared,
        base_name=base_name,
        progress=progress,
    )
    return member.document


def judge(
    base: Path | str,
    members: Path,
    rewards: str | None,
    asked: Path | None,
    answers: int,
    out: Path,
    *,
    seed: int,
    progress: Callable[[str], None] | None = None,
) -> str:
    """Evaluates members as the command line describes them, writes the report, and returns its table."""
    told = (demo_prompts() if asked is None else read_prompts(asked)).held_out
    judged_by = load_rewards(rewards or DEMO_REWARDS)
    rows = evaluate_members(base, members, judged_by, told, answers=answers, seed=seed, cache=out / "answers", progress=progress)
    write_members(rows, out)
    return render_members(rows)


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
