"""`python -m studies palm`: PALM's headline on rewards that can be traded, by best-of-n and by aligned adapters.

    pools of the base's answers ─> portfolios planned on some prompts ─> worst case and certificate on others, by members and prompts

Letters: `P` prompts, `N` answers to each, `d` rewards, `M` members.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

from attune.models.alignment.causal import load
from attune.models.alignment.trained_member import fingerprint
from attune.models.measuring.report_files import interval, made_by, table, write_report
from attune.models.portfolio.oracles import BestOfN
from studies.palm.aligned import AdapterStudy, align_and_compare
from studies.palm.planned import best_of_n_evidence, measured, plan_best_of_n, proved
from studies.palm.pools import SCORES, fresh_prompts, pool_scores, search_prompts
from studies.palm.traded import SETS

Array = NDArray[np.float64]
Progress = Callable[[str], None]

EXCLUSIVE = "three manners that exclude each other"
REWARD_SETS: Mapping[str, tuple[str, ...]] = {**SETS, EXCLUSIVE: ("concise", "formal", "bold")}
"""The last is the control: the manners where least is proved of the demo's own portfolio."""

CERTIFIED = {"certified": "certified ratio", "certified_gap": "certified gap"}


@dataclass(frozen=True, slots=True)
class PalmStudy:
    """How much is measured.

    Attributes:
        search: prompts of training topics that portfolios are planned on.
        fresh: draws of prompts of other topics that certify them.
        answers: of the base, to each.
        sizes: of portfolios, ascending.
        prompts: numbers of fresh draws at which the largest portfolio is certified too.
    """

    search: int = 400
    fresh: int = 3000
    answers: int = 8
    sizes: tuple[int, ...] = (1, 2, 3, 4, 5, 6)
    prompts: tuple[int, ...] = (250, 500, 1000, 2000)


def evaluate_palm(
    base: Path,
    out: Path,
    *,
    seeds: Sequence[int],
    study: PalmStudy,
    sets: Sequence[str],
    aligned: Sequence[str] = (),
    progress: Progress,
) -> dict[str, Any]:
    """Writes `report.md` and `results.json` into `out`, and returns the results.

    Pools of answers are kept in `out/pools`, adapters in `out/adapters`: a run that was killed goes on with them.

    Args:
        base: folder of the language model that answers.
        out: made if absent.
        seeds: of prompts and answers, one repetition each.
        study: how much to measure.
        sets: of REWARD_SETS, for best-of-n.
        aligned: of SETS, for which adapters are trained.
        progress: told a line now and then.

    Raises:
        ValueError: there is no such set, or `out` keeps pools of another model or study.
    """
    unknown = sorted({*sets} - {*REWARD_SETS} | {*aligned} - {*SETS})
    if unknown:
        raise ValueError(
            f"no set of rewards is called {', '.join(unknown)}; there are {', '.join(REWARD_SETS)} (adapters: {', '.join(SETS)})"
        )
    model, made_of = load(base), fingerprint(base)
    found = []
    for seed in seeds:
        parts = {"search": search_prompts(seed, study.search), "fresh": fresh_prompts(seed, study.fresh)}
        pools = {}
        for number, (part, asked) in enumerate(parts.items()):
            file = out / "pools" / f"{part}-{seed}.npz"
            pools[part] = pool_scores(model, made_of, asked, study.answers, 2 * seed + number, file, progress)
        found.append({name: compare_sizes(pools["search"], pools["fresh"], REWARD_SETS[name], study) for name in sets})
        progress(f"seed {seed}: " + ", ".join(f"{name} {one['sizes'][-1]['certified']:.3f}" for name, one in found[-1].items()))
    results = {"seeds": list(seeds), "attune": made_by(), "study": _told(study), "best of n": _turned(found)}
    results["adapters"] = {
        name: [
            align_and_compare(base, out / "adapters" / f"{name}-{seed}", SETS[name], seed=seed, study=AdapterStudy(), progress=progress)
            for seed in seeds
        ]
        for name in aligned
    }
    write_report(out, results, render(results))
    return results


def compare_sizes(search: Array, fresh: Array, names: tuple[str, ...], study: PalmStudy) -> dict[str, Any]:
    """Returns what portfolios of every size give and prove on `fresh` `[P, N, 11]`, planned on `search`, under some of SCORES."""
    places = [SCORES.index(name) for name in names]
    planning, judging = BestOfN(search[..., places]), BestOfN(fresh[..., places])
    planned = plan_best_of_n(planning, study.sizes)
    sizes = []
    for size, one in planned.items():
        evidence = best_of_n_evidence(one, judging.rewards)
        row = {"members": len(one.weights), **measured(evidence.members.mean(axis=0), judging), **proved(evidence, names, len(fresh))}
        sizes.append({"most": size, "planned": measured(one.values, planning)["ratio"], "weights": one.weights.tolist(), **row})
    largest = best_of_n_evidence(planned[study.sizes[-1]], judging.rewards)
    by_prompts = [{"prompts": count, **proved(largest, names, count)} for count in study.prompts if count < len(fresh)]
    chance = measured(judging.rewards.mean(axis=(0, 1))[None], judging)["ratio"]
    return {"rewards": names, "traded": traded(planning), "one answer by chance": chance, "sizes": sizes, "by_prompts": by_prompts}


