"""How far a family's users are trusted when nothing is known of them yet: the prior log-odds of `models.seam.trust`, by validation people.

    validation people, one comparison after the other ─> predicted personally and as anybody's ─> the log-odds of least log-loss

With fewer than `LEAST_PEOPLE` training people who chose twice nobody is personalised, and neither where validation people do not clearly
gain by it: how people differ cannot be learned from a handful of them, and what was learned then does harm.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from attune.models.data.embeddings import Vectors
from attune.models.data.preferences import Comparisons
from attune.models.seam.families import Families
from attune.models.seam.trust import ALWAYS, NEVER, losses, share
from attune.models.training.heads import TrainedFamily, compute_outputs, row_at
from attune.models.training.loop import TrainingData

Array = NDArray[np.float64]

LEAST_PEOPLE = 30

CHOICES = (-2.0, 0.0, 1.0, 2.0, 4.0)
"""Log-odds to choose from; 4 is nearly always the personal view, which still gives way where it errs."""


@dataclass(frozen=True, slots=True)
class TrustSettings:
    """How the choice is made: at most so many validation people, and so many comparisons of each."""

    people: int = 150
    comparisons: int = 40
    seed: int = 0


def told_twice(comparisons: Comparisons) -> int:
    """Returns how many people with a name made two choices or more: how people differ shows in nobody else."""
    named = comparisons.user[~comparisons.anonymous & ~comparisons.tie]
    return int(np.sum(np.bincount(named) > 1)) if len(named) else 0


def with_trust(trained: TrainedFamily, data: TrainingData, settings: TrustSettings | None = None) -> TrainedFamily:
    """Returns the family with its trust, and in its summary why: people, log-loss of everybody's view and of each choice."""
    if not trained.family.evidence_size:
        return trained
    settings = settings or TrustSettings()
    people, told = told_twice(data.train), _people(data.validation, settings)
    if not told:
        report = {"training_people": people, "validation_people": 0, "gain_nll": 0.0, "chosen": "never"}
        return replace(trained, trust=NEVER, summary={**trained.summary, "trust": report})
    seen = seen_both_ways(trained, data.validation, data.vectors, told)
    anybody = np.array([-np.log(np.maximum(both[:, 1], 1e-12)).mean() for both in seen])
    mixed = {trust: np.array([prequential_loss(both, trust) for both in seen]) for trust in CHOICES}
    trust = min(CHOICES, key=lambda one: float(mixed[one].mean()))
    gain = anybody - mixed[trust]
    unsure = unsure_of(gain)
    if people < LEAST_PEOPLE or not gain.mean() > unsure:
        trust = NEVER
    report = {
        "training_people": people,
        "validation_people": len(seen),
        "anybody_nll": float(anybody.mean()),
        "mixed_nll": {f"{one:g}": float(found.mean()) for one, found in mixed.items()},
        "gain_nll": float(gain.mean()),
        "gain_nll_standard_error": unsure,
        "chosen": "never" if trust == NEVER else trust,
    }
    return replace(trained, trust=trust, summary={**trained.summary, "trust": report})


def unsure_of(gain: Array) -> float:
    """Returns the standard error of the mean of `[U]`; one person says nothing of others, so what they gain is as unsure as it is large."""
    return float(gain.std(ddof=1) / np.sqrt(len(gain))) if len(gain) > 1 else abs(float(gain[0]))


def seen_both_ways(trained: TrainedFamily, comparisons: Comparisons, vectors: Vectors, people: list[NDArray[np.int64]]) -> list[Array]:
    """Returns for each person `[C, 2]`: the probability of every choice before it was learned, personally and as anybody's.

    Args:
        trained: the family.
        comparisons: whose rows `people` names, each person's in the order in which they are told; no ties.
        vectors: of the texts.
        people: rows of each person.
    """
    family = trained.family
    outputs = compute_outputs([trained], vectors.candidates)
    asked = compute_outputs([trained], vectors.prompts)
    families = Families([family], {family.name: ALWAYS})

    found = []
    nobody = families.prior()
    for mine in people:
        evidence, both = nobody, []
        for index in mine.tolist():
            rows = (
                row_at(outputs, comparisons.chosen[index]),
                row_at(outputs, comparisons.rejected[index]),
                row_at(asked, comparisons.prompt[index]),
            )
            added, said = families.study(evidence, *rows)
            both.append((said[family.name], families.predict(nobody, *rows)[family.name]))
            evidence = evidence + added
        found.append(np.array(both))
    return found


def prequential_loss(both: Array, trust: float) -> float:
    """Returns the mean log-loss of the mixture under `trust`, comparison by comparison, of one person `[C, 2]`."""
    summed, total = np.zeros(2), 0.0
    for personal, anybody in both:
        trusted = share(summed, trust)
        total -= float(np.log(max(1e-12, trusted * personal + (1.0 - trusted) * anybody)))
        summed = summed + losses(float(personal), float(anybody), tie=False)
    return total / len(both)


def _people(comparisons: Comparisons, settings: TrustSettings) -> list[NDArray[np.int64]]:
    rng = np.random.default_rng(settings.seed)
    named = ~comparisons.tie & ~comparisons.anonymous  # of somebody unknown nothing was told before
    decided = [mine[named[mine]] for mine in comparisons.rows_of_users().values()]
    enough = [mine for mine in decided if len(mine)]
    picked = np.sort(rng.permutation(len(enough))[: settings.people])
    return [rng.permutation(enough[index])[: settings.comparisons] for index in picked]
