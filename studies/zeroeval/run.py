"""`python -m studies zeroeval`: some forty real LLMs as a portfolio, for users who weigh correctness against length differently.

    response matrices (question x model: correct, characters) ─ half of the questions ─> value vectors, members by lazy search,
    vectors of the questions' texts                                                      candidates and their values by question
                                                             └─ other half ─> utility of routing against single models and oracles

Models whose reasoning is hidden (o1) are left out by default: the characters that can be seen say nothing of what they cost.

A user's utility of an answer is `correct - lambda * length`, with length as a share of the 99th percentile on training questions, at
most 1. In PALM's terms rewards are `(correct, 1 - length)` and weights `(1, lambda) / (1 + lambda)`. Everything is chosen on training
questions. Axis letters: `Q` questions, `M` models, `C` candidates, `U` users, `F` features, `P` penalties.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from attune.models.data.embeddings import Embedder, embed_rows
from attune.models.data.trunk import load_demo_trunk
from attune.models.measuring.figures import Interval, bootstrap
from attune.models.measuring.report_files import made_by, write_report
from attune.models.portfolio.oracles import Solution, expect_weights
from attune.models.portfolio.prune import prune
from attune.models.portfolio.search import SearchSettings, lazy_search
from studies.zeroeval.responses import Responses, read_responses

Array = NDArray[np.float64]
Features = NDArray[np.float32]
Indices = NDArray[np.int64]

SETS = ("gsm", "crux", "math-l5")
LAMBDAS = tuple(float(value) for value in np.geomspace(0.02, 5.0, 25))
EPSILON = 0.0005
MARGIN = 0.01
"""A model so near the best for some user, in `w · v`, is a candidate for that user's questions."""
FOLDS = 5
PENALTIES = (*np.geomspace(1.0, 3000.0, 8), np.inf)  # the last is the prompt-free mean
HIDDEN_REASONING = "o1"
TIE = 1e-9
ROUTED = ("routed by user", "routed by user and question")


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


