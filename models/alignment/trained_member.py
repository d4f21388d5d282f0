"""One member of a portfolio from a base model and one user's weights over rewards: sampled, aligned, guarded, measured.

    1. the base answers the training prompts            <shared>/training.jsonl
    2. the best against the worst answer under w·r      pairs
    3. DPO of a LoRA adapter                            <out>/work/ checkpoints
    4. checkpoints on validation prompts, from the last back to the first that the guard accepts: it is kept
    5. the adapter, and its figures on held-out prompts <out>/adapter_*, <out>/member.json, written last

Every stage goes on where it stopped: call again with the same arguments after a kill. Validation chooses, held-out prompts
only report. What the rewards are and how many members are wanted is not known here.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from attune.models.alignment.adapter_fit import CONFIG, WEIGHTS, write_adapter_config
from attune.models.alignment.base_answers import Answers, Rewards, sample_answers
from attune.models.alignment.causal import BASE, LanguageModel, load
from attune.models.alignment.dpo import Aligned, DpoSettings, train_dpo
from attune.models.alignment.guard import GuardLimits
from attune.models.alignment.measured import Measured, measure
from attune.models.alignment.pairs import choose_pairs

Array = NDArray[np.float64]
Tell = Callable[[str], None]

DOCUMENT = "member.json"
_NAME = "member"  # of the adapter while it is in memory
_HEAD_BYTES = 1 << 20
_PIECES, _PIECE_BYTES = 256, 4096


class MemberRefused(RuntimeError):
    """No checkpoint of a member passed the guard; the message has the numbers of the first and of the last."""


class MemberConflict(ValueError):
    """A folder holds a member that was begun with other arguments; the message names them."""


@dataclass(frozen=True, slots=True)
class Prompts:
    """What is asked: to learn from, to choose the checkpoint on, and to report on. They should not overlap."""

    training: tuple[str, ...]
    validation: tuple[str, ...]
    held_out: tuple[str, ...]

    def __post_init__(self) -> None:
        for name in ("validation", "held_out"):
            shared = set(self.training) & set(getattr(self, name))
            if shared:
                raise ValueError(f"{len(shared)} {name} prompts are among the training prompts, the first {min(shared)!r}")


@dataclass(frozen=True, slots=True)
class MemberSettings:
    """How a member is made.

    Attributes:
        answers: of the base to each training prompt.
        temperature: of the base as it answers them; 0 for its own. A higher one shows more of what it can say, also where it serves with
            a low one.
        pairs: most pairs of one prompt.
        least_margin: of a pair's `w·r`.
        only_ended: whether answers that were cut off are kept out of the pairs, see `choose_pairs`.
        dpo: see there.
        limits: of the guard.
        validation_answers, held_out_answers: to each prompt, of base and member.
    """

    answers: int = 4
    temperature: float = 0.0
    pairs: int = 1
    least_margin: float = 0.05
    only_ended: bool = True
    dpo: DpoSettings = field(default_factory=DpoSettings)
    limits: GuardLimits = field(default_factory=GuardLimits)
    validation_answers: int = 1
    held_out_answers: int = 2

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature is {self.temperature}; at least 0 was expected, which is the base's own")


@dataclass(frozen=True, slots=True)
class TrainedMember:
    """A finished member: its adapter's folder, the checkpoint that was kept, and the contents of `member.json`."""

    folder: Path
    step: int
    document: Mapping[str, Any]


