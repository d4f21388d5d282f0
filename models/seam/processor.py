"""What this machine's processor can do, where a graph must be run otherwise for it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

VNNI = frozenset({"avx512_vnni", "avx_vnni"})


@cache
def int8_session_entries(root: Path = Path("/")) -> Mapping[str, str]:
    """Returns entries for an ONNX Runtime session's configuration with which sums of int8 products are exact, and fast where they can be.

    On a processor with AVX2 and without VNNI, pairs of products are added in 16 bits, which saturates in silence; with
    `session.x64quantprecision` ONNX Runtime takes another way, which is right and half as fast. It takes it wherever it is told to, so also
    where VNNI adds in 32 bits at once.

    Args:
        root: where `proc` is; another directory than `/` only to read a recorded machine. Without it, as outside Linux, no VNNI is assumed.
    """
    try:
        told = (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        told = ""
    flags = next((line for line in told.splitlines() if line.startswith("flags")), "").split()
    return {"session.x64quantprecision": "0" if VNNI & set(flags) else "1"}
