"""What is kept beside a comparison's evidence, for export and for a later replay: a small JSON object, packed.

The compressor's dictionary holds what most payloads have in common, and two candidates of one decision are 17 bytes.
"""

from __future__ import annotations

import uuid
import zlib
from collections.abc import Mapping
from typing import Any, cast

import orjson

from attune.service.ids import candidate_id, split_candidate

PAYLOAD_WORDS = (
    b'"],"tie":true,"prompt":null,"context":null,"chosen_text":null,"rejected_text":null,"predicted":{"bradley_terry":0.'
    b'null,"rejected":null,"decisions":[],"members":null,"tie":false,"prompt":"","context":null,"chosen_text":"","rejected_text":"'
    b'{"chosen":"0123456789abcdef-019","rejected":"019","decisions":["019"],"members":["concise","detailed"],"tie":false,"prompt":null,'
    b'"context":null,"chosen_text":null,"rejected_text":null,"predicted":{"bradley_terry":0.5,"micro":0.5,"vrf":0.5,"attributes":0.5,'
    b'"sparse_moe":0.5,"additive":0.5,"sparserm":0.5}}'
)
"""What most payloads have in common: the compressor's dictionary, which is part of their format."""

CANDIDATES = 15
"""Two numbers below this fit a byte that is not zero; a decision with more candidates keeps its ids in words."""

_NO_IDS = b"\0"
_IDS = ("chosen", "rejected", "decisions")


def pack_payload(content: Mapping[str, object]) -> bytes:
    """Returns what is kept beside a comparison's evidence, packed; `read_payload` is its inverse.

    Two candidates of one decision are 17 bytes before the rest, and a zero byte stands there for all other comparisons.
    """
    ids, rest = _packed_ids(content), dict(content)
    if ids != _NO_IDS:
        for name in _IDS:
            del rest[name]
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, zdict=PAYLOAD_WORDS)
    return ids + packer.compress(orjson.dumps(rest)) + packer.flush()


def read_payload(payload: bytes) -> dict[str, object]:
    """Returns what was kept beside a comparison's evidence."""
    if not payload:
        return {}
    ids, packed = (payload[:17], payload[17:]) if payload[:1] != _NO_IDS else (b"", payload[1:])
    unpacked = zlib.decompressobj(-zlib.MAX_WBITS, zdict=PAYLOAD_WORDS)
    found: dict[str, object] = orjson.loads(unpacked.decompress(packed) + unpacked.flush())
    if not ids:
        return found
    decision = str(uuid.UUID(bytes=ids[1:]))
    first, second = divmod(ids[0] - 1, CANDIDATES)
    return _named(decision, first, second) | found


def _named(decision: str, first: int, second: int) -> dict[str, object]:
    return {"chosen": candidate_id(decision, first), "rejected": candidate_id(decision, second), "decisions": [decision]}


def _packed_ids(content: Mapping[str, object]) -> bytes:
    """Returns both candidates' numbers in a byte and their decision in sixteen; a zero byte where they are not of one decision."""
    chosen, rejected = (split_candidate(str(content.get(name))) for name in ("chosen", "rejected"))
    if chosen is None or rejected is None or chosen[0] != rejected[0] or max(chosen[1], rejected[1]) >= CANDIDATES:
        return _NO_IDS
    if _named(*chosen, rejected[1]) != {**{name: content[name] for name in _IDS}, "decisions": list(cast("Any", content["decisions"]))}:
        return _NO_IDS  # in another spelling, which is kept as it came
    return bytes([1 + CANDIDATES * chosen[1] + rejected[1]]) + uuid.UUID(chosen[0]).bytes
