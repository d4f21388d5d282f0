"""The decision record: what was decided, from which distribution, and what learning needs later; kept as compact bytes.

    version (1 byte) + zlib( header length (4 bytes) + header (JSON) + float32 arrays: prompt outputs, then each candidate's )

Outputs of the scorer are kept as they came (float32), so that learning from a stored candidate and from its text give the same
evidence. Prompt and texts are there only if the deployment keeps texts; the prompt's digest always is.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import orjson
from numpy.typing import NDArray

from attune.models.seam.family import Row

VERSION = 1
Policy = Literal["sample", "best", "uniform", "learn", "forced"]


class RecordUnreadable(ValueError):
    """The bytes are not a decision record that this version reads."""


@dataclass(frozen=True, slots=True)
class CertifiedUser:
    """What is proved of the portfolio for a user, with `confidence`: the best member gives at least `ratio` of the best possible reward.

    `lower` and `upper` are that member's reward at least and any policy's at most, in the certificate's normalised rewards, for the
    user's weights over the heads of `family`. Of the user's taste, `stands_for` lies along the certificate's rewards, from 0.5 to 1.
    """

    ratio: float
    lower: float
    upper: float
    family: str
    confidence: float
    stands_for: float = 1.0


@dataclass(frozen=True, slots=True)
class StandIn:
    """A drawn member that did not serve, who did, and why."""

    wanted: str
    served: str
    reason: str


@dataclass(frozen=True, slots=True)
class PromptDraw:
    """Which of the offered prompts was drawn, and with which probabilities; the members' probabilities are conditional on it."""

    index: int
    propensity: float
    propensities: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Routing:
    """How the members were chosen; enough to evaluate other policies on the log, and to draw again.

    Attributes:
        policy: how the members were drawn; `forced` where the caller named the member.
        seed: of the generator behind posterior samples and draw.
        epsilon, samples: constants of the distribution that was drawn from.
        members: drawn, in order; what was wanted, whoever served in the end.
        propensities: member -> probability of being drawn first.
        propensity: of the first member; None if it was forced, or if another one served in its place.
        joint: of all members in this order; None likewise.
        expected: member -> (mean, std) of its value for this user and prompt.
        fallback: why and by whom a drawn member was replaced; None if none was.
        costs: member -> what was taken off its value for price and latency, in reward; empty where costs are not weighed. `expected`
            and the distribution refer to what is left.
        certificate: what the portfolio's certificate says of this user; None if it says nothing.
        effects: member -> (mean, std) of the part of `expected` that is its own, beyond its texts; empty where nothing is said of it.
        prompt: the draw of the prompt, where several were offered.
        hysteresis, last: what another member had to be better by than the one that served last, and that one; None if that was not asked.
    """

    policy: Policy
    seed: int
    epsilon: float
    samples: int
    members: tuple[str, ...]
    propensities: Mapping[str, float]
    propensity: float | None
    joint: float | None
    expected: Mapping[str, tuple[float, float]]
    fallback: StandIn | None = None
    costs: Mapping[str, float] = field(default_factory=dict)
    certificate: CertifiedUser | None = None
    hysteresis: float | None = None
    last: str | None = None
    effects: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    prompt: PromptDraw | None = None


@dataclass(frozen=True, slots=True)
class KeptCandidate:
    """One answer as it was given: who wrote it, how it was scored for this user, and its scorer outputs.

    Until it is scored the scores are None and `outputs` is empty.
    """

    member: str
    text: str | None
    finish_reason: str
    score: float | None
    std: float | None
    prompt_tokens: int
    completion_tokens: int
    outputs: Row


@dataclass(frozen=True, slots=True)
class DecisionRecord:
    """One decision; `candidates` is empty until generation has ended, and stays so for `/route`.

    `prompt_outputs` is empty where nothing needed the prompt's row so far.
    """

    made_at_s: float
    bundle: str
    basis: str
    family: str
    personalization: str
    comparisons: int
    prompt: str | None
    context: str | None
    prompt_digest: str
    routing: Routing
    prompt_outputs: Row
    candidates: tuple[KeptCandidate, ...] = ()


