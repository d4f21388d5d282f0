"""One ONNX Runtime session of one bundle's graph: encoded texts in, one row of named outputs per text out.

Whoever calls `run` pads nothing and knows no tensor: items become `input_ids`, `attention_mask` and `pool_mask`, each
int64 `[N, T]` with T the longest item, and every output, float32 `[N, ...]`, is handed back row by row. Start-up fails
here, with both values in the message, where the runtime would silently serve something else: two runtimes installed over
each other, CUDA asked for and CPU given, a graph with other inputs. This module knows no queue and no threads but ORT's.

Axes: N texts, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from attune.models.seam.families import Row
from attune.models.seam.padding import INPUTS, TokenRow, pad
from attune.models.seam.processor import int8_session_entries
from attune.service.batching.yielding import give_way, threads_here
from attune.service.cores import usable_cores

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
# They install the same import package over each other; the last one wins and `pip check` says nothing.
DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml", "onnxruntime-rocm", "onnxruntime-qnn")
# TF32 rounds what a matrix product reads to ten bits: scores would leave the probes' tolerance and move with the batch.
CUDA_OPTIONS = {"use_tf32": "0", "arena_extend_strategy": "kSameAsRequested"}


class ScorerRefused(RuntimeError):
    """The scorer cannot be served on this machine as configured; the message has what was asked for and what is there."""


class GpuRequired(ScorerRefused):
    """A GPU was required, and would not be what computes."""


Scored = TypeVar("Scored")
"""What a scorer gives for one text: a `Row`, or in the scorer's own process the same numbers one after the other."""
Scored_co = TypeVar("Scored_co", covariant=True)


class Scorer(Protocol[Scored_co]):
    """What the worker runs: `ScorerSession`, or in tests one whose gate is held."""

    def run(self, items: Sequence[TokenRow], /) -> Sequence[Scored_co]:
        """Returns one answer per item, in order; an exception means that no item was scored."""
        ...


class ScorerSession:
    """Owns one session; to be used from as many threads at a time as `at_once` says.

    Args:
        path: the bundle's `scorer.onnx`.
        providers: execution providers in order of preference, names or `(name, options)`; CPU if none.
        threads: threads of one operator; by default `usable_cores()`.
        required_provider: the provider that must really run the graph, or start-up fails.

    Attributes:
        provider: the execution provider that runs the graph.
        distribution: name and version of the installed runtime.
        outputs: names of the graph's outputs.
        at_once: runs that may be under way together: on a GPU two, so that it computes one while the other's arrays are made and read.
        beside: the same graph with a share of the threads, see `engines.share_cores`; None where this session runs every batch.

    Raises:
        ScorerRefused: not exactly one onnxruntime distribution is installed, the required provider is not the one that
            runs the graph, the file cannot be loaded, or the graph's inputs or outputs are not a scorer's.
    """

    def __init__(
        self,
        path: Path,
        providers: Sequence[str | tuple[str, Mapping[str, str]]] = (),
        threads: int | None = None,
        required_provider: str | None = None,
    ) -> None:
        self.distribution = installed_runtime()
        self.threads = usable_cores() if threads is None else threads
        wanted = [with_options(provider)[0] for provider in providers]
        available = onnxruntime.get_available_providers()
        if required_provider is not None and required_provider not in available:
            raise GpuRequired(f"{required_provider} is required; {self.distribution} was built with {', '.join(available)}")
        if CUDA in wanted:
            onnxruntime.preload_dlls()  # finds CUDA and cuDNN where pip put them; without it only a system-wide CUDA is found
        # Asked for what was not built in, the runtime warns and goes on with the rest: here the rest is chosen openly.
        chosen = [with_options(provider) for provider in providers if with_options(provider)[0] in available] or [(CPU, {})]
        before = threads_here()
        try:
            self._session = onnxruntime.InferenceSession(str(path), session_options(self.threads), providers=chosen)
        except Exception as error:  # onnxruntime's exceptions share no public base
            raise ScorerRefused(f"onnxruntime does not load {path.name}: {error}") from error
        self.provider: str = self._session.get_providers()[0]
        if required_provider is not None and self.provider != required_provider:
            raise GpuRequired(f"{required_provider} is required, and {self.provider} would run {path.name} (asked for {', '.join(wanted)})")
        if self.provider == CPU:  # the threads beside a GPU's runs are what feeds it
            give_way(threads_here() - before)
        self.outputs = _checked_outputs(path.name, self._session)
        self.at_once = 2 if self.provider == CUDA else 1
        self.beside: ScorerSession | None = None

    def run(self, items: Sequence[TokenRow]) -> list[Row]:
        """Returns one row per item, in order: output name -> read-only float32 array without the leading axis.

        Rows are views of the batch's arrays; what must outlive the batch for long is copied by its keeper.

        Raises:
            FloatingPointError: an output has a NaN; no item was scored.
            Exception: what onnxruntime raised; no item was scored.
        """
        return rows_of(self.outputs, self.run_arrays(items))

    def run_arrays(self, items: Sequence[TokenRow]) -> list[NDArray[np.float32]]:
        """Returns the outputs, `[N, ...]` each, in the order of `outputs`; raises as `run`."""
        return checked(self.outputs, self._session.run(list(self.outputs), pad(items)), len(items))


