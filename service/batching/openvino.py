"""The scorer in OpenVINO's own runtime, for bf16 on processors that multiply it (AVX512-BF16, AMX): an optional engine for a CPU.

It compiles the bundle's fp32 graph itself, so no distribution of ONNX Runtime has to give way to another. Sums are rounded to bf16
between operators: a text moves by up to 0.025 between alone and in a batch, which the tolerance of its precision allows for.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from attune.command_line import how_to_install
from attune.models.seam.families import Row
from attune.models.seam.padding import INPUTS, TokenRow, pad
from attune.models.seam.precision import Precision
from attune.service.batching.session import GpuRequired, ScorerRefused, checked, rows_of
from attune.service.cores import usable_cores

HINTS = {"fp32": "f32", "bf16": "bf16"}


class OpenVinoScorer:
    """Owns one compiled graph; to be used from one thread at a time.

    Args:
        path: the bundle's fp32 graph.
        precision: fp32 or bf16.
        threads: by default `usable_cores()`.
        require_gpu: refused; this engine runs on the CPU.

    Attributes:
        provider: for reports, such as `OpenVINO bf16`.
        outputs: names of the graph's outputs.
        at_once: runs that may be under way together.
        beside: None, this engine runs every batch.

    Raises:
        ScorerRefused: OpenVINO is not installed, the processor has no bf16, or the graph cannot be compiled.
    """

    def __init__(self, path: Path, precision: Precision, *, threads: int | None = None, require_gpu: bool = False) -> None:
        if require_gpu:
            raise GpuRequired(f"precision {precision} runs in OpenVINO on the CPU, and a GPU is required")
        try:
            import openvino  # noqa: PLC0415 - an optional extra
        except ImportError as error:
            raise ScorerRefused(f"precision {precision} needs OpenVINO: {how_to_install('openvino')}") from error
        core = openvino.Core()
        able = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if precision == "bf16" and "BF16" not in able:
            raise ScorerRefused(f"this processor does not multiply bf16 (it has {', '.join(able)}); fp32 or int8 would serve")
        options = {
            "INFERENCE_PRECISION_HINT": HINTS[precision],
            "INFERENCE_NUM_THREADS": usable_cores() if threads is None else threads,
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
        }
        try:
            compiled = core.compile_model(str(path), "CPU", options)
        except RuntimeError as error:
            raise ScorerRefused(f"OpenVINO does not compile {path.name}: {error}") from error
        inputs = sorted(node.get_any_name() for node in compiled.inputs)
        if inputs != sorted(INPUTS):
            raise ScorerRefused(f"{path.name} has inputs {', '.join(inputs)}; a scorer has {', '.join(INPUTS)}")
        self._request = compiled.create_infer_request()
        self.outputs = tuple(node.get_any_name() for node in compiled.outputs)
        self.provider = f"OpenVINO {precision}"
        self.at_once = 1
        self.beside = None

    def run(self, items: Sequence[TokenRow]) -> list[Row]:
        """Returns one row per item, in order, as `ScorerSession.run` does.

        Raises:
            FloatingPointError: an output has a NaN; no item was scored.
            Exception: what OpenVINO raised; no item was scored.
        """
        return rows_of(self.outputs, self.run_arrays(items))

    def run_arrays(self, items: Sequence[TokenRow]) -> list[NDArray[np.float32]]:
        """Returns the outputs, `[N, ...]` each, in the order of `outputs`; raises as `run`."""
        found = self._request.infer(pad(items))
        # Copied: the request's own memory is written again by the next batch.
        arrays = [np.array(found[index], dtype=np.float32) for index in range(len(self.outputs))]
        return checked(self.outputs, arrays, len(items))
