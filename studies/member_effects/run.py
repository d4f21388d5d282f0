"""`python -m studies member-effects`: ratings of thirteen systems' summaries, texts and authors; report.md and results.json.

    products: some train the texts' family ─> others are told, comparison by comparison ─> the rest is predicted, of products nobody saw

Each attribute as one rater saw it is a person. Families, effects and everybody's sum are the server's own functions. Both spreads are
chosen by how well the comparisons that are told are predicted before they are learned; the test is looked at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attune.models.data.embeddings import Vectors, embed_texts
from attune.models.data.preferences import Comparisons
from attune.models.data.tables import read_rows
from attune.models.data.trunk import load_trunk
from attune.models.measuring.figures import ACCURACY, LOG_LOSS, bootstrap
from attune.models.measuring.report_files import made_by, write_report
from attune.models.measuring.rows import Rows, rows_from_heads
from attune.models.seam.families import Families
from attune.models.seam.member_effects import MemberEffects
from attune.models.seam.weighted import Compared
from attune.models.training.additive import AdditiveSettings, train_additive
from attune.models.training.features import Subspace
from attune.models.training.loop import TrainingData
from attune.models.training.prior_trust import with_trust
from studies.sparserm.labelled_sets import read_summeval_op

Array = NDArray[np.float64]
Progress = Callable[[str], None]

LAYERS = (0, 3, 6)
SPREADS = tuple(product((0.25, 0.5, 1.0, 2.0), (0.1, 0.3, 0.6)))
LEARNERS = ("text", "text and everybody's effects", "text, everybody's and own effects")


@dataclass(frozen=True, slots=True)
class EffectsSettings:
    """How much is measured.

    Attributes:
        seeds: of everything drawn.
        parts: products that train the texts' family, that validate it, and that are told; the rest is the test.
        counts: comparisons told by each person at which to measure, increasing.
        tested: comparisons of each person that are predicted.
        sizes: axes of the effects.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    parts: tuple[int, int, int] = (11, 3, 8)
    counts: tuple[int, ...] = (0, 5, 20, 60)
    tested: int = 60
    sizes: tuple[int, ...] = (16, 8)


def evaluate_member_effects(
    folder: Path, out: Path, *, cache: Path | None, settings: EffectsSettings | None = None, progress: Progress
) -> str:
    """Writes `report.md` and `results.json` into `out` and returns the report.

    Args:
        folder: with `summeval_op`.
        out: made if absent.
        cache: of the embeddings.
        settings: how much to measure.
        progress: told what is done.
    """
    settings = settings or EffectsSettings()
    whole = read_summeval_op(folder / "summeval_op", raters=True)
    authors = _authors(folder / "summeval_op", whole)
    vectors = embed_texts(whole.texts, load_trunk(layers=LAYERS), cache)
    found: dict[int, list[dict[int, Array]]] = {size: [] for size in settings.sizes}
    spreads = []
    for seed in settings.seeds:
        told, tested, families, rows = _prepared(whole, vectors, settings, seed)
        for size in settings.sizes:
            chosen = min(SPREADS, key=lambda pair: _Deployment(families(pair, size), rows, authors).tell(told, settings.counts[-1]))
            spreads.append({"seed": seed, "axes": size, "shared": chosen[0], "personal": chosen[1]})
            found[size].append(_curve(_Deployment(families(chosen, size), rows, authors), told, tested, settings.counts))
            progress(f"seed {seed}, {size} axes: done, spreads {chosen}")
    results: dict[str, Any] = {
        "attune": made_by(),
        "settings": asdict(settings),
        "spreads": spreads,
        "axes": {str(size): _summary(runs, settings.counts) for size, runs in found.items()},
    }
    text = render(results)
    write_report(out, results, text)
    return text


def _authors(folder: Path, whole: Comparisons) -> list[str]:
    """Returns who wrote each candidate of the table."""
    named: dict[str, str] = {}
    for row in read_rows(folder / "summeval-op.jsonl"):
        for system, entry in (row.values or {}).get("summaries", {}).items():
            named[str(entry["summary"])] = system
    return [named[response] for _, response in whole.texts.candidates]


def _prepared(
    whole: Comparisons, vectors: Vectors, settings: EffectsSettings, seed: int
) -> tuple[Comparisons, Comparisons, Callable[[tuple[float, float], int], Families], Rows]:
    """Returns what is told, what is tested, families with given spreads and axes, and the rows of all texts."""
    rng = np.random.default_rng(seed)
    products = rng.permutation(np.unique(whole.prompt))
    train, validation, told, tested = (
        whole.take(np.flatnonzero(np.isin(whole.prompt, part))) for part in np.split(products, np.cumsum(settings.parts))
    )
    data = TrainingData(train, validation, vectors)
    text = with_trust(train_additive(data, AdditiveSettings(axes=8, subspace=Subspace(16, everybody=True)), seed), data)
    few = np.concatenate([rng.permutation(mine)[: settings.tested] for mine in tested.take(~tested.tie).rows_of_users().values()])

    def families(spreads: tuple[float, float], size: int) -> Families:
        return Families([text.family], {text.family.name: text.trust}, MemberEffects(text.family.name, *spreads, size=size))

    return told.take(rng.permutation(len(told))), tested.take(~tested.tie).take(few), families, rows_from_heads([text], vectors)


