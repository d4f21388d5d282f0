"""Answers of the base to many prompts, sampled once and kept, because every member is aligned on pairs of the same ones.

    prompts ─> sample_answers ─> Answers [P, G] on disk (JSON lines, a batch at a time) ─> pairs

A run that was killed goes on with the batches that are missing: each is drawn from a seed of its own. Letters: `P`
prompts, `G` answers to one prompt, `d` rewards.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from attune.models.alignment.causal import Answer, LanguageModel, sample
from attune.models.data.progress import left

Array = NDArray[np.float64]

BATCH = 128


class RewardsInvalid(ValueError):
    """Rewards are not what alignment needs: finite, in [0, 1], one column for each name; the message has the numbers."""


@dataclass(frozen=True, slots=True)
class Rewards:
    """The reward functions that members are aligned to.

    Attributes:
        names: `[d]` what each column rewards.
        score: `(prompts [N], responses [N]) -> [N, d]`, each in [0, 1].
    """

    names: tuple[str, ...]
    score: Callable[[Sequence[str], Sequence[str]], Array]

    def of(self, prompts: Sequence[str], responses: Sequence[str]) -> Array:
        """Returns `[N, d]` rewards of the responses.

        Raises:
            RewardsInvalid: the scores are not `[N, d]`, not finite, or outside [0, 1] by more than rounding; or there are none.
        """
        try:
            found = np.asarray(self.score(prompts, responses), dtype=np.float64)
        except Exception as error:  # whatever a function of somebody else raises, or gives in place of numbers
            raise RewardsInvalid(f"the rewards cannot score {len(responses)} answers: {type(error).__name__}: {error}") from error
        if found.shape != (len(responses), len(self.names)):
            raise RewardsInvalid(f"scores are {found.shape}; {(len(responses), len(self.names))} for {list(self.names)} was expected")
        if not np.isfinite(found).all() or found.min(initial=0.0) < -1e-6 or found.max(initial=0.0) > 1 + 1e-6:
            worst = self.names[int(np.argmax(np.where(np.isfinite(found), np.abs(found - 0.5), np.inf).max(axis=0)))]
            raise RewardsInvalid(f"rewards must be in [0, 1]; {worst!r} lies in [{found.min():g}, {found.max():g}]: normalise them first")
        return found.clip(0.0, 1.0)

    def weights(self, given: Sequence[float] | Array) -> Array:
        """Returns `[d]` weights over the rewards.

        They are not renormalised: with a KL penalty, weights of half the size are another objective (SCIENCE §4).

        Raises:
            RewardsInvalid: not `[d]`, not finite, negative, or all zero.
        """
        found = np.asarray(given, dtype=np.float64)
        if found.shape != (len(self.names),) or not np.isfinite(found).all() or found.min() < 0 or not found.any():
            raise RewardsInvalid(f"weights are {np.asarray(given).tolist()}; {len(self.names)} of at least 0, not all 0, were expected")
        return found


@dataclass(frozen=True, slots=True)
class Answers:
    """`answers[p][g]` to `prompts[p]`; every prompt has equally many."""

    prompts: tuple[str, ...]
    answers: tuple[tuple[Answer, ...], ...]

    @property
    def shape(self) -> tuple[int, int]:
        """`(P, G)`."""
        return len(self.prompts), len(self.answers[0])

    def flat(self) -> tuple[list[str], list[Answer]]:
        """Returns prompts and answers row by row, `[P * G]` each."""
        rows = [(prompt, answer) for prompt, group in zip(self.prompts, self.answers, strict=True) for answer in group]
        return [prompt for prompt, _ in rows], [answer for _, answer in rows]

    def rewards(self, rewards: Rewards) -> Array:
        """Returns `[P, G, d]` rewards of the answers."""
        prompts, answers = self.flat()
        return rewards.of(prompts, [answer.text for answer in answers]).reshape(*self.shape, -1)


def sample_answers(
    model: LanguageModel,
    member: str | None,
    prompts: Sequence[str],
    per_prompt: int,
    seed: int,
    file: Path | None = None,
    source: str = "",
    progress: Callable[[str], None] | None = None,
    temperature: float | None = None,
) -> Answers:
    """Returns `per_prompt` answers of one member to each prompt.

    Args:
        model: where the member is.
        member: adapter that answers; BASE for none.
        prompts: at least one.
        per_prompt: at least one.
        seed: of the sampling.
        file: where finished batches are kept and found again; of other prompts, members, seeds or sources it is overwritten.
        source: tells two models apart that were asked the same.
        progress: told a line now and then.
        temperature: in place of the model's own.

    Raises:
        ValueError: there is nothing to ask, or a prompt leaves no room for an answer.
    """
    if not prompts or per_prompt < 1:
        raise ValueError(f"{len(prompts)} prompts and {per_prompt} answers to each; at least one of both is needed")
    asked = [prompt for prompt in prompts for _ in range(per_prompt)]
    told: dict[str, object] = {
        "source": source,
        "member": member,
        "per_prompt": per_prompt,
        "seed": seed,
        "asked": hashlib.sha256("\0".join(asked).encode()).hexdigest(),
    }
    if temperature is not None:
        told["temperature"] = temperature
    with _kept(file) as lines:
        found = _read(lines, told)
        known, began_s = len(found), time.monotonic()
        if progress is not None and known < len(asked):
            progress(f"{member or 'base'}: {known:,} of {len(asked):,} answers, {BATCH} at a time")
        for start in range(len(found), len(asked), BATCH):
            batch_seed = int(np.random.SeedSequence([seed, start]).generate_state(1)[0])
            part = sample(model, member, asked[start : start + BATCH], batch_seed, BATCH, temperature=temperature)
            found += part
            lines.write(json.dumps([[answer.text, answer.ids, answer.end] for answer in part], ensure_ascii=False) + "\n")
            lines.flush()
            if progress is not None:
                rest = left(time.monotonic() - began_s, len(found) - known, len(asked) - known)
                progress(f"{member or 'base'}: {len(found):,} of {len(asked):,} answers{rest}")
    groups = tuple(tuple(found[row : row + per_prompt]) for row in range(0, len(found), per_prompt))
    return Answers(tuple(prompts), groups)


@contextmanager
def _kept(file: Path | None) -> Iterator[TextIO]:
    """Gives the file, locked until the end: of two runs that share it the second waits and then reads what the first sampled."""
    if file is None:
        yield io.StringIO()
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+", encoding="utf-8") as lines:
        fcntl.flock(lines, fcntl.LOCK_EX)
        yield lines


def _read(lines: TextIO, told: Mapping[str, object]) -> list[Answer]:
    """Returns the whole batches that the file holds if it is about what is asked, and leaves the file ready for the next.

    A line that a kill cut short is left out; a file about something else is emptied. What is kept is not written again: a kill
    meanwhile, or a full disk, would lose it.
    """
    lines.seek(0)
    head, *complete = lines.read().split("\n")[:-1] or [""]  # what follows the last line end is empty or unfinished
    if head == json.dumps(told):
        lines.truncate(sum(len(line.encode()) + 1 for line in (head, *complete)))
        lines.seek(0, io.SEEK_END)
    else:
        complete = []
        lines.seek(0)
        lines.truncate()
        lines.write(json.dumps(told) + "\n")
    return [Answer(text, tuple(ids), end) for line in complete for text, ids, end in json.loads(line)]
