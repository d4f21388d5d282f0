"""`attune evaluate zeroeval`: some forty real LLMs as a portfolio, for users who weigh correctness against length differently.

    response matrices (question x model: correct, characters) ─ half of the questions ─> value vectors, members by lazy search, ridge
                                                             └─ other half ─> utility of routing against single models and oracles

Models whose reasoning is hidden (o1) are left out by default: the characters that can be seen say nothing of what they cost.

A user's utility of an answer is `correct - lambda * length`, with length as a share of the 99th percentile on training questions, at
most 1. In PALM's terms rewards are `(correct, 1 - length)` and weights `(1, lambda) / (1 + lambda)`. Everything is chosen on training
questions. Axis letters: `Q` questions, `M` models, `U` users.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.evaluation.metrics import Interval, bootstrap
from models.evaluation.report import commit
from models.portfolio.oracles import Solution, expect_weights
from models.portfolio.prune import prune
from models.portfolio.search import SearchSettings, lazy_search

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

SETS = ("gsm", "crux", "math-l5")
LAMBDAS = tuple(float(value) for value in np.geomspace(0.02, 5.0, 25))
EPSILON = 0.0005
FEATURES = 384
FOLDS = 5
PENALTIES = (*(10.0**power for power in range(6)), np.inf)  # the last is the prompt-free mean
HIDDEN_REASONING = "o1"
TIE = 1e-9
SURE = 1.64


class ResponsesInvalid(ValueError):
    """A response matrix is missing or does not fit the others; the message names the file."""


@dataclass(frozen=True, slots=True)
class Responses:
    """What models answered.

    Attributes:
        models: names, `M`.
        questions: texts, `Q`.
        correct: `[Q, M]` 0 or 1.
        characters: `[Q, M]` of the output.
    """

    models: tuple[str, ...]
    questions: tuple[str, ...]
    correct: Array
    characters: Array


@dataclass(frozen=True, slots=True)
class BestModel:
    """The exact oracle over a finite set of models: the one with the greatest `w · v`; `values` is `[M, d]`."""

    values: Array
    names: tuple[str, ...]
    beta: float = 0.0

    @property
    def dimensions(self) -> int:
        return int(self.values.shape[1])

    def solve(self, weights: Array) -> Solution:
        weights = expect_weights(weights, self.dimensions)
        best = int(np.argmax(self.values @ weights))
        value = self.values[best]
        return Solution(weights, value, np.zeros_like(value), float(weights @ value), self.names[best])


def read_responses(folder: Path, sets: tuple[str, ...] = SETS, *, without: str = "") -> Responses:
    """Returns the response matrices of several sets one below the other, for the models that all of them have.

    Args:
        folder: of the matrices.
        sets: names.
        without: models whose names start so are left out; none if empty.

    Raises:
        ResponsesInvalid: a file is missing, or its models, ids or numbers do not fit.
    """
    tables = [_read_set(folder, name) for name in sets]
    shared = [
        model
        for model in tables[0].models
        if all(model in table.models for table in tables) and not (without and model.startswith(without))
    ]
    if len(shared) < 2:
        raise ResponsesInvalid(f"{folder} has {len(shared)} models in all of {', '.join(sets)}; a portfolio needs 2")
    columns = [[table.models.index(model) for model in shared] for table in tables]
    return Responses(
        tuple(shared),
        tuple(question for table in tables for question in table.questions),
        np.concatenate([table.correct[:, chosen] for table, chosen in zip(tables, columns, strict=True)]),
        np.concatenate([table.characters[:, chosen] for table, chosen in zip(tables, columns, strict=True)]),
    )


def _read_set(folder: Path, name: str) -> Responses:
    found = []
    for kind in ("correct", "output_chars"):
        path = folder / f"{name}_{kind}.csv.gz"
        try:
            with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
                rows = list(csv.reader(file))
            found.append((tuple(rows[0][1:]), tuple(row[0] for row in rows[1:]), np.array([row[1:] for row in rows[1:]], dtype=np.float64)))
        except (OSError, ValueError, IndexError) as error:
            raise ResponsesInvalid(f"{path.name} cannot be read: {error}") from error
    with gzip.open(folder / f"{name}_questions.jsonl.gz", "rt", encoding="utf-8") as file:
        texts = {str(entry["id"]): str(entry["question"]) for entry in map(json.loads, file)}
    (models, ids, correct), (others, other_ids, characters) = found
    missing = [one for one in ids if one not in texts]
    if models != others or ids != other_ids or missing or not np.isin(correct, (0.0, 1.0)).all() or np.any(characters < 0):
        raise ResponsesInvalid(
            f"{name}: correctness {correct.shape} and lengths {characters.shape} do not fit; {len(missing)} without text"
        )
    return Responses(models, tuple(texts[one] for one in ids), correct, characters)


def question_features(questions: tuple[str, ...]) -> NDArray[np.float32]:
    """Returns `[Q, F]`: signed hashed words as shares of the text, and the logarithm of its length; nothing is learned."""
    features = np.zeros((len(questions), FEATURES), dtype=np.float32)
    for row, question in zip(features, questions, strict=True):
        words = re.findall(r"[a-z]+|\d|[^\w\s]", question.lower())
        for word in words:
            digest = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
            row[digest % (FEATURES - 1)] += (1.0 if digest >> 63 else -1.0) / len(words)
        row[-1] = np.log1p(len(question))
    return features


def evaluate_zeroeval(
    folder: Path, out: Path, *, seed: int = 0, splits: int = 10, without: str = HIDDEN_REASONING, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Writes `report.md` and `results.json` into `out` and returns the results.

    Args:
        folder: of the response matrices.
        out: made if absent.
        seed: of the splits.
        splits: of each set's questions into halves; intervals are over test questions within a split.
        without: models whose names start so are left out; none if empty.
        progress: is told about each split.

    Raises:
        ResponsesInvalid: see `read_responses`.
    """
    results: dict[str, Any] = {"commit": commit(), "seed": seed, "splits": splits, "without": without, "lambdas": LAMBDAS, "sets": {}}
    for sets in (*((name,) for name in SETS), SETS):
        responses = read_responses(folder, sets, without=without)
        features = question_features(responses.questions)
        runs = [one_split(responses, features, np.random.default_rng([seed, number])) for number in range(splits)]
        results["sets"][" + ".join(sets)] = _summary(responses, runs)
        progress(f"{' + '.join(sets)}: members {', '.join(runs[0]['members'])}")
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps(results, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    (out / "report.md").write_text(render(results), encoding="utf-8")
    return results


def one_split(responses: Responses, features: NDArray[np.float32], rng: np.random.Generator) -> dict[str, Any]:
    """Returns members, baselines and utilities on one half of the questions, with everything chosen on the other."""
    order = rng.permutation(len(responses.questions))
    train, test = order[: len(order) // 2], order[len(order) // 2 :]
    most = float(np.percentile(responses.characters[train], 99))
    rewards = np.stack([responses.correct, 1.0 - np.clip(responses.characters / most, 0.0, 1.0)], axis=2)  # [Q, M, 2]
    mean = rewards[train].mean(axis=0)
    search = lazy_search(BestModel(mean, responses.models), SearchSettings(EPSILON / 2))
    kept = [search.solutions[index].handle for index in prune(search.solutions, EPSILON).chosen]
    members = np.array([responses.models.index(name) for name in kept])
    users = np.array([[1.0, value] for value in LAMBDAS])
    # correct - lambda * length = correct + lambda * (1 - length) - lambda
    utility = np.einsum("qmd,ud->uqm", rewards, users) - users[:, 1][:, None, None]
    by_question, informed = _by_question(features, rewards[:, members], utility[:, :, members], users, train, test, rng)
    rows, tested = np.arange(len(test)), utility[:, test]
    one_for_all = int(np.argmax((mean @ users.T - users[:, 1]).mean(axis=1)))
    own_single = np.argmax(mean @ users.T, axis=0)
    by_user = members[np.argmax(mean[members] @ users.T, axis=0)]
    found = {
        "routed by user": np.stack([tested[u, :, by_user[u]] for u in range(len(users))]),
        "routed by user and question": np.stack([tested[u, rows, members[by_question[u]]] for u in range(len(users))]),
        "one model for all": tested[:, :, one_for_all],
        "most correct model": tested[:, :, int(np.argmax(mean[:, 0]))],
        "best single for this user": np.stack([tested[u, :, own_single[u]] for u in range(len(users))]),
        "best single in hindsight": np.stack([one[:, one.mean(axis=0).argmax()] for one in tested]),
        "oracle over members": tested[:, :, members].max(axis=2),
        "oracle over all models": tested.max(axis=2),
    }
    versus = {}
    for routed in ("routed by user", "routed by user and question"):
        for single in ("one model for all", "most correct model", "best single for this user"):
            versus[f"{routed} over {single}"] = [bootstrap(row, resamples=500) for row in found[routed] - found[single]]
    utilities = {name: table.mean(axis=1) for name, table in found.items()}
    return {"members": kept, "best_single": responses.models[one_for_all], "informed": informed, "utility": utilities, "versus": versus}


def _by_question(
    features: NDArray[np.float32], rewards: Array, utility: Array, users: Array, train: Indices, test: Indices, rng: np.random.Generator
) -> tuple[Indices, float]:
    """Returns the member for each user and test question, `[U, Q]`, and the share of users for whom the question is read at all.

    Ridge on the question predicts every member's rewards. How much it is trusted is chosen for each user by utility out of fold, and
    it is not read where the gain is not sure (one-sided 95 %).
    """
    targets = rewards.reshape(len(rewards), -1)
    folds = rng.permutation(len(train)) % FOLDS
    out_of_fold = np.zeros((len(PENALTIES), len(train), targets.shape[1]))
    for fold in range(FOLDS):
        held = folds == fold
        out_of_fold[:, held] = _ridges(features[train[~held]], targets[train[~held]], features[train[held]])
    final = _ridges(features[train], targets[train], features[test])
    rows, chosen, read = np.arange(len(train)), [], 0
    for user, worth in zip(users, utility, strict=True):
        picks = (out_of_fold.reshape(len(PENALTIES), len(train), -1, 2) @ user).argmax(axis=2)
        gains = worth[train][rows, picks] - worth[train][rows, picks[-1]]
        sure = gains.mean(axis=1) / (gains.std(axis=1) / np.sqrt(len(train)) + 1e-12)
        best = int(np.argmax(gains.mean(axis=1)))
        best = best if sure[best] >= SURE else len(PENALTIES) - 1
        read += best < len(PENALTIES) - 1
        chosen.append((final[best].reshape(len(test), -1, 2) @ user).argmax(axis=1))
    return np.array(chosen), read / len(users)


def _ridges(features: NDArray[np.float32], targets: Array, asked: NDArray[np.float32]) -> Array:
    """Returns ridge predictions at every penalty, `[penalties, asked, outputs]`, from one decomposition."""
    mean, spread = features.mean(axis=0), features.std(axis=0)
    spread = np.where(spread > 1e-6, spread, 1.0)
    left, singular, right = np.linalg.svd((features - mean) / spread, full_matrices=False)
    centre = targets.mean(axis=0)
    along, onto = left.T @ (targets - centre), ((asked - mean) / spread) @ right.T
    return np.stack([centre + onto @ ((singular / (singular**2 + penalty))[:, None] * along) for penalty in PENALTIES])


def _summary(responses: Responses, runs: list[dict[str, Any]]) -> dict[str, Any]:
    versus = {}
    for name in runs[0]["versus"]:
        gain = np.array([[one.mean for one in run["versus"][name]] for run in runs])
        low = np.array([[one.low for one in run["versus"][name]] for run in runs])
        versus[name] = {
            "won": float(np.mean(gain.mean(axis=0) > TIE)),
            "tied": float(np.mean(np.abs(gain.mean(axis=0)) <= TIE)),
            "won_by_split": (gain > TIE).mean(axis=1).tolist(),
            "surely_won": float((low > 0).mean()),
            "gain": gain.mean(axis=0).tolist(),
            "mean_gain": _as_json(bootstrap(gain.mean(axis=1))),
        }
    return {
        "models": len(responses.models),
        "questions": len(responses.questions),
        "members": [run["members"] for run in runs],
        "best_single": [run["best_single"] for run in runs],
        "informed": float(np.mean([run["informed"] for run in runs])),
        "utility": {name: np.mean([run["utility"][name] for run in runs], axis=0).tolist() for name in runs[0]["utility"]},
        "versus": versus,
    }


def _as_json(interval: Interval) -> Mapping[str, float]:
    """Returns an interval as JSON types."""
    return {"mean": interval.mean, "low": interval.low, "high": interval.high}


def render(results: dict[str, Any]) -> str:
    """Returns report.md."""
    lines = [
        "# Real LLMs as a portfolio",
        "",
        f"{results['splits']} random halves of each set's questions, {len(LAMBDAS)} users with lambda from {LAMBDAS[0]:g} to",
        f"{LAMBDAS[-1]:g}, models without {results['without'] or 'exception'}; commit {results['commit']}, seed {results['seed']}.",
        "Won and tied: share of users, by the mean over splits; surely: share of users and splits whose 95 % interval over questions",
        "is above 0.",
    ]
    columns = range(0, len(LAMBDAS), 4)
    for name, found in results["sets"].items():
        sizes = [len(members) for members in found["members"]]
        lines += [
            "",
            f"## {name}: {found['models']} models, {found['questions']} questions, {min(sizes)} to {max(sizes)} members",
            "",
            f"The question is read for {found['informed']:.0%} of users. Members of the first split: {', '.join(found['members'][0])};",
            f"one model for all: {', '.join(sorted(set(found['best_single'])))}.",
            "",
            "| routing over single | won | tied | surely | mean gain |",
            "|---|---|---|---|---|",
        ]
        for pair, row in found["versus"].items():
            gain = row["mean_gain"]
            cells = f"{row['won']:.0%} | {row['tied']:.0%} | {row['surely_won']:.0%}"
            lines.append(f"| {pair} | {cells} | {gain['mean']:.4f} [{gain['low']:.4f}, {gain['high']:.4f}] |")
        lines += [
            "",
            "| utility at lambda | " + " | ".join(f"{LAMBDAS[i]:.2g}" for i in columns) + " | mean |",
            "|---" * (len(columns) + 2) + "|",
        ]
        for who, row in found["utility"].items():
            lines.append(f"| {who} | {' | '.join(f'{row[i]:.3f}' for i in columns)} | {np.mean(row):.4f} |")
    return "\n".join(lines) + "\n"