class _Deployment:
    """People who tell comparisons one after the other, and everybody's sum."""

    def __init__(self, families: Families, rows: Rows, authors: Sequence[str]) -> None:
        assert families.effects is not None
        self.families, self.effects = families, families.effects
        self._rows, self._authors = rows, authors
        self._names = tuple(sorted(set(authors)))
        self.known: dict[int, Array] = {}
        self.count: dict[int, int] = {}
        self.summed = np.zeros(self.effects.everybody_size)

    def compared(self, table: Comparisons, row: int) -> Compared:
        chosen, rejected = int(table.chosen[row]), int(table.rejected[row])
        direction = self.effects.direction(self._authors[chosen], self._authors[rejected])
        candidates, prompt = self._rows.candidates, self._rows.prompts[int(table.prompt[row])]
        return Compared(candidates[chosen], candidates[rejected], prompt, tie=bool(table.tie[row]), direction=direction)

    def tell(self, table: Comparisons, most: int) -> float:
        """Lets everybody tell until each has told `most`; returns the mean log-loss of what was told, before it was learned."""
        lost, counted = 0.0, 0
        for row in range(len(table)):
            user = int(table.user[row])
            if self.count.get(user, 0) >= most:
                continue
            one, known = self.compared(table, row), self.known.get(user, self.families.prior())
            everybody = self.effects.everybody(self._names, self.summed)
            if not one.tie:
                lost, counted = lost - float(np.log(self.families.predict_with_effects(known, one, everybody))), counted + 1
            share, losses = self.families.tell_everybody(known, (one,), everybody)
            added, _ = self.families.study_all(known, (one,))
            self.summed = self.summed + np.concatenate([share * self.families.effects_part(added), losses])
            self.known[user], self.count[user] = known + added, self.count.get(user, 0) + 1
        return lost / max(counted, 1)


def _curve(world: _Deployment, told: Comparisons, tested: Comparisons, counts: Sequence[int]) -> dict[int, Array]:
    """Returns at each count `[people, learners, 2]` accuracy and log-loss."""
    found: dict[int, Array] = {}
    name = world.effects.family
    for count in counts:
        world.count, world.known, world.summed = {}, {}, np.zeros(world.effects.everybody_size)
        if count:
            world.tell(told, count)
        everybody = world.effects.everybody(world._names, world.summed)  # noqa: SLF001 - of this module
        people: dict[int, list[list[float]]] = {}
        for row in range(len(tested)):
            user = int(tested.user[row])
            known, one = world.known.get(user, world.families.prior()), world.compared(tested, row)
            without = known.copy()
            without[len(known) - world.effects.evidence_size :] = 0.0
            text, predict = world.families.predict(known, one.chosen, one.rejected, one.prompt)[name], world.families.predict_with_effects
            people.setdefault(user, []).append(
                [
                    text,
                    predict(without, one, everybody),
                    predict(known, one, everybody),
                ]
            )
        table = [np.clip(np.array(said), 1e-9, 1.0) for _, said in sorted(people.items())]
        found[count] = np.array(
            [np.stack([((said > 0.5) + 0.5 * (said == 0.5)).mean(axis=0), -np.log(said).mean(axis=0)], axis=1) for said in table]
        )
    return found


def _summary(runs: Sequence[Mapping[int, Array]], counts: Sequence[int]) -> dict[str, Any]:
    summary: dict[str, Any] = {}
    for count in counts:
        people = np.mean([run[count] for run in runs], axis=0)  # somebody tested under several seeds is one person
        summary[str(count)] = {
            learner: {
                "accuracy": asdict(bootstrap(people[:, at, 0], bounds=ACCURACY)),
                "nll": asdict(bootstrap(people[:, at, 1], bounds=LOG_LOSS)),
                "gain": asdict(bootstrap(people[:, at, 0] - people[:, 0, 0])),
            }
            for at, learner in enumerate(LEARNERS)
        }
    return summary


def render(results: Mapping[str, Any]) -> str:
    """Returns the report for people."""
    lines = ["# Texts and authors", "", "Summaries of products that nobody saw, by thirteen systems; 95 % intervals over people.", ""]
    for size, found in results["axes"].items():
        lines += [f"## {size} axes", "", "| told by each | learner | accuracy | gain in points | log-loss |", "|---|---|---|---|---|"]
        for count, learners in found.items():
            for learner, one in learners.items():
                gain = one["gain"]
                points = f"{100 * gain['mean']:+z.1f} [{100 * gain['low']:z.1f}, {100 * gain['high']:z.1f}]"
                lines.append(f"| {count} | {learner} | {one['accuracy']['mean']:.3f} | {points} | {one['nll']['mean']:.3f} |")
        lines.append("")
    chosen = ", ".join(f"{one['shared']:g} and {one['personal']:g} ({one['axes']} axes, seed {one['seed']})" for one in results["spreads"])
    return "\n".join([*lines, f"Spreads chosen, everybody's and own: {chosen}.", ""])