def traded(oracle: BestOfN) -> dict[str, Any]:
    """Returns how rewards can be traded in a pool.

    `correlation` `[d, d]` is that of answers to one prompt. `front` is the share of a prompt's answers that no other answer of it
    exceeds in every reward. `kept` `[d]` is what the policy for even weights keeps of each reward's range: 0 as much as the
    policy that is worst there among those for one reward alone, 1 as much as the best, which everybody has of a reward that all these
    policies have alike. A reward that does not vary correlates with nothing: null in the report.
    """
    rewards = oracle.rewards
    centred = rewards - rewards.mean(axis=1, keepdims=True)
    size = rewards.shape[-1]
    beaten = (rewards[:, None] >= rewards[:, :, None]).all(-1) & (rewards[:, None] > rewards[:, :, None]).any(-1)
    alone = np.array([oracle.solve(unit).value for unit in np.eye(size)])
    even = oracle.solve(np.full(size, 1.0 / size)).value
    least, width = alone.min(axis=0), np.ptp(alone, axis=0)
    kept = np.where(width > 0, (even - least) / np.where(width > 0, width, 1.0), 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        correlation = np.corrcoef(centred.reshape(-1, size).T)
    return {
        "correlation": correlation.tolist(),
        "front": float(1.0 - np.any(beaten, axis=2).mean()),
        "alone": alone.tolist(),
        "even": even.tolist(),
        "kept": kept.tolist(),
    }


def over_seeds(values: Sequence[float]) -> dict[str, float]:
    """Returns mean and 95 % interval by Student's t over two repetitions or more."""
    count, mean = len(values), float(np.mean(values))
    width = float(t.ppf(0.975, count - 1) * np.std(values, ddof=1) / np.sqrt(count))
    return {"mean": mean, "low": mean - width, "high": mean + width}


def render(results: Mapping[str, Any]) -> str:
    """Returns report.md."""
    study = results["study"]
    told = (
        f"Attune {results['attune']}, seeds {results['seeds']}. Portfolios are planned on some prompts and certified on draws of prompts "
        "of other topics, with 95 % confidence by betting bounds. Means over seeds with 95 % intervals (Student's t)."
    )
    lines = ["# PALM on rewards that can be traded", "", told]
    for name, rows in results["best of n"].items():
        lines += ["", f"## {name}, best of {study['answers']}: {', '.join(rows[0]['rewards'])}", "", _trade_line(rows), ""]
        lines += _tables(rows, study["fresh"])
    for name, rows in results["adapters"].items():
        told = f"Against what the values of {rows[0]['calls']} adapters leave possible, and against the best of those adapters."
        lines += ["", f"## {name}, aligned adapters: {', '.join(rows[0]['rewards'])}", "", told, "", *_tables(rows, rows[0]["fresh"])]
    return "\n".join(lines) + "\n"


def _tables(rows: Sequence[Mapping[str, Any]], fresh: int) -> list[str]:
    """Returns the tables by members and by prompts of one set; `rows` are its repetitions."""
    figures = {"ratio": "worst ratio", "gap": "worst gap", "trained": "to the best trained", **CERTIFIED}
    figures = {key: name for key, name in figures.items() if key in rows[0]["sizes"][0]}
    body = [
        [str(same[0]["most"]), "/".join(str(row["members"]) for row in same), *(_cell(same, key) for key in figures)]
        for same in zip(*(row["sizes"] for row in rows), strict=True)
    ]
    lines = table([f"at most ({fresh} prompts)", "members", *figures.values()], body)
    steps = list(zip(*(row["by_prompts"] for row in rows), strict=True))
    body = [[str(step[0]["prompts"]), *(_cell(step, key) for key in CERTIFIED)] for step in steps]
    return [*lines, "", *table(["prompts", *CERTIFIED.values()], body)] if body else lines


def _turned(runs: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    return {name: [run[name] for run in runs] for name in runs[0]}


def _trade_line(rows: Sequence[Mapping[str, Any]]) -> str:
    every = [row["traded"] for row in rows]
    correlation = np.mean([one["correlation"] for one in every], axis=0)
    above = correlation[np.triu_indices(len(correlation), 1)]
    kept = np.mean([one["kept"] for one in every], axis=0)
    chance = np.mean([row["one answer by chance"] for row in rows])
    front = np.mean([one["front"] for one in every])
    return (
        f"Correlations between rewards {', '.join(f'{value:+z.2f}' for value in above)}; on the front {front:.2f} "
        f"of a prompt's answers; even weights keep {', '.join(f'{value:.2f}' for value in kept)} of each range; any one answer has a worst "
        f"ratio of {chance:.3f}."
    )


def _cell(rows: Sequence[Mapping[str, Any]], key: str) -> str:
    values = [row[key] for row in rows]
    return interval(over_seeds(values), 4) if len(values) > 1 else f"{values[0]:.4f}"


def _told(study: PalmStudy) -> dict[str, Any]:
    return {"search": study.search, "fresh": study.fresh, "answers": study.answers, "sizes": list(study.sizes)}
