"""`python -m studies few-people`: what `additive` gains where few people are known, by the features it may use; report.md and results.json.

Features and constants were chosen on other draws than those of the seeds here. Intervals are over the strangers of all seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from attune.models.data.embeddings import embed_texts
from attune.models.data.trunk import Trunk, load_trunk, spread_layers
from attune.models.measuring.families.curves import Observed, observe, over_users, paired_gain
from attune.models.measuring.families.learners import served_learners
from attune.models.measuring.figures import ACCURACY, LOG_LOSS
from attune.models.measuring.report_files import interval, made_by, table, write_report
from attune.models.seam.bradley_terry import NAME as EVERYBODY
from attune.models.training.additive import AdditiveSettings, told_apart_by, train_additive, train_in_line_up
from attune.models.training.features import Subspace
from attune.models.training.heads import TrainedFamily
from attune.models.training.loop import TrainingData
from attune.models.training.prior_trust import with_trust
from attune.models.training.trainers import LineUp, trainers
from studies.few_people.known_people import TOLD, WORLDS, known_people
from studies.small_data.run import Renamed

COUNTS = (0, 1, 5, 10, TOLD)
SEEN, ALL = "directions seen in choices", "any features"


@dataclass(frozen=True, slots=True)
class FewPeople:
    """How much to measure: people who are known, strangers of each draw, draws."""

    known: tuple[int, ...] = (40, 100, 200)
    strangers: int = 150
    seeds: tuple[int, ...] = (200, 201, 202)


def evaluate_few_people(
    folder: Path,
    out: Path,
    *,
    cache: Path | None,
    progress: Callable[[str], None],
    worlds: Sequence[str] = (),
    study: FewPeople | None = None,
) -> Path:
    """Writes `report.md` and `results.json` into `out`, after each world anew, and returns the report.

    Args:
        folder: with `jester5k` and `ukpconvarg1`.
        out: made if absent.
        cache: of the embeddings.
        progress: told what is done.
        worlds: of `WORLDS`; all if empty.
        study: how much to measure.

    Raises:
        ValueError: there is no such world.
    """
    if unknown := sorted(set(worlds) - set(WORLDS)):
        raise ValueError(f"{', '.join(unknown)}: no such world; there are {', '.join(WORLDS)}")
    study = study or FewPeople()
    trunk = load_trunk(layers=spread_layers())
    results: dict[str, Any] = {"attune": made_by(), "study": asdict(study), "counts": list(COUNTS), "worlds": {}}
    out.mkdir(parents=True, exist_ok=True)
    for world in worlds or WORLDS:
        of_size = results["worlds"].setdefault(world, {})
        for known in study.known:
            parts, chosen = [], []
            for seed in study.seeds:
                told, families = _one(world, folder, trunk, cache, study, known, seed)
                parts.append(told)
                chosen.append({name: told_apart_by(one) for name, one in families.items()} | _trust(families))
                progress(f"{world}: {known} people known, seed {seed} done")
            of_size[str(known)] = {"learners": summarise(parts), "chosen": chosen}
        write_report(out, results, render_few(results))
    return out / "report.md"


def _one(
    world: str, folder: Path, trunk: Trunk, cache: Path | None, study: FewPeople, known: int, seed: int
) -> tuple[Observed, dict[str, TrainedFamily]]:
    people = known_people(world, folder, known=known, strangers=study.strangers, seed=seed)
    vectors = embed_texts(people.train.texts, trunk, cache, progress=lambda _done, _all: None)
    data = TrainingData(people.train, people.validation, vectors)
    axes, most = (max(2, min(limit, (len(people.train) + len(people.validation)) // 100)) for limit in (16, 32))
    line_up = LineUp(Subspace(axes, everybody=True), axes=axes, most_axes=most)
    families = {
        SEEN: with_trust(_of_seen_directions(data, line_up, seed), data),
        ALL: with_trust(train_in_line_up(data, line_up, seed), data),
    }
    everybody = trainers()[EVERYBODY](data, line_up, seed)
    learners = [Renamed(served_learners([one], vectors)[0], name) for name, one in ({EVERYBODY: everybody} | families).items()]
    told = observe(learners, people.context, people.targets, counts=COUNTS)
    # Draws share no people: `p1` of one seed is somebody else in the next.
    return replace(told, users=tuple(f"{seed} {user}" for user in told.users)), families


def _of_seen_directions(data: TrainingData, line_up: LineUp, seed: int) -> TrainedFamily:
    sizes = {line_up.axes, line_up.most_axes}
    settings = [AdditiveSettings(size, line_up.population, replace(line_up.subspace, components=size)) for size in sorted(sizes)]
    return min((train_additive(data, one, seed) for one in settings), key=lambda one: float(one.summary["validation_nll"]))


def _trust(families: Mapping[str, TrainedFamily]) -> dict[str, Any]:
    return {f"trust of {name}": one.summary["trust"]["chosen"] for name, one in families.items()}


def summarise(parts: Sequence[Observed]) -> dict[str, Any]:
    """Returns accuracy, log-loss and the gain over everybody's head of each learner, and of all features over those seen, as JSON data."""
    found: dict[str, Any] = {}
    for name in (EVERYBODY, SEEN, ALL):
        of_counts = range(len(COUNTS))
        found[name] = {
            "accuracy": [asdict(over_users(parts, [part.per_user(name, at)[0] for part in parts], ACCURACY)) for at in of_counts],
            "nll": [asdict(over_users(parts, [part.per_user(name, at)[1] for part in parts], LOG_LOSS)) for at in of_counts],
            "gain": [asdict(paired_gain(parts, name, EVERYBODY, at)) for at in of_counts],
            "over_seen": [asdict(paired_gain(parts, name, SEEN, at)) for at in of_counts],
            "nll_less_seen": [
                asdict(over_users(parts, [part.per_user(name, at)[1] - part.per_user(SEEN, at)[1] for part in parts])) for at in of_counts
            ],
        }
    return found


def render_few(results: Mapping[str, Any]) -> str:
    """Returns the report for people."""
    study = results["study"]
    lines = [
        "# Few people",
        "",
        f"Attune {results['attune']}, seeds {study['seeds']}, {study['strangers']} strangers of each; 95 % intervals over strangers.",
        "",
    ]
    for world, sizes in results["worlds"].items():
        rows = []
        for known, found in sizes.items():
            for name, one in found["learners"].items():
                points = ({key: 100.0 * value for key, value in one[key_of][-1].items()} for key_of in ("gain", "over_seen"))
                cells = [interval(one["accuracy"][at]) for at in (0, -1)] + [interval(one["nll"][at]) for at in (0, -1)]
                rows.append([known, name, *cells, *(interval(each, digits=1, sign="+") for each in points)])
        last = results["counts"][-1]
        heading = ["known", "axes from", "accuracy at 0", f"at {last}", "log-loss at 0", f"at {last}", "points of gain", "over those seen"]
        lines += [f"## {world}", "", *table(heading, rows), ""]
        lines += [f"- {known} known, axes from: {_kept(found['chosen'])}" for known, found in sizes.items()]
        lines.append("")
    return "\n".join(lines)


def _kept(chosen: Sequence[Mapping[str, Any]]) -> str:
    return "; ".join(f"{one[ALL]} (trust {one[f'trust of {ALL}']})" for one in chosen)
