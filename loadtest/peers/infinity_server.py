"""A peer that embeds: infinity's own command, `infinity_server.py v2 --model-id FOLDER --engine optimum ...`, under today's torch.

Its engine imports an exporter that asks torch for functions of releases before 2.10. They are never called with anything of use here, since
the graph is there already (`infinity_model`), so a stand-in for whatever is missing will do; the torch of that time brings 3 GB of CUDA.
"""

from __future__ import annotations

from unittest.mock import MagicMock

from torch.onnx import symbolic_opset14


def missing(name: str) -> MagicMock:
    """Returns what takes the place of a function that torch no longer has."""
    if name.startswith("__"):
        raise AttributeError(name)
    return MagicMock()


vars(symbolic_opset14).setdefault("__getattr__", missing)

if __name__ == "__main__":
    from infinity_emb.cli import cli

    cli()
