"""`python -m studies sparserm`: from data on disk to report.md, results.json and the sweep over the number of directions.

    texts ─> token states ─> autoencoder (no test text) ─> latents ─> study per set, ten seeds ─> report

What is slow is kept in the cache folder by content: vectors, token states, and the autoencoder in SAELens' format.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from attune.models.data.embeddings import embed_texts
from attune.models.data.sae_files import load_autoencoder, save_autoencoder
from attune.models.data.token_states import TokenStates, states_of
from attune.models.data.trunk import DEMO_LAYERS, Trunk, load_demo_trunk
from attune.models.measuring.report_files import bar, interval, made_by, write_json, write_report
from attune.models.training.latents import activity, columns_of
from attune.models.training.sparse_autoencoder import AutoencoderSettings, train_sparse_autoencoder
from studies.sparserm.comparison import DENSE, PROPOSED, RANDOM, StudySettings, choose_selection, study
from studies.sparserm.tasks import MOST, LabelledTask, read_tasks, training_states

LAYER = DEMO_LAYERS[0]
"""The middle layer of three to choose from: on validation prompts of UKPConvArg1 a dense head is right in 0.779, 0.782, 0.785, 0.779,
0.764 and 0.712 of pairs from layers 1 to 6, each ± 0.012 to 0.020."""

GAIN_LEAST, WITHIN, SHARE_MOST = 0.015, 0.005, 0.01


def evaluate_sparserm(
    folder: Path,
    out: Path,
    cache: Path,
    *,
    seed: int,
    settings: StudySettings | None = None,
    autoencoder: AutoencoderSettings | None = None,
    public: Path | None = None,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """Writes `report.md`, `results.json` and `sweep.png` into `out`, and returns the results.

    Args:
        folder: with the sets' folders; those that are absent are left out and named.
        out: made if absent.
        cache: of vectors, states and the autoencoder.
        seed: of the demo's pairs and the autoencoder.
        settings: see `StudySettings`.
        autoencoder: see `AutoencoderSettings`; a change trains anew.
        public: folder of an autoencoder of that layer, to load instead of training one.
        progress: told a line now and then.

    Raises:
        AutoencoderInvalid: the public autoencoder cannot be read, or reads states of another width.
    """
    settings, autoencoder = settings or StudySettings(), autoencoder or AutoencoderSettings()
    trunk = load_demo_trunk()
    tasks, absent = read_tasks(folder, seed=seed)
    states = [states_of(task.pool.texts, trunk, LAYER, cache) for task in tasks]
    kept = public or cache / f"autoencoder-{'-'.join(task.name for task in tasks)}-{seed}"
    summary = {"loaded": kept.name} if public else keep_autoencoder(kept, tasks, states, autoencoder, seed, trunk.sha256)
    found = load_autoencoder(kept, layer=LAYER)
    columns = columns_of(trunk, found)
    ready = [
        (task, embed_texts(task.pool.texts, trunk, cache), activity(task.pool.texts, tokens, found, columns))
        for task, tokens in zip(tasks, states, strict=True)
    ]
    selection, choice = choose_selection(ready, settings)
    settings = replace(settings, selection=selection)
    progress(f"latents are ranked by {selection.rank}, length control {selection.length_control}, as validation has it")
    studies = {task.name: study(task, vectors, latents, settings, progress=progress) for task, vectors, latents in ready}
    results = {
        "attune": made_by(),
        "seed": seed,
        "seeds": list(settings.seeds),
        "trunk": {"name": trunk.name, "layer": LAYER, "parameters": _parameters(trunk)},
        "autoencoder": summary,
        "selection": asdict(settings.selection),
        "choice": choice,
        "sweep": list(settings.sweep),
        "absent": absent,
        "studies": studies,
    }
    write_report(out, results, render(results))
    draw_sweep(results, out / "sweep.png")
    return results


def keep_autoencoder(
    folder: Path, tasks: Sequence[LabelledTask], states: Sequence[TokenStates], settings: AutoencoderSettings, seed: int, trunk: str
) -> dict[str, Any]:
    """Returns what is known of the autoencoder in `folder`, which is trained if it is not the one of these tasks.

    Args:
        folder: of the autoencoder.
        tasks: whose texts it reads, but for those of tests: others cut otherwise might have shown it these.
        states: of the texts of each task.
        settings: see `AutoencoderSettings`.
        seed: of the training.
        trunk: hash of the trunk.
    """
    cuts = {task.name: [task.pool.sha256(), task.test.sha256()] for task in tasks}
    told = json.loads(json.dumps({"settings": asdict(settings), "seed": seed, "trunk": trunk, "tasks": cuts}))
    note = folder / "training.json"
    summary: dict[str, Any] = json.loads(note.read_text(encoding="utf-8")) if note.exists() else {}
    if any(summary.get(key) != value for key, value in told.items()):
        note.unlink(missing_ok=True)
        trained = train_sparse_autoencoder(training_states(tasks, states), settings, seed, layer=LAYER)
        save_autoencoder(folder, trained.autoencoder)
        summary = trained.summary | told
        write_json(note, summary)
    return summary


def _parameters(trunk: Trunk) -> int:
    return sum(parameter.numel() for parameter in trunk.model.parameters())


def render(results: Mapping[str, Any]) -> str:
    """Returns the report of `results`."""
    selection, summary, trunk = results["selection"], results["autoencoder"], results["trunk"]
    lines = [
        "# SparseRM",
        "",
        f"- Attune `{results['attune']}`, seeds {results['seeds']}; intervals over seeds are 95 % t intervals",
        f"- trunk {trunk['name']}, hidden state {trunk['layer']}, {trunk['parameters']:,} parameters, frozen",
        f"- {selection['each']} latents on either side, by {selection['rank']}, length control {selection['length_control']}",
        f"- chosen within the pool, a quarter of its prompts held out: {_choice(results['choice'])}",
        f"- at most {MOST[0]:,} comparisons for the selection, {MOST[1]:,} for the head, {MOST[2]:,} for validation, of different prompts",
    ]
    if "unexplained" in summary:
        settings = summary["settings"]
        lines.append(
            f"- autoencoder: {settings['latents']:,} latents, {settings['k']} a token, trained on {summary['states']:,} tokens of no test "
            f"text; {summary['unexplained']:.1%} of variance unexplained on held-out tokens, {summary['silent']:.1%} latents silent"
        )
    if results["absent"]:
        lines.append(f"- not on disk, left out: {', '.join(results['absent'])}")
    for name, found in results["studies"].items():
        lines += ["", f"## {name}: {found['about']}", "", *_study(found, results["sweep"])]
    lines += ["", "## Bars", "", *_bars(results)]
    return "\n".join(lines) + "\n"


def _choice(choice: Sequence[Mapping[str, Any]]) -> str:
    words = [f"{one['rank']}{' with length control' if one['length_control'] else ''} {one['mean']:.3f}" for one in choice]
    return ", ".join(words)


def _study(found: Mapping[str, Any], sweep: Sequence[int]) -> list[str]:
    test, methods = found["test"], found["methods"]
    main = {name: one for name, one in methods.items() if "K = " not in name}
    lines = [
        (
            f"{found['pool']['comparisons']:,} comparisons to train from, {test['comparisons']:,} of {test['prompts']} other prompts "
            f"to test on (sha256 `{test['sha256'][:12]}`)."
        ),
        "",
        "| features: head | accuracy | log-loss | ECE | trained numbers |",
        "|---|---|---|---|---|",
    ]
    for name, one in main.items():
        lines.append(
            f"| {name} | {interval(one['accuracy'])} | {one['nll']['mean']:.3f} | {one['ece']['mean']:.3f} | {one['parameters']:,} |"
        )
    lines += ["", "| selected directions minus | over seeds, paired | over test pairs |", "|---|---|---|"]
    for name, one in found["selected_minus"].items():
        over = one["over_test"]
        lines.append(
            f"| {name} | {interval(one['over_seeds'], sign='+')} | [{over['low']:+z.3f}, {over['high']:+z.3f}] (by {over['resampled']}) |"
        )
    lines += ["", f"| directions on either side | {' | '.join(map(str, sweep))} |", f"|---|{'---|' * len(sweep)}"]
    for name in (PROPOSED, RANDOM):
        lines.append(f"| {name} | {' | '.join(interval(methods[f'{name}: K = {count}']['accuracy']) for count in sweep)} |")
    return lines


def _bars(results: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, found in results["studies"].items():
        methods = found["methods"]
        ours, random, dense = (methods[method]["accuracy"] for method in (PROPOSED, RANDOM, DENSE))
        gain = ours["mean"] - random["mean"]
        apart = ours["low"] > random["high"]
        largest = max(one["parameters"] for method, one in methods.items() if method.startswith(PROPOSED))
        share = largest / results["trunk"]["parameters"]
        lines += [
            bar(
                f"{name}: at least {GAIN_LEAST:.3f} over random directions, intervals apart",
                f"{gain:+z.3f}",
                kept=gain >= GAIN_LEAST and apart,
            ),
            bar(
                f"{name}: within {WITHIN:.3f} of the dense state",
                f"{ours['mean'] - dense['mean']:+z.3f}",
                kept=ours["mean"] >= dense["mean"] - WITHIN,
            ),
            bar(f"{name}: under {SHARE_MOST:.0%} of the trunk's parameters trained", f"{share:.4%}", kept=share < SHARE_MOST),
        ]
    return lines


def draw_sweep(results: Mapping[str, Any], path: Path) -> None:
    """Draws accuracy over the number of directions, selected and random, with the dense state as a line; one panel a set."""
    import matplotlib as mpl  # noqa: PLC0415 - a second that only pictures need

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    studies = results["studies"]
    figure, panels = plt.subplots(1, len(studies), figsize=(3.4 * len(studies), 3.2), squeeze=False)
    for panel, (name, found) in zip(panels[0], studies.items(), strict=True):
        for method, colour in ((PROPOSED, "tab:blue"), (RANDOM, "tab:orange")):
            points = [found["methods"][f"{method}: K = {count}"]["accuracy"] for count in results["sweep"]]
            panel.plot(results["sweep"], [one["mean"] for one in points], color=colour, marker="o", markersize=3, label=method)
            panel.fill_between(results["sweep"], [one["low"] for one in points], [one["high"] for one in points], color=colour, alpha=0.2)
        panel.axhline(found["methods"][DENSE]["accuracy"]["mean"], color="black", linewidth=0.8, linestyle="--", label=DENSE)
        panel.set(title=name, xscale="log", xlabel="directions on either side")
        panel.set_xticks(results["sweep"], list(map(str, results["sweep"])))
        panel.minorticks_off()
    panels[0][0].set_ylabel("accuracy on unseen prompts")
    panels[0][0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
