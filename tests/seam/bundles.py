"""A bundle's contents for tests, written, forged and damaged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from attune.models.seam.bundle import Probes, write_bundle
from attune.models.seam.families_file import write_families
from attune.models.seam.portfolio import Portfolio, PortfolioMember, write_portfolio
from attune.models.seam.text import TextTemplate
from tests.seam import examples
from tests.seam.test_text import word_tokenizer

TEMPLATE = TextTemplate((0,), (1,), (1,), (1,), max_tokens=32, max_prompt_tokens=8, max_context_tokens=4)
METADATA: dict[str, Any] = {"trained_on": "nothing", "accuracy": {"vrf": 0.75}, "steps": [1, 2]}


def probes() -> Probes:
    answers = {"micro_rewards": np.arange(8, dtype=np.float32).reshape(2, 4), "micro_gate": np.zeros((2, 4), dtype=np.float32)}
    return Probes(("how?", "wieso ☃"), ("so", ""), answers, 1e-4)


def contents() -> dict[str, bytes | Path]:
    rng = np.random.default_rng(4)
    families = examples.families(rng)
    values = {family.name: rng.normal(size=(2, len(family.heads))) for family in families}
    members = tuple(PortfolioMember(name, "one", {"head0": 1.0}) for name in ("a", "b"))
    return {
        "scorer.onnx": b"a graph",
        "tokenizer.json": word_tokenizer().to_str().encode(),
        **write_families(families, "vrf"),
        "portfolio.json": write_portfolio(Portfolio(members, values, {name: np.abs(array) for name, array in values.items()}, None)),
        "probes.npz": probes().to_bytes(),
    }


def write(root: Path, *, name: str = "demo", basis: str = "b" * 12, metadata: dict[str, Any] | None = None, **files: bytes | Path) -> Path:
    """Writes the example bundle; `scorer__onnx` stands for the file `scorer.onnx`."""
    changed = contents() | {path.replace("__", "."): content for path, content in files.items()}
    return write_bundle(root, name, changed, basis=basis, template=TEMPLATE, metadata=METADATA if metadata is None else metadata)


def forge(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Changes a manifest and signs it again, as a writer with a fault would."""
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["id"]
    change(manifest)
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()[:12]
    (path / "manifest.json").write_text(json.dumps({"id": f"{manifest.get('name')}-{digest}", **manifest}))
    return path


def replace_file(path: Path, name: str, content: bytes) -> Path:
    """Changes or adds a file of a bundle and enters its hash."""
    (path / name).write_bytes(content)
    return forge(
        path, lambda manifest: manifest["files"].update({name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}})
    )
