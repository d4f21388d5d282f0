"""Packing the demo: committed heads + the trunk from its package -> one bundle directory that the service loads.

What is committed is small (heads, portfolio, language model); the trunk is exported on the machine that serves. The basis
id depends on the weights and not on the exporter, so users survive an export elsewhere.
"""

from __future__ import annotations

import importlib.metadata
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from attune.models.data.trunk import Trunk, load_demo_trunk
from attune.models.export.onnx import ScorerGraph, export_scorer
from attune.models.export.precision import fused_fp16, row_scaled_int8, scorer_entry, tolerance
from attune.models.seam.bundle import Probes, basis_id, write_bundle
from attune.models.seam.families_file import write_families
from attune.models.seam.portfolio import read_portfolio
from attune.models.seam.text import Encoded
from attune.models.training.heads import Heads, TrainedFamily, load_heads, load_values

Precision = Literal["fp32", "fp16", "int8"]

PROBES = "probes.jsonl"


def pack_demo(root: Path, demo: Path, *, precision: Precision = "fp32", trunk: Trunk | None = None) -> Path:
    """Writes the demo bundle below `root` and returns its directory.

    Args:
        root: folder of bundles.
        demo: folder with `heads.json`, `heads.safetensors`, `values.safetensors`, `portfolio.json`, `provenance.json`,
            `roster.json`, `probes.jsonl` and `language_model/`.
        precision: of the trunk; heads are always fp32.
        trunk: the trunk that the heads were trained on; the demo's own if not given.

    Raises:
        TrunkUnavailable: the trunk's package is not installed.
        HeadsInvalid, PortfolioInvalid, ExportFailed, BundleInvalid: the parts do not fit; nothing is left behind.
    """
    trunk = trunk or load_demo_trunk()
    trained, default = load_heads(demo)
    families_files = write_families([family.family for family in trained], default)
    graph = ScorerGraph(trunk, [*(family.heads for family in trained), load_values(demo)])
    texts = probe_texts(demo / PROBES)
    rows = encode_probes(trunk, texts)
    template = json.dumps(trunk.template.to_json(), sort_keys=True).encode()
    parts = {"trunk": trunk.sha256.encode(), "tokenizer": trunk.tokenizer_json, "template": template}
    basis = basis_id(parts | families_files | {"heads": _heads_bytes(trained)})
    with tempfile.TemporaryDirectory() as scratch:
        scorer = Path(scratch) / "scorer.onnx"
        worst = export_scorer(graph, rows, scorer)
        answers = graph.answers(rows)
        if precision != "fp32":
            twin = Path(scratch) / f"scorer-{precision}.onnx"
            write_twin(scorer, twin, precision, trunk)
            scorer = twin
        files: dict[str, bytes | Path] = {
            "scorer.onnx": scorer,
            "tokenizer.json": trunk.tokenizer_json,
            "portfolio.json": demo / "portfolio.json",
            "probes.npz": Probes(*texts, answers, tolerance(precision)).to_bytes(),
            **families_files,
            **_members(demo),
        }
        # Read once as the service will, so that a portfolio that does not fit these families is found here.
        _check_portfolio(demo, families_files)
        metadata = {
            "scorers": {precision: scorer_entry("scorer.onnx", precision, scorer, rows, answers)},
            "trunk": {"name": trunk.name, "sha256": trunk.sha256, "width": trunk.width, "layers": list(trunk.layers)},
            "export": {"difference_from_torch": worst, "versions": _versions()},
            "provenance": json.loads((demo / "provenance.json").read_text(encoding="utf-8")),
        }
        return write_bundle(root, "demo", files, basis=basis, template=trunk.template, metadata=metadata)


def write_twin(fp32: Path, target: Path, precision: Precision, trunk: Trunk) -> None:
    """Writes the fp32 graph's twin in another precision to `target`."""
    if precision == "int8":
        row_scaled_int8(fp32, target)
        return
    config: Any = trunk.model.config
    fused_fp16(fp32, target, config.model_type, config.num_attention_heads, config.hidden_size)


def probe_texts(file: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns the prompts and responses of a file with a `{"prompt": …, "response": …}` a line; an empty response is the prompt alone.

    Raises:
        OSError, ValueError: there is no such file, or a line is not like that.
    """
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return tuple(str(line["prompt"]) for line in lines), tuple(str(line["response"]) for line in lines)


def encode_probes(trunk: Trunk, texts: tuple[tuple[str, ...], tuple[str, ...]]) -> list[Encoded]:
    """Returns the rows of probe texts; an empty response stands for the prompt alone."""
    encoder = trunk.encoder
    pairs = zip(*texts, strict=True)
    return [encoder.candidates(prompt, [response])[0] if response else encoder.prompt(prompt) for prompt, response in pairs]


def _members(demo: Path) -> dict[str, Path]:
    files = [demo / "roster.json", *sorted(path for path in (demo / "language_model").rglob("*") if path.is_file())]
    return {path.relative_to(demo).as_posix(): path for path in files}


def _check_portfolio(demo: Path, families_files: Mapping[str, bytes]) -> None:
    from attune.models.seam.families_file import read_families  # noqa: PLC0415 - as the service does, for this check alone

    families, _ = read_families(families_files["families.json"], families_files["families.npz"])
    read_portfolio((demo / "portfolio.json").read_bytes(), families)


def _heads_bytes(trained: list[TrainedFamily]) -> bytes:
    parts: list[bytes] = []
    for family in trained:
        heads: Heads = family.heads
        for name, tensor in sorted(heads.state_dict().items()):
            parts += [f"{family.family.name}/{name} {tuple(tensor.shape)}".encode(), tensor.numpy().tobytes()]
    return b"".join(parts)


def _versions() -> dict[str, Any]:
    return {name: importlib.metadata.version(name) for name in ("torch", "transformers", "onnx", "onnxruntime", "numpy")}
