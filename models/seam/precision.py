"""In which number formats a bundle's scorer can be run, and how far each may be from the training framework's answers.

A manifest lists its graphs under `scorers`: precision -> file, tolerance, and what was measured at packing. A manifest without that
has one graph, `scorer.onnx`, of the `precision` it names (fp32 where it names none), judged by the tolerance of its probes. What an
engine makes of the fp32 graph (tf32 on CUDA, bf16 in OpenVINO) has no file of its own and is judged by the tolerance here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

Precision = Literal["fp32", "tf32", "bf16", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

TOLERANCES: Mapping[Precision, float] = {"fp32": 1e-3, "tf32": 0.05, "bf16": 0.1, "fp16": 0.03, "int8": 0.3}
"""Greatest `probe_difference` that passes: three times and more what the demo's graph was measured to differ by on a CPU or a GPU."""

DERIVED: Mapping[Precision, Precision] = {"tf32": "fp32", "bf16": "fp32"}
"""Precisions that an engine computes from another one's file."""


@dataclass(frozen=True, slots=True)
class ScorerFile:
    """One graph of a bundle.

    Attributes:
        file: its path inside the bundle.
        tolerance: greatest `probe_difference` that passes; finite.
    """

    file: str
    tolerance: float

    def __post_init__(self) -> None:
        pure = PurePosixPath(self.file)
        if pure.is_absolute() or ".." in pure.parts or not pure.parts:
            raise ValueError(f"{self.file!r} is not a path inside a bundle")
        if not 0 <= self.tolerance < math.inf:  # NaN would let every difference pass
            raise ValueError(f"tolerance of {self.file} is {self.tolerance}; it must be finite and 0 or more")


def scorer_files(manifest: Mapping[str, Any], probes_tolerance: float) -> dict[Precision, ScorerFile]:
    """Returns a bundle's graphs by precision, in the order of `PRECISIONS`; at least one.

    Args:
        manifest: of the bundle, of any age.
        probes_tolerance: stands in `probes.npz`; holds where the manifest states none.

    Raises:
        ValueError: an entry has another shape, a precision is not known or one that no file can have, or there is no entry.
    """
    listed = manifest.get("scorers")
    if listed is None:
        listed = {str(manifest.get("precision", "fp32")): {"file": "scorer.onnx", "tolerance": probes_tolerance}}
    if not isinstance(listed, Mapping) or not listed:
        raise ValueError(f"'scorers' is {listed!r}; an object from precision to file and tolerance is needed")
    stored = [name for name in PRECISIONS if name not in DERIVED]
    unknown = sorted(set(listed) - set(stored))
    if unknown:
        raise ValueError(f"'scorers' names {', '.join(unknown)}; {', '.join(stored)} are known")
    found: dict[Precision, ScorerFile] = {}
    for name in stored:
        if name in listed:
            entry = listed[name]
            if not isinstance(entry, Mapping) or not isinstance(entry.get("file"), str):
                raise ValueError(f"'scorers' of {name} is {entry!r}; an object with 'file' and 'tolerance' is needed")
            tolerance = entry.get("tolerance", probes_tolerance)
            if isinstance(tolerance, bool) or not isinstance(tolerance, int | float):
                raise ValueError(f"tolerance of {name} is {tolerance!r}; a number is needed")
            found[name] = ScorerFile(entry["file"], float(tolerance))
    return found


def choose_scorer(files: Mapping[Precision, ScorerFile], wanted: Precision | None) -> tuple[Precision, ScorerFile]:
    """Returns the precision to run and its graph, whose tolerance is that of the precision run.

    Args:
        files: see `scorer_files`.
        wanted: a precision; None takes fp32 where there is one, else the first that the bundle has.

    Raises:
        ValueError: the bundle has no graph for what is wanted; the message names what it has.
    """
    if wanted is None:
        first = next(iter(files))  # fp32 comes first where it is there
        return first, files[first]
    source = DERIVED.get(wanted, wanted)
    if source not in files:
        raise ValueError(f"precision {wanted} needs a graph in {source}; this bundle has {', '.join(files)}")
    file = files[source]
    return wanted, file if source == wanted else ScorerFile(file.file, max(file.tolerance, TOLERANCES[wanted]))


def probe_difference(found: Mapping[str, NDArray[np.float32]], expected: Mapping[str, NDArray[np.float32]]) -> float:
    """Returns the greatest absolute difference over the outputs of `expected`, in units of an output's greatest answer or 1.

    Outputs differ in size (standardised rewards, weighted sums of features); so measured, one number bounds them all. NaN where either
    has one.

    Raises:
        KeyError, ValueError: an output is missing, or has another shape.
    """
    worst = 0.0
    for name, answers in expected.items():
        if found[name].shape != answers.shape:
            raise ValueError(f"{name} is {found[name].shape}; the probes have {answers.shape}")
        scale = max(1.0, float(np.max(np.abs(answers), initial=0.0)))
        difference = float(np.max(np.abs(found[name] - answers), initial=0.0)) / scale
        worst = difference if math.isnan(difference) else max(worst, difference)
        if math.isnan(worst):
            break
    return worst
