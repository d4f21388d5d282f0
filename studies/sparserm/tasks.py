"""What SparseRM is measured on: four sets of pairs with one label each, and how they are cut.

    UKPConvArg1 (majority of the judges) · hidden-context HH (helpful) · SummEval-OP (mean of attributes) · the demo's answers

A quarter of each set's prompts is the test, the same for every seed; a seed draws which of the others choose directions,
train heads and validate. The autoencoder reads no text of a test prompt. A set that is not on disk is left out by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from attune.models.data.preferences import Comparison, Comparisons
from attune.models.data.splits import draw, prompt_keys
from attune.models.data.token_states import TokenStates
from demo.corpus.tastes import manner_scores
from demo.corpus.texts import MANNERS, Split, answer, prompts
from studies.families.public_sets import read_ukpconvarg
from studies.sparserm.labelled_sets import read_hidden_context, read_summeval_op

TEST_SHARE = 0.25
TEST_SEED = 2026
PARTS = (0.4, 0.4, 0.2)
"""Shares of the prompts that are no test: selection, head, validation."""
MOST = (1000, 1000, 400)
"""Comparisons of each: the paper's thousand."""


@dataclass(frozen=True, slots=True)
class LabelledTask:
    """One set of pairs: `pool` for everything that is chosen or trained, `test` for the report. Both share their texts."""

    name: str
    about: str
    pool: Comparisons
    test: Comparisons


@dataclass(frozen=True, slots=True)
class Parts:
    """The pool as one seed cuts it, by prompts."""

    selection: Comparisons
    head: Comparisons
    validation: Comparisons


def read_tasks(folder: Path, *, seed: int) -> tuple[list[LabelledTask], list[str]]:
    """Returns the tasks whose data are below `folder`, and the names of those that are not there; the demo's always are."""
    ukp, hh, summeval = (folder / name for name in ("ukpconvarg1", "hidden_context_hh", "summeval_op"))
    sources: list[tuple[str, str, Callable[[], Comparisons]]] = [
        ("ukpconvarg1", "the more convincing argument, by majority", lambda: majority(read_ukpconvarg(ukp, least_decided=1))),
        ("helpful", "the more helpful answer", lambda: read_hidden_context(hh, ["helpful"])),
        ("summeval", "the better summary, by most of seven attributes", lambda: majority(read_summeval_op(summeval))),
        ("demo", "the more cautious and less bold answer, a tenth of the labels wrong", lambda: demo_pairs(seed)),
    ]
    tasks, absent = [], []
    for name, about, read in sources:
        try:
            comparisons = read()
        except FileNotFoundError:
            absent.append(name)
            continue
        # The demo's prompts ask for one topic in several ways: its own split keeps whole topics apart.
        held = frozenset(prompt.text for prompt in prompts("test", seed)) if name == "demo" else None
        tasks.append(cut_test(name, about, comparisons, seed=TEST_SEED, held=held))
    return tasks, absent


def cut_test(name: str, about: str, comparisons: Comparisons, *, seed: int, held: frozenset[str] | None = None) -> LabelledTask:
    """Returns the task with the prompts `held`, or a quarter of all, as its test."""
    keys = prompt_keys(comparisons)
    _, test = draw(np.unique(keys), (1 - TEST_SHARE, TEST_SHARE), seed=seed, what="prompt")
    tested = np.isin(keys, test)
    if held is not None:
        tested = np.array([prompt in held for prompt, _ in comparisons.texts.prompts])[comparisons.prompt]
    return LabelledTask(name, about, comparisons.take(~tested), comparisons.take(tested))


def cut_pool(pool: Comparisons, *, seed: int) -> Parts:
    """Returns selection, head and validation of one seed: whole prompts in each, and no more comparisons than `MOST`."""
    keys = prompt_keys(pool)
    rng = np.random.default_rng(seed)
    parts = []
    for prompts_of, most in zip(draw(np.unique(keys), PARTS, seed=seed, what="prompt"), MOST, strict=True):
        rows = np.flatnonzero(np.isin(keys, prompts_of))
        parts.append(pool.take(np.sort(rng.permutation(rows)[:most])))
    return Parts(*parts)


def majority(comparisons: Comparisons) -> Comparisons:
    """Returns one comparison per pair of texts, as most of its judges decided; pairs that are even are left out."""
    votes: dict[tuple[int, int, int], int] = {}
    decided = np.flatnonzero(~comparisons.tie)
    for row in decided:
        prompt, chosen, rejected = (int(column[row]) for column in (comparisons.prompt, comparisons.chosen, comparisons.rejected))
        low, high = sorted((chosen, rejected))
        votes[prompt, low, high] = votes.get((prompt, low, high), 0) + (1 if chosen == low else -1)
    texts = comparisons.texts
    records = []
    for (prompt, low, high), vote in votes.items():
        if vote:
            chosen, rejected = (low, high) if vote > 0 else (high, low)
            records.append(Comparison("majority", texts.prompts[prompt][0], texts.candidates[chosen][1], texts.candidates[rejected][1]))
    return Comparisons.from_records(records)


def demo_pairs(seed: int, *, answers: int = 2, per_prompt: int = 8, wrong: float = 0.1) -> Comparisons:
    """Returns pairs of the demo's generated answers, the one that is more cautious and less bold chosen; `wrong` of them flipped."""
    rng = np.random.default_rng(seed)
    records = []
    splits: tuple[Split, ...] = ("train", "validation", "test")
    for prompt in [prompt for part in splits for prompt in prompts(part, seed)[:120]]:
        texts = list(dict.fromkeys(answer(prompt, manner, rng) for manner in MANNERS for _ in range(answers)))
        scores = np.array([manner_scores(text) for text in texts])
        liking = scores[:, MANNERS.index("cautious")] - scores[:, MANNERS.index("bold")]
        for first, second in rng.integers(len(texts), size=(per_prompt, 2)):
            if abs(liking[first] - liking[second]) > 0.1:
                right = (liking[first] > liking[second]) ^ (rng.random() < wrong)
                chosen, rejected = (first, second) if right else (second, first)
                records.append(Comparison("cautious", prompt.text, texts[chosen], texts[rejected]))
    return Comparisons.from_records(records)


def training_states(tasks: Sequence[LabelledTask], states: Sequence[TokenStates]) -> np.ndarray[tuple[int, int], np.dtype[np.float16]]:
    """Returns the states that the autoencoder is trained on: those of texts that no test comparison shows."""
    kept = []
    for task, found in zip(tasks, states, strict=True):
        tested = np.unique(np.concatenate([task.test.chosen, task.test.rejected]))
        kept.append(found.states[~np.isin(found.text, tested)])
    return np.concatenate(kept)
