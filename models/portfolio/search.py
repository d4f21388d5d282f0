"""Lazy search: ask the oracle where least is proved, until the policies at hand are proved to be enough (SCIENCE §4, reconstruction).

    corners of L ─> U there ─> worst corner ─> Oracle.solve ─> one policy more, one bound more ─> ... until (1 - epsilon) U <= L + delta

Every solution is written to the state file before the next is asked for: an oracle that fails half-way, or a process that is
killed, loses nothing. Axis letters: `d` rewards, `M` solutions.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from attune.models.data.progress import left
from attune.models.portfolio.geometry import Corners, UpperBound, lower_corners
from attune.models.portfolio.oracles import ROUNDING, EvidenceInvalid, Oracle, Solution, expect_rewards

Array = NDArray[np.float64]

ASKED = 1e-7
"""Weights nearer than this were asked already: a deterministic oracle would say the same again."""

MOST_TIGHTENING = 200
"""Calls for bounds alone."""


class StateInvalid(ValueError):
    """The state file belongs to another search, or is damaged; the message names the line."""


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """When the search stops.

    Attributes:
        epsilon: share of the best possible objective that may be lost.
        delta: additive share that may be lost beside it, in normalised reward.
        max_calls: of the oracle, those of a resumed state included.
    """

    epsilon: float = 0.02
    delta: float = 0.0
    max_calls: int = 500

    def __post_init__(self) -> None:
        if not 0.0 <= self.epsilon < 1.0 or not 0.0 <= self.delta < 1.0 or self.epsilon + self.delta <= 0.0 or self.max_calls < 1:
            raise ValueError(
                f"epsilon {self.epsilon} and delta {self.delta} must be in [0, 1), not both 0; max_calls {self.max_calls} above 0"
            )


@dataclass(frozen=True, slots=True)
class Proof:
    """What solutions prove about themselves: their corners, U there, and the corner where the least is proved.

    Attributes:
        corners: of L over the chosen solutions.
        upper: `[C]` U at the corners.
        worst: index of the corner where `(1 - epsilon) U - L` is greatest.
        excess: that difference; the promise is kept where it is at most `delta`.
    """

    corners: Corners
    upper: Array
    worst: int
    excess: float

    @property
    def worst_weights(self) -> Array:
        return np.asarray(self.corners.weights[self.worst])

    @property
    def ratio(self) -> float:
        """The least `L / U` over all weights, at most 1; 0 where U is not above 0."""
        upper = np.where(self.upper > 0, self.upper, np.inf)
        return float(min(1.0, np.min(self.corners.lower / upper)))

    @property
    def gap(self) -> float:
        """The greatest `U - L` over all weights, at least 0."""
        return float(max(0.0, np.max(self.upper - self.corners.lower)))


@dataclass(frozen=True, slots=True)
class Search:
    """What a search found.

    Attributes:
        solutions: in the order asked.
        settings: what was to be reached.
        beta: price of KL in the oracle's objective.
        proof: of all solutions together.
        reached: whether it proves what the settings ask for.
    """

    solutions: tuple[Solution, ...]
    settings: SearchSettings
    beta: float
    proof: Proof
    reached: bool

    @property
    def calls(self) -> int:
        return len(self.solutions)


def lazy_search(
    oracle: Oracle,
    settings: SearchSettings | None = None,
    *,
    state: Path | None = None,
    start: Sequence[Solution] = (),
    progress: Callable[[str], None] | None = None,
) -> Search:
    """Returns solutions that are proved to serve every user within the settings, or as many as `max_calls` allows.

    Args:
        oracle: asked for one policy at a time.
        settings: when to stop.
        state: file of one JSON line per solution; read first if it exists, so that a search goes on where it ended.
        start: policies known beforehand (members at hand, soups, mixtures of logits): they enter L, and U if they bound the optimum.
        progress: is told about every solution.

    Raises:
        EvidenceInvalid: a solution's values are outside [0, 1], or the oracle has one reward only.
        OracleFailed: the oracle failed; with `state`, nothing that was solved is lost, and the same call goes on from there.
        StateInvalid: `state` is of another search.
        ValueError: two policies of `start` have one handle.
    """
    settings = settings or SearchSettings()
    if oracle.dimensions < 2:
        raise EvidenceInvalid(f"the oracle has {oracle.dimensions} reward, and so 1 best policy for everybody; a portfolio needs 2 or more")
    repeated = sorted(handle for handle, count in Counter(solution.handle for solution in start).items() if count > 1)
    if repeated:
        raise ValueError(f"policies to start with are duplicates by their handles: {', '.join(repeated)}")
    solutions = [_checked(solution, oracle.dimensions) for solution in start]
    solutions += read_state(state, oracle.dimensions, oracle.beta) if state is not None and state.exists() else []
    known, found_before, began_s = len(start), len(solutions), time.monotonic()
    waiting = [unit for unit in np.eye(oracle.dimensions) if not _was_asked(unit, solutions)]
    while True:
        proof = None if waiting else prove(solutions, settings.epsilon, beta=oracle.beta)
        if len(solutions) - known >= settings.max_calls:
            break
        if proof is not None:
            weights = _worst_unasked(proof, solutions, settings)
            if weights is None:
                break
        else:
            weights = waiting.pop(0)
        solution = _checked(oracle.solve(weights), oracle.dimensions)
        solutions.append(solution)
        if state is not None:
            _append(state, solution, oracle.beta)
        if progress is not None:
            excess = "" if proof is None else f", {proof.excess:.4f} left to prove before it"
            what = f"weights {np.round(weights, 3).tolist()}, value {np.round(solution.value, 3).tolist()}"
            rest = left(time.monotonic() - began_s, len(solutions) - found_before, known + settings.max_calls - found_before).replace(
                ", ", ", at most "
            )
            progress(f"call {len(solutions) - known} of at most {settings.max_calls}: {what}{excess}{rest}")
    proof = proof or prove(solutions, settings.epsilon, beta=oracle.beta)
    return Search(tuple(solutions), settings, oracle.beta, proof, proof.excess <= settings.delta + ROUNDING)


def tighten(
    oracle: Oracle, solutions: Sequence[Solution], chosen: Sequence[int], epsilon: float, *, factor: float = 1.25
) -> tuple[Solution, ...]:
    """Returns the solutions and those of further calls that only tighten the upper bound of the `chosen` members.

    Each call is at the corner where least is proved, and tells the true optimum there; it ends when the certified loss
    `1 - min L/U` is at most `factor` times the greatest loss that was seen to be real, `1 - L/o` at an asked weight.

    Args:
        oracle: asked for one policy at a time; without KL.
        solutions: so far.
        chosen: indices of the members.
        epsilon: losses below a tenth of it are not worth a call.
        factor: how much the certificate may exaggerate.
    """
    found = list(solutions)
    values = np.array([found[index].value - found[index].half_width for index in chosen])
    for _ in range(MOST_TIGHTENING):
        proof = prove(found, 0.0, beta=oracle.beta, chosen=chosen)
        ratios = proof.corners.lower / np.maximum(proof.upper, ROUNDING)
        certified = 1.0 - float(ratios.min())
        bound = upper_bound(found, beta=oracle.beta)
        real = float(np.max(1.0 - (bound.asked @ values.T).max(axis=1) / np.maximum(bound.optima, ROUNDING), initial=0.0))
        weights = next((proof.corners.weights[i] for i in np.argsort(ratios) if not _was_asked(proof.corners.weights[i], found)), None)
        if weights is None or certified <= max(factor * real, epsilon / 10):
            break
        found.append(_checked(oracle.solve(weights), oracle.dimensions))
    return tuple(found)


def prove(solutions: Sequence[Solution], epsilon: float, *, beta: float = 0.0, chosen: Sequence[int] | None = None) -> Proof:
    """Returns what is proved of `chosen` solutions (all if None), with the bounds on the optimum that all of them give.

    Args:
        solutions: all that the oracle was asked for.
        epsilon: multiplicative share, for the choice of the worst corner.
        beta: price of KL.
        chosen: indices of those that are kept as members.
    """
    kept = range(len(solutions)) if chosen is None else chosen
    values = np.array([solutions[index].value - solutions[index].half_width for index in kept])
    penalties = np.array([beta * solutions[index].divergence for index in kept])
    corners = lower_corners(values, penalties)
    upper = upper_bound(solutions, beta=beta).over(corners.weights)
    excess = (1.0 - epsilon) * upper - corners.lower
    worst = int(np.argmax(excess))
    return Proof(corners, upper, worst, float(excess[worst]))


def upper_bound(solutions: Sequence[Solution], *, beta: float = 0.0) -> UpperBound:
    """Returns U as far as the solutions bound the optimum; those of approximate oracles do not.

    A bound below what another solution reaches at the same weights (training at `w` may end worse than training next to it) is
    lifted to that, since the optimum is no less.
    """

    def lifted(weights: Array, optimum: float) -> float:
        return max(optimum, *(float(weights @ other.value) - beta * other.divergence for other in solutions))

    bounded = [(solution.weights, lifted(solution.weights, solution.optimum)) for solution in solutions if solution.optimum is not None]
    size = len(solutions[0].weights)
    asked = np.array([weights for weights, _ in bounded]).reshape(-1, size)
    return UpperBound(asked, np.array([optimum for _, optimum in bounded]), regularised=beta > 0)


def read_state(path: Path, dimensions: int, beta: float) -> list[Solution]:
    """Returns the solutions of a state file; a last line that was cut off while it was written is left out.

    Raises:
        StateInvalid: a line is damaged, or of another number of rewards or another `beta`.
    """
    found: list[Solution] = []
    lines = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines[:-1], start=1):
        try:
            entry = json.loads(line)
            arrays = {name: np.array(entry[name], dtype=np.float64) for name in ("weights", "value", "half_width")}
            optimum = None if entry["optimum"] is None else float(entry["optimum"])
            solution = Solution(**arrays, optimum=optimum, handle=str(entry["handle"]), divergence=float(entry["divergence"]))
            was = float(entry["beta"])
        except (ValueError, KeyError, OverflowError, RecursionError, TypeError) as error:
            raise StateInvalid(f"{path.name} line {number} is not a solution: {error!r}") from error
        if solution.weights.shape != (dimensions,) or was != beta:
            raise StateInvalid(
                f"{path.name} line {number} is of {len(solution.weights)} rewards and beta {was:g}; "
                f"the oracle has {dimensions} and {beta:g}"
            )
        found.append(_checked(solution, dimensions))
    return found


def _append(path: Path, solution: Solution, beta: float) -> None:
    arrays = {name: getattr(solution, name).tolist() for name in ("weights", "value", "half_width")}
    entry = {**arrays, "optimum": solution.optimum, "handle": solution.handle, "divergence": solution.divergence, "beta": beta}
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = path.read_bytes() if path.exists() else b""
    with path.open("r+b" if whole else "wb") as file:
        # A line that was cut off by a kill is overwritten: what was not wholly written was not solved.
        file.seek(whole.rfind(b"\n") + 1)
        file.write((json.dumps(entry) + "\n").encode())
        file.truncate()


def _worst_unasked(proof: Proof, solutions: Sequence[Solution], settings: SearchSettings) -> Array | None:
    excess = (1.0 - settings.epsilon) * proof.upper - proof.corners.lower
    for index in np.argsort(-excess, kind="stable"):
        if excess[index] <= settings.delta + ROUNDING:
            return None
        weights: Array = proof.corners.weights[index]
        if not _was_asked(weights, solutions):
            return weights
    return None


def _was_asked(weights: Array, solutions: Sequence[Solution]) -> bool:
    return any(np.max(np.abs(solution.weights - weights)) < ASKED for solution in solutions)


def _checked(solution: Solution, dimensions: int) -> Solution:
    if solution.value.shape != (dimensions,) or solution.half_width.shape != (dimensions,) or np.any(solution.half_width < 0):
        raise EvidenceInvalid(
            f"policy {solution.handle!r} has values {solution.value.shape} ± {solution.half_width.shape}; ({dimensions},) and non-negative "
            "half widths are needed"
        )
    return replace(solution, value=expect_rewards(solution.value[None])[0])
