"""`python -m demo own-members`: what is reached from a roster alone, and by policy `learn`, as report.md and results.json."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attune.models.data.embeddings import embed_texts
from attune.models.data.trunk import load_demo_trunk
from attune.models.measuring.metrics import bootstrap
from attune.models.measuring.rows import rows_from_heads
from attune.models.measuring.writing import made_by, write_report
from attune.models.seam.attributes import NAME as FAMILY
from attune.models.seam.portfolio import read_portfolio
from attune.models.training.heads import families_of, load_heads
from demo.corpus.tastes import draw_users
from demo.heads import DemoSettings
from demo.members import member_pool
from demo.own_members import own_members
from demo.report import DEMO, arenas
from demo.simulate import simulate

Array = NDArray[np.float64]

COUNTS = (0, 3, 5, 10, 20)
VOICES, NEWCOMER = ("concise", "detailed", "playful"), "formal"


def report_own_members(out: Path, *, seeds: int, users: int, seed: int, cache: Path | None) -> str:
    """Writes the report into `out` and returns it.

    Args:
        out: made if absent.
        seeds: deployments, each with users of its own.
        users: of each deployment.
        seed: the first.
        cache: folder of the embedding cache.
    """
    pool = member_pool(DEMO, "test", DemoSettings(), seed=0)
    trained, _ = load_heads(DEMO)
    families = families_of(trained)
    portfolio = read_portfolio((DEMO / "portfolio.json").read_bytes(), families, (DEMO / "values.npz").read_bytes())
    feedback, held_out = arenas(pool, rows_from_heads(trained, embed_texts(pool.texts(), load_demo_trunk(), cache)))
    voices, newcomer = [pool.members.index(name) for name in VOICES], pool.members.index(NEWCOMER)
    runs = [
        own_members(families, FAMILY, feedback, draw_users(users, 10 + one), voices=voices, newcomer=newcomer, seed=one, counts=COUNTS)
        for one in range(seed, seed + seeds)
    ]
    learned = {
        name: [
            simulate(
                families,
                portfolio,
                feedback,
                held_out,
                draw_users(users, one),
                router=FAMILY,
                seed=one,
                counts=COUNTS,
                pairs=2,
                learn=name == "learn",
            ).correct
            for one in range(seed + 1, seed + 1 + seeds)
        ]
        for name in ("sample", "learn")
    }
    results: dict[str, Any] = {
        "attune": made_by(),
        "family": FAMILY,
        "seeds": seeds,
        "users": users,
        "best": {count: _stated(np.concatenate([run.best[count] for run in runs])) for count in COUNTS},
        "worth": {count: _stated(np.concatenate([run.worth[count] for run in runs])) for count in COUNTS},
        "joined": [run.joined for run in runs],
        "wrong_more": [run.wrong_more for run in runs],
        "greatest_drift_without_change": [run.false_alert for run in runs],
        "alert_after_answers": [run.alert_after for run in runs],
        "recovered": [run.recovered for run in runs],
        "learn": {
            name: {count: _stated(np.concatenate(found)[:, at]) for at, count in enumerate(COUNTS)} for name, found in learned.items()
        },
    }
    text = _rendered(results)
    write_report(out, results, text)
    return text


def _stated(values: Array) -> str:
    found = bootstrap(values)
    return f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]"


def _rendered(results: dict[str, Any]) -> str:
    head = "| comparisons | " + " | ".join(map(str, COUNTS)) + " |\n|---|" + "---|" * len(COUNTS)
    rows = {
        "own upstreams: truly best member": results["best"],
        "own upstreams: utility of the best": results["worth"],
        "demo's members, policy sample: truly best member": results["learn"]["sample"],
        "demo's members, policy learn: truly best member": results["learn"]["learn"],
    }
    lines = [f"# Own members\n\n{results['seeds']} deployments of {results['users']} users; mean [95 % interval over users].\n", head]
    lines += [f"| {name} | " + " | ".join(row[count] for count in COUNTS) + " |" for name, row in rows.items()]
    lines += [
        "",
        f"- 200 decisions after a fourth member joined, `best` serves it to those whom it suits: {_each(results['joined'])}",
        f"- wrong decisions of everybody else rose by: {_each(results['wrong_more'])}",
        f"- greatest drift of any member before a change, standard errors: {_each(results['greatest_drift_without_change'])}",
        f"- answers of a member that changed until the alert: {', '.join(map(str, results['alert_after_answers']))}",
        f"- utility served over the best possible after 300 of its answers: {_each(results['recovered'])}",
    ]
    return "\n".join(lines) + "\n"


def _each(numbers: Sequence[float]) -> str:
    return f"{', '.join(f'{number:.3f}' for number in numbers)} (mean {np.mean(numbers):.3f})"