def rows_of(outputs: Sequence[str], arrays: Sequence[NDArray[np.float32]]) -> list[Row]:
    """Returns a batch's outputs `[N, ...]` row by row, as views."""
    return [dict(zip(outputs, rows, strict=True)) for rows in zip(*arrays, strict=True)]


def checked(outputs: Sequence[str], arrays: list[NDArray[np.float32]], texts: int) -> list[NDArray[np.float32]]:
    """Returns a batch's outputs `[N, ...]`, which are read-only from here on.

    Raises:
        FloatingPointError: an output has a NaN.
    """
    for name, array in zip(outputs, arrays, strict=True):
        if np.isnan(array).any():
            raise FloatingPointError(f"{name} has {np.isnan(array).sum()} NaN among {array.size} values for {texts} texts")
        array.flags.writeable = False
    return arrays


def with_options(provider: str | tuple[str, Mapping[str, str]]) -> tuple[str, dict[str, str]]:
    """Returns a provider with its options: its own if it brings them, else the ones that keep scores exact."""
    if isinstance(provider, str):
        return provider, dict(CUDA_OPTIONS) if provider == CUDA else {}
    return provider[0], dict(provider[1])


def session_options(threads: int) -> Any:
    """Returns options for one session that shares its cores with an event loop and sees a new shape in every batch."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    # Threads that spin between operators gain 4 % on two idle cores and lose a third on cores that others use as well (the event
    # loop, a local member's generation); 50 microseconds keep most of the one and none of the other.
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    options.add_session_config_entry("session.intra_op.spin_duration_us", "50")
    options.add_session_config_entry("session.force_spinning_stop", "1")
    for name, value in int8_session_entries().items():
        options.add_session_config_entry(name, value)
    # A memory pattern is kept per shape, without bound, and gains nothing when shapes hardly repeat.
    options.enable_mem_pattern = False
    options.log_severity_level = 3  # errors; warnings about node placement and initializers say nothing that an operator can act on
    return options


def installed_runtime() -> str:
    """Returns name and version of the one onnxruntime distribution, such as `onnxruntime 1.31.1`.

    Raises:
        ScorerRefused: none or several are installed.
    """
    found = []
    for name in DISTRIBUTIONS:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    if len(found) != 1:
        raise ScorerRefused(
            f"exactly one onnxruntime distribution must be installed, found {', '.join(found) or 'none'}; "
            "uninstall all of them and install one of the extras `cpu` and `gpu`"
        )
    return found[0]


def _checked_outputs(name: str, session: Any) -> tuple[str, ...]:
    inputs = {node.name: node.type for node in session.get_inputs()}
    if inputs != dict.fromkeys(INPUTS, "tensor(int64)"):
        raise ScorerRefused(f"{name} has inputs {inputs}, a scorer has {', '.join(INPUTS)}, all tensor(int64)")
    outputs = {node.name: node.type for node in session.get_outputs()}
    if not outputs or set(outputs.values()) != {"tensor(float)"}:
        raise ScorerRefused(f"{name} has outputs {outputs}, a scorer's are all tensor(float)")
    return tuple(outputs)