def digest_of(prompt: str) -> str:
    """Returns a digest that tells whether two decisions answered the same prompt, 32 hexadecimal digits."""
    return hashlib.blake2b(prompt.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def keep(row: Row, names: Iterable[str]) -> Row:
    """Returns copies of the named outputs; a row as it comes from the scorer is a view that would hold its whole batch."""
    return {name: np.array(row[name], dtype=np.float32) for name in names}


def pack(record: DecisionRecord) -> bytes:
    """Returns the record as bytes; `unpack` is its inverse."""
    header = {
        **{name: getattr(record, name) for name in _PLAIN},
        "routing": record.routing,  # orjson writes dataclasses; `asdict` would copy every value first, a tenth of a chat's time
        "prompt_outputs": _shapes(record.prompt_outputs),
        "candidate_outputs": _shapes(record.candidates[0].outputs) if record.candidates else [],
        "candidates": [{name: getattr(candidate, name) for name in _CANDIDATE} for candidate in record.candidates],
    }
    encoded = orjson.dumps(header)
    rows = [record.prompt_outputs, *(candidate.outputs for candidate in record.candidates)]
    floats = b"".join(array.astype("<f4").tobytes() for row in rows for _, array in sorted(row.items()))
    body = struct.pack("<I", len(encoded)) + encoded + floats
    packer = zlib.compressobj(6, zlib.DEFLATED, *room_to_pack(len(body)))
    return bytes([VERSION]) + packer.compress(body) + packer.flush()


def room_to_pack(size: int) -> tuple[int, int]:
    """Returns zlib's window (as a power of 2) and memory for so many bytes: clearing those of long texts takes longer than packing few."""
    return (12, 5) if size <= 1 << 12 else (15, 8)


def unpack(content: bytes) -> DecisionRecord:
    """Returns the record that `pack` made.

    Raises:
        RecordUnreadable: another version, or damaged.
    """
    if content[:1] != bytes([VERSION]):
        raise RecordUnreadable(f"a decision record has version {content[:1].hex() or 'none'}; this version reads {VERSION}")
    try:
        body = zlib.decompress(content[1:])
        (size,) = struct.unpack_from("<I", body)
        header = orjson.loads(body[4 : 4 + size])
        floats = np.frombuffer(body, dtype="<f4", offset=4 + size).astype(np.float32)
        shapes = [header["prompt_outputs"], *([header["candidate_outputs"]] * len(header["candidates"]))]
        prompt, *rows = _split(floats, shapes)
        return DecisionRecord(
            **{name: header[name] for name in _PLAIN},
            routing=_routing(header["routing"]),
            prompt_outputs=prompt,
            candidates=tuple(KeptCandidate(**candidate, outputs=row) for candidate, row in zip(header["candidates"], rows, strict=True)),
        )
    except (zlib.error, struct.error, KeyError, TypeError, ValueError) as error:
        raise RecordUnreadable(f"a decision record of {len(content)} bytes is damaged: {type(error).__name__}") from error


_PLAIN = ("made_at_s", "bundle", "basis", "family", "personalization", "comparisons", "prompt", "context", "prompt_digest")
_CANDIDATE = ("member", "text", "finish_reason", "score", "std", "prompt_tokens", "completion_tokens")


def _shapes(row: Row) -> list[tuple[str, int]]:
    return [(name, int(array.size)) for name, array in sorted(row.items())]


def _split(floats: NDArray[np.float32], rows: Sequence[Sequence[tuple[str, int]]]) -> list[Row]:
    if floats.size != sum(size for shapes in rows for _, size in shapes):
        raise ValueError("the floats do not fit the header")
    found: list[Row] = []
    start = 0
    for shapes in rows:
        row = {}
        for name, size in shapes:
            row[name] = floats[start : start + size]
            start += size
        found.append(row)
    return found


def _routing(data: Mapping[str, Any]) -> Routing:
    expected = {member: (float(mean), float(std)) for member, (mean, std) in data["expected"].items()}
    drawn = data.get("prompt")
    told = {
        "prompt": PromptDraw(drawn["index"], drawn["propensity"], tuple(drawn["propensities"])) if drawn else None,
        "members": tuple(data["members"]),
        "expected": expected,
        "effects": {member: (float(mean), float(std)) for member, (mean, std) in data.get("effects", {}).items()},
        "fallback": StandIn(**data["fallback"]) if data.get("fallback") else None,
        "certificate": CertifiedUser(**data["certificate"]) if data.get("certificate") else None,
    }
    return Routing(**{**data, **told})