def train_member(
    base: Path | str,
    rewards: Rewards,
    weights: Sequence[float] | Array,
    out: Path,
    prompts: Prompts,
    *,
    seed: int,
    settings: MemberSettings | None = None,
    shared: Path | None = None,
    base_name: str = "",
    progress: Tell | None = None,
) -> TrainedMember:
    """Trains one member, or goes on with one that was begun, or returns one that is finished.

    Args:
        base: folder or hub id of a causal language model; it is read, not changed.
        rewards: in [0, 1].
        weights: `[d]` of the user that the member is for. They are used as they are: half the weights with the same `beta` is
            a member that stays nearer to the base (pairs are labelled by the sign of `w·r` and are the same; see `DpoSettings`).
        out: folder of this member; gets the adapter in peft's format and `member.json`.
        prompts: to learn from, choose on and report on.
        seed: of everything random.
        settings: see there.
        shared: where the base's answers are kept, for all members of one base; `out/work` if None.
        base_name: what the adapter's configuration calls its base; never a path.
        progress: told a line now and then.

    Raises:
        MemberConflict: `out` was begun with other arguments.
        MemberRefused: no checkpoint passed the guard; `out/work` keeps them.
        PairsMissing, RewardsInvalid, OSError: see `choose_pairs`, `Rewards`, `load`.
    """
    settings = settings or MemberSettings()
    tell = progress or (lambda _line: None)
    wanted = rewards.weights(weights)
    arguments = _arguments(base, rewards, wanted, prompts, settings, seed)
    if (finished := read_member(out)) is not None:
        _check_same(out, finished.document["arguments"], arguments)
        return finished
    work = out / "work"
    _begin(work, arguments)
    shared = shared or work
    source = str(arguments["base"])
    model = load(base)
    file = shared / "training.jsonl"
    learned = sample_answers(model, BASE, prompts.training, settings.answers, seed, file, source, tell, settings.temperature or None)
    judged = learned.rewards(rewards)
    pairs = choose_pairs(learned, judged, wanted, settings.pairs, settings.least_margin, only_ended=settings.only_ended)
    aligned = train_dpo(base, pairs, work, seed, settings.dpo, tell)
    asked = sample_answers(
        model, BASE, prompts.validation, settings.validation_answers, seed + 1, shared / "validation.jsonl", source, tell
    )
    step, looks = _choose_checkpoint(base, aligned, rewards, wanted, asked, settings, seed, tell)
    _write_adapter(aligned.checkpoints[step], out, base_name)
    before = sample_answers(model, BASE, prompts.held_out, settings.held_out_answers, seed + 2, shared / "held_out.jsonl", source, tell)
    held_out = _measure(load(base, {_NAME: out}), rewards, wanted, before, seed + 3, tell)
    tell(_line("held out", held_out))
    document = {
        "arguments": arguments,
        "weights": dict(zip(rewards.names, wanted.tolist(), strict=True)),
        "pairs": {"count": len(pairs), "margin": float(np.mean([pair.margin for pair in pairs]))},
        "curve": [dict(entry) for entry in aligned.curve],
        "checkpoints": looks,
        "kept": step,
        "held_out": held_out.document() | {"violations": held_out.violations(settings.limits)},
    }
    temporary = out / f"{DOCUMENT}.part"
    temporary.write_text(json.dumps(document, indent=1, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")
    temporary.replace(out / DOCUMENT)
    shutil.rmtree(work)
    return TrainedMember(out, step, document)


def read_member(folder: Path) -> TrainedMember | None:
    """Returns the finished member in `folder`, or None if there is none; raises ValueError if its document is damaged."""
    file = folder / DOCUMENT
    if not file.is_file():
        return None
    document = json.loads(file.read_text(encoding="utf-8"))
    return TrainedMember(folder, int(document["kept"]), document)


def begun_for(folder: Path) -> Mapping[str, float] | None:
    """Returns the weights, by reward, that a member in `folder` was begun or finished for; None if there is none."""
    if (finished := read_member(folder)) is not None:
        found: Mapping[str, float] = finished.document["arguments"]["weights"]
        return found
    if not (begun := _begun(folder / "work")).is_file():
        return None
    weights: Mapping[str, float] = json.loads(begun.read_text(encoding="utf-8"))["weights"]
    return weights


def _choose_checkpoint(
    base: Path | str, aligned: Aligned, rewards: Rewards, weights: Array, asked: Answers, settings: MemberSettings, seed: int, tell: Tell
) -> tuple[int, list[dict[str, Any]]]:
    """Returns the last step that passes the guard on validation prompts, and what was seen from there to the end, by step.

    Looked at from the end, so that many checkpoints cost nothing where the last is good.
    """
    looks: list[dict[str, Any]] = []
    for step, folder in sorted(aligned.checkpoints.items(), reverse=True):
        found = _measure(load(base, {_NAME: folder}), rewards, weights, asked, seed + 3, tell)
        objections = found.violations(settings.limits)
        looks.insert(0, {"step": step, **found.document(), "violations": objections})
        tell(_line(f"checkpoint {step}", found) + ("" if not objections else "; refused: " + "; ".join(objections)))
        if not objections:
            if len(looks) > 1:
                tell(f"rolled back to checkpoint {step}, the last that passes the guard")
            return step, looks
    raise MemberRefused(
        f"none of {len(looks)} checkpoints passes the guard: at step {looks[0]['step']} {'; '.join(looks[0]['violations'])}; "
        f"at step {looks[-1]['step']} {'; '.join(looks[-1]['violations'])}"
    )


def _measure(model: LanguageModel, rewards: Rewards, weights: Array, before: Answers, seed: int, tell: Tell) -> Measured:
    after = sample_answers(model, _NAME, before.prompts, before.shape[1], seed, progress=tell)
    return measure(model, _NAME, rewards, weights, before, after)


def _line(when: str, found: Measured) -> str:
    document = found.document()
    own, relative = document["own"], document["ratios"]
    gained = f"w·r {own['before']:.3f} to {own['after']:.3f} ({found.standard_errors_gained:+z.1f} standard errors)"
    apart = f"KL {document['kl']:.2f}, length x{relative['length']:.2f}, perplexity x{relative['perplexity']:.2f}"
    return f"{when}: {gained}, {apart}, distinct-2 x{relative['distinct_2']:.2f}, of all answers x{relative['diversity']:.2f}"


def _write_adapter(checkpoint: Path, out: Path, base_name: str) -> None:
    """Stores a checkpoint's adapter in float16, as vLLM and peft load it."""
    tensors = {key: value.to(torch.float16).contiguous() for key, value in load_file(checkpoint / WEIGHTS).items()}
    save_file(tensors, out / WEIGHTS, metadata={"format": "pt"})
    shutil.copyfile(checkpoint / CONFIG, out / CONFIG)
    write_adapter_config(out, base_name)


def _arguments(
    base: Path | str, rewards: Rewards, weights: Array, prompts: Prompts, settings: MemberSettings, seed: int
) -> dict[str, object]:
    asked = {
        part: hashlib.sha256("\0".join(getattr(prompts, part)).encode()).hexdigest()[:16] for part in ("training", "validation", "held_out")
    }
    named = dict(zip(rewards.names, weights.tolist(), strict=True))
    return {"base": fingerprint(base), "weights": named, "prompts": asked, "settings": asdict(settings), "seed": seed}


def fingerprint(base: Path | str) -> str:
    """Returns what tells two bases apart: the hub id, or a hash over the files of a folder.

    Of each its size, its first MiB, and 256 pieces of 4 KiB spread evenly over the rest: a tuned model begins with embeddings that
    nobody tuned, and every byte of a large one takes minutes.
    """
    folder = Path(base)
    if not folder.is_dir():
        return str(base)
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.iterdir() if path.suffix in {".safetensors", ".bin", ".json"}):
        size = file.stat().st_size
        with file.open("rb") as content:
            digest.update(f"{file.name}\0{size}\0".encode() + content.read(_HEAD_BYTES))
            for number in range(_PIECES if size > _HEAD_BYTES else 0):
                content.seek(_HEAD_BYTES + (size - _HEAD_BYTES) * number // _PIECES)
                digest.update(content.read(_PIECE_BYTES))
    return digest.hexdigest()[:16]


def _begun(work: Path) -> Path:
    return work / "arguments.json"


def _begin(work: Path, arguments: dict[str, object]) -> None:
    if (file := _begun(work)).is_file():
        _check_same(work.parent, json.loads(file.read_text(encoding="utf-8")), arguments)
        return
    work.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".part")
    temporary.write_text(json.dumps(arguments, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    temporary.replace(file)


def _check_same(folder: Path, found: Mapping[str, Any], wanted: Mapping[str, object]) -> None:
    # A setting that did not exist when the folder was begun had the effect that its default has now.
    found = {**found, "settings": _merged(asdict(MemberSettings()), found.get("settings", {}))}
    differing = [f"{key}: {found.get(key)} there, {wanted[key]} now" for key in wanted if found.get(key) != wanted[key]]
    if differing:
        raise MemberConflict(f"{folder} holds a member with other arguments ({'; '.join(differing)}); give another folder")


def _merged(defaults: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    parts = {
        key: _merged(value, found.get(key, {})) if isinstance(value, dict) else found.get(key, value) for key, value in defaults.items()
    }
    return {**found, **parts}