def evaluate_zeroeval(
    folder: Path,
    out: Path,
    *,
    seed: int = 0,
    splits: int = 10,
    without: str = HIDDEN_REASONING,
    trunk: Embedder | None = None,
    cache: Path | None = None,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """Writes `report.md` and `results.json` into `out` and returns the results.

    Args:
        folder: of the response matrices.
        out: made if absent.
        seed: of the splits.
        splits: of each set's questions into halves.
        without: models whose names start so are left out; none if empty.
        trunk: reads the questions; None loads the demo's.
        cache: folder of the embedding cache; None keeps none.
        progress: is told about each set.

    Raises:
        ResponsesInvalid: see `read_responses`.
        TrunkUnavailable: the demo's trunk is not installed.
    """
    results: dict[str, Any] = {"attune": made_by(), "seed": seed, "splits": splits, "without": without, "lambdas": LAMBDAS, "sets": {}}
    read = {sets: read_responses(folder, sets, without=without) for sets in (*((name,) for name in SETS), SETS)}
    trunk = trunk or load_demo_trunk()
    for sets, responses in read.items():
        features = embed_rows([trunk.encoder.prompt(question) for question in responses.questions], trunk, cache)
        runs = [one_split(responses, features, np.random.default_rng([seed, number])) for number in range(splits)]
        results["sets"][" + ".join(sets)] = _summary(responses, runs)
        progress(f"{' + '.join(sets)}: members {', '.join(runs[0].members)}")
    write_report(out, results, render(results))
    return results


@dataclass(frozen=True, slots=True)
class Halves:
    """What one half of the questions gave, with everything chosen on the other.

    Attributes:
        members: of the portfolio that is proved for every user; `routed by user` is their best by mean values.
        candidates: models that `routed by user and question` chooses from.
        one_for_all: the best single model on the mean over users.
        otherwise: share of users and questions for which the question changes the choice.
        test: indices of the questions.
        utility: by policy, `[U, Q]` on those questions.
    """

    members: tuple[str, ...]
    candidates: tuple[str, ...]
    one_for_all: str
    otherwise: float
    test: Indices
    utility: dict[str, Array]


def one_split(responses: Responses, features: Features, rng: np.random.Generator) -> Halves:
    """Returns what routing and its rivals are worth on one half of the questions; `features` is `[Q, F]`."""
    order = rng.permutation(len(responses.questions))
    train, test = order[: len(order) // 2], order[len(order) // 2 :]
    most = float(np.percentile(responses.characters[train], 99))
    rewards = np.stack([responses.correct, 1.0 - np.clip(responses.characters / most, 0.0, 1.0)], axis=2)  # [Q, M, 2]
    mean = rewards[train].mean(axis=0)
    users = np.array([[1.0, value] for value in LAMBDAS])
    search = lazy_search(BestModel(mean, responses.models), SearchSettings(EPSILON / 2))
    kept = [search.solutions[index].handle for index in prune(search.solutions, EPSILON).chosen]
    members = np.array([responses.models.index(name) for name in kept])
    worth = mean @ users.T  # [M, U]
    candidates = np.flatnonzero((worth >= worth.max(axis=0) - MARGIN * users.sum(axis=1)).any(axis=1))
    predicted = predict_rewards(features[train], rewards[train][:, candidates], features[test], rng)
    # correct - lambda * length = correct + lambda * (1 - length) - lambda
    tested = np.einsum("qmd,ud->uqm", rewards[test], users) - users[:, 1][:, None, None]
    one_for_all = int(np.argmax((worth - users[:, 1]).mean(axis=1)))
    by_user = members[np.argmax(worth[members], axis=0)]
    by_question = candidates[np.einsum("qcd,ud->uqc", predicted, users).argmax(axis=2)]

    def given(models: Indices) -> Array:
        return np.stack([of_user[:, model] for of_user, model in zip(tested, models, strict=True)])

    utility = {
        "routed by user": given(by_user),
        "routed by user and question": np.take_along_axis(tested, by_question[:, :, None], axis=2)[:, :, 0],
        "one model for all": tested[:, :, one_for_all],
        "most correct model": tested[:, :, int(np.argmax(mean[:, 0]))],
        "best single for this user": given(np.argmax(worth, axis=0)),
        "best single in hindsight": given(np.argmax(tested.mean(axis=1), axis=1)),
        "oracle over members": tested[:, :, members].max(axis=2),
        "oracle over candidates": tested[:, :, candidates].max(axis=2),
        "oracle over all models": tested.max(axis=2),
    }
    otherwise = float(np.mean(by_question != candidates[np.argmax(worth[candidates], axis=0)][:, None]))
    names = tuple(responses.models[index] for index in candidates)
    return Halves(tuple(kept), names, responses.models[one_for_all], otherwise, test, utility)


def predict_rewards(features: Features, rewards: Array, asked: Features, rng: np.random.Generator) -> Array:
    """Returns the rewards `[asked, C, d]` that the questions let expect of candidates.

    Kernel ridge (Gaussian, as wide as the features are many) with one penalty per reward: the one whose out-of-fold error is least for
    what routing needs, the differences between candidates. Where questions tell nothing the penalty is infinite and the mean is left.

    Args:
        features: `[Q, F]` of training questions.
        rewards: `[Q, C, d]` of the same.
        asked: `[asked, F]`.
        rng: draws the folds.
    """
    folds = rng.permutation(len(rewards)) % FOLDS
    out_of_fold = np.zeros((len(PENALTIES), *rewards.shape))
    for fold in range(FOLDS):
        held = folds == fold
        out_of_fold[:, held] = _ridges(features[~held], rewards[~held], features[held])
    error = out_of_fold - rewards
    error -= error.mean(axis=2, keepdims=True)
    best = np.square(error).mean(axis=(1, 2)).argmin(axis=0)  # [d]
    predicted = _ridges(features, rewards, asked)
    return np.stack([predicted[penalty, :, :, reward] for reward, penalty in enumerate(best)], axis=2)


def _ridges(features: Features, targets: Array, asked: Features) -> Array:
    """Returns kernel ridge predictions at every penalty, `[P, asked, C, d]`, from one decomposition of the centred kernel."""
    mean, spread = features.mean(axis=0), features.std(axis=0)
    spread = np.where(spread > 1e-6, spread, 1.0)
    known, new = (features - mean) / spread, (asked - mean) / spread
    kernel, across = (np.exp(-cdist(rows, known, "sqeuclidean") / (2.0 * features.shape[1])) for rows in (known, new))
    column = kernel.mean(axis=0)
    values, basis = np.linalg.eigh(kernel - column - column[:, None] + column.mean())
    centre = targets.mean(axis=0)
    along = basis.T @ (targets - centre).reshape(len(targets), -1)
    onto = (across - across.mean(axis=1, keepdims=True) - column + column.mean()) @ basis
    fitted = np.stack([onto @ (along / (np.maximum(values, 0.0) + penalty)[:, None]) for penalty in PENALTIES])
    predicted: Array = centre + fitted.reshape(len(PENALTIES), len(asked), *targets.shape[1:])
    return predicted


def _summary(responses: Responses, runs: list[Halves]) -> dict[str, Any]:
    """Returns means over splits, and of every difference an interval over questions: splits share questions, and are not resampled."""
    shown = np.bincount(np.concatenate([run.test for run in runs]), minlength=len(responses.questions))
    shares = len(responses.questions) / shown.sum()
    versus = {}
    for routed in ROUTED:
        for rival in (name for name in runs[0].utility if name not in ROUTED):
            gain = np.zeros((len(LAMBDAS), len(responses.questions)))  # the mean over questions is the mean over splits
            for run in runs:
                gain[:, run.test] += shares * (run.utility[routed] - run.utility[rival])
            by_user = [bootstrap(row, resamples=500) for row in gain]
            versus[f"{routed} over {rival}"] = {
                "won": float(np.mean([one.mean > TIE for one in by_user])),
                "tied": float(np.mean([abs(one.mean) <= TIE for one in by_user])),
                "surely_won": float(np.mean([one.low > 0 for one in by_user])),
                "gain": [one.mean for one in by_user],
                "mean_gain": _as_json(bootstrap(gain.mean(axis=0))),
            }
    return {
        "models": len(responses.models),
        "questions": len(responses.questions),
        "members": [run.members for run in runs],
        "candidates": [run.candidates for run in runs],
        "one_for_all": [run.one_for_all for run in runs],
        "otherwise": float(np.mean([run.otherwise for run in runs])),
        "utility": {name: np.mean([run.utility[name].mean(axis=1) for run in runs], axis=0).tolist() for name in runs[0].utility},
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
        f"{LAMBDAS[-1]:g}, models without {results['without'] or 'exception'}; Attune {results['attune']}, seed {results['seed']}.",
        "Won and tied: share of users, by the mean over splits; surely: share of users whose 95 % interval over questions is above 0.",
    ]
    columns = range(0, len(LAMBDAS), 4)
    for name, found in results["sets"].items():
        members, candidates = (sorted(len(names) for names in found[kind]) for kind in ("members", "candidates"))
        lines += [
            "",
            f"## {name}: {found['models']} models, {found['questions']} questions",
            "",
            f"{members[0]} to {members[-1]} members, in the first split {', '.join(found['members'][0])};",
            f"{candidates[0]} to {candidates[-1]} candidates, in the first split {', '.join(found['candidates'][0])};",
            f"one model for all: {', '.join(sorted(set(found['one_for_all'])))}.",
            f"The question changes the choice for {found['otherwise']:.0%} of users and questions.",
            "",
            "| | won | tied | surely | mean gain |",
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
