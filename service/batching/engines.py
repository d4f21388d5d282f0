"""Which engine runs a bundle's graph: ONNX Runtime, or OpenVINO where bf16 is asked for; chosen once, at loading.

    precision   fp32, fp16, int8 ─> ScorerSession      tf32 ─> ScorerSession on CUDA, rounded products      bf16 ─> OpenVinoScorer

Each states its provider and its outputs and is judged by the probes under the tolerance of its precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from attune.models.seam.families import Row
from attune.models.seam.padding import TokenRow
from attune.models.seam.precision import Precision
from attune.service.batching.session import CPU, CUDA, CUDA_OPTIONS, Scorer, ScorerSession

# Operators of a larger graph take longer, so that threads wait less for each other, and twice its size is a machine's worth of memory.
MOST_TWICE_BYTES = 256 * 2**20
# Each batch that runs beside others is one more that its callers wait for: with more cores than this, each has several.
MOST_BESIDE = 16


class Engine(Scorer[Row], Protocol):
    """A scorer that says what runs it, what it gives, how many runs may be under way together, and what runs a batch beside others."""

    provider: str
    outputs: tuple[str, ...]
    at_once: int

    @property
    def beside(self) -> Engine | None:
        """Runs batches of which several are under way together; None where this engine runs every batch."""
        ...

    def run_arrays(self, items: Sequence[TokenRow], /) -> list[NDArray[np.float32]]:
        """Returns the outputs, `[N, ...]` each, in the order of `outputs`; an exception means that no item was scored."""
        ...


def open_engine(path: Path, precision: Precision, *, threads: int | None, require_gpu: bool) -> Engine:
    """Returns the engine for a graph, loaded.

    Args:
        path: the graph, in the precision itself or in the one that the engine derives it from.
        precision: to run.
        threads: of one operator; None takes the usable cores.
        require_gpu: refuse whatever does not run on CUDA.

    Raises:
        ScorerRefused: the engine is not installed, or cannot run this here.
    """
    if precision == "bf16":
        from attune.service.batching.openvino import OpenVinoScorer  # noqa: PLC0415 - an optional extra

        return OpenVinoScorer(path, precision, threads=threads, require_gpu=require_gpu)
    rounded = precision == "tf32"
    cuda = (CUDA, CUDA_OPTIONS | {"use_tf32": "1"}) if rounded else CUDA
    session = ScorerSession(path, (cuda, CPU), threads, CUDA if require_gpu or rounded else None)
    return share_cores(session, path) if session.provider == CPU else session


def share_cores(session: ScorerSession, path: Path, *, most_twice_bytes: int = MOST_TWICE_BYTES) -> ScorerSession:
    """Returns a session on a CPU with a second one beside it, where it has several cores and the graph is not too large for that.

    Threads of one run wait for each other at every operator. On several cores one batch is done soonest by all of them, and as many
    batches as there are cores are done with an eighth less work by a core each: the second session is for those.

    Args:
        session: loaded.
        path: its graph.
        most_twice_bytes: size of the graph's file up to which it is in memory twice.
    """
    if session.threads > 1 and path.stat().st_size <= most_twice_bytes:
        session.at_once = min(session.threads, MOST_BESIDE)
        session.beside = ScorerSession(path, (CPU,), session.threads // session.at_once)
    return session
