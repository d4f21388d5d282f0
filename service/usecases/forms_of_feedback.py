"""What each form of feedback says, as weighted comparisons of the answers that it names, and as it is kept in the log.

    Preferred, Graded or Ranked + rows of the answers ─> models.seam.weighted ─> comparisons
                                                     └─> content of the log ─> payload ─> export, and `logged` for a replay

One answer alone is compared with the mean of what the members give for that prompt, as far as is known at this moment. A payload is a
small JSON object, packed: the compressor's dictionary holds what most have in common, and two candidates of one decision are 17 bytes.
"""

from __future__ import annotations

import uuid
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import orjson

from attune.models.seam import weighted
from attune.models.seam.family import Row
from attune.models.seam.member_values import POOLED
from attune.models.seam.weighted import IMPLICIT, Compared, How
from attune.service.errors import FieldError, invalid
from attune.service.ids import candidate_id, split_candidate
from attune.service.live.runtime import Call
from attune.service.usecases.authors import code_of_usual, codes_of, read_standing
from attune.service.usecases.decision_record import room_to_pack
from attune.service.usecases.named_answers import ById, EditedFrom, FoundAnswers, Named
from attune.service.usecases.text_scores import encode, submit


@dataclass(frozen=True, slots=True)
class Preferred:
    """Of two answers the first was better, or with `tie` neither; `how` says what the user did where nobody had asked."""

    tie: bool = False
    how: How | None = None


@dataclass(frozen=True, slots=True)
class Graded:
    """One answer was worth `rating`, from 0 to 1."""

    rating: float


@dataclass(frozen=True, slots=True)
class Ranked:
    """The answers were named best first."""


Form = Preferred | Graded | Ranked


@dataclass(frozen=True, slots=True)
class LoggedForm:
    """A form as the log has it, with the texts of its answers."""

    form: Form
    prompt: str
    context: str | None
    texts: tuple[str, ...]
    authors: tuple[str, ...] | None = None


async def comparisons_of(
    call: Call, form: Form, rows: Sequence[Row], prompt: Row, texts: tuple[str | None, str | None], authors: Sequence[str] | None
) -> tuple[Compared, ...]:
    """Returns what a form says.

    Args:
        call: the request.
        form: the kind of feedback.
        rows: outputs of the answers, in the form's order.
        prompt: outputs of their prompt.
        texts: prompt and context, where they are known.
        authors: members that wrote the answers; None where that is not known.

    Raises:
        InvalidRequest: one answer was graded, and there are no members that it could be better or worse than.
    """
    codes = codes_of(call, authors)
    match form:
        case Preferred(tie, how):
            return weighted.pair(rows[0], rows[1], prompt, tie=tie, how=how, codes=codes)
        case Ranked():
            return weighted.ranked(rows, prompt, codes=codes)
        case Graded(rating):
            usual = await _usual(call, rows[0], prompt, *texts)
            return weighted.graded(rows[0], usual, prompt, rating, codes=None if codes is None else [*codes, code_of_usual(call)])


async def _usual(call: Call, answer: Row, prompt: Row, prompt_text: str | None, context: str | None) -> Row:
    bundle = call.serving.bundle
    if not bundle.portfolio.names:
        told = "has nothing to be compared with: this deployment has no members; send two answers, as `chosen_text` and `rejected_text`"
        raise invalid([FieldError("rating", told)])
    standing = await read_standing(call)
    if POOLED not in prompt and bundle.portfolio.heads and prompt_text is not None:  # a decision keeps no pooled vector
        prompt = (await submit(call, await encode(call, prompt_text, [], context=context, with_prompt=True)))[0]
    families = [bundle.families[name] for name in bundle.families.names]
    usual = {family.name: standing.values(family.name, prompt)[0].mean(axis=0) for family in families}
    answered = [bool(response) for response in bundle.probes.responses]
    further = weighted.further_with_rewards(families, {name: array[answered] for name, array in bundle.probes.answers.items()})
    return weighted.usual_answer(families, answer, usual, further)


# --- in the log ---------------------------------------------------------------------------------------------------


def content_of(form: Form, named: Named, found: FoundAnswers, comparisons: Sequence[Compared], *, texts: bool) -> dict[str, Any]:
    """Returns what the log keeps of a form, without texts where they are not kept; a pair has no `kind`."""
    ids: tuple[str | None, ...] = (None,) * len(found.rows)
    if isinstance(named, ById):
        ids = named.ids
    elif isinstance(named, EditedFrom):
        ids = (None, named.candidate)
    kept = found.texts if texts else (None,) * len(found.rows)
    about = {"prompt": found.prompt_text if texts else None, "context": found.context if texts else None}
    common: dict[str, Any] = {"decisions": found.decisions, "members": found.members}
    match form:
        case Preferred(tie, how):
            pair = {"chosen": ids[0], "rejected": ids[1], **common, "tie": tie, **about, "chosen_text": kept[0], "rejected_text": kept[1]}
            return pair if how is None else {"kind": "kept", "how": how, "weight": IMPLICIT[how], **pair}
        case Graded(rating):
            return {"kind": "rating", "rating": rating, "candidate": ids[0], **common, **about, "texts": kept}
        case Ranked():
            weights = [round(one.weight, 4) for one in comparisons]
            return {"kind": "ranking", "ranking": ids, "weights": weights, **common, **about, "texts": kept}


def logged(content: Mapping[str, Any]) -> LoggedForm | None:
    """Returns a form as `content_of` kept it; None where its texts were not kept, or the kind is of a later version."""
    kind, prompt, context = content.get("kind"), content.get("prompt"), content.get("context")
    kept = content.get("texts", ()) if kind in {"rating", "ranking"} else (content.get("chosen_text"), content.get("rejected_text"))
    texts = tuple(text for text in kept if isinstance(text, str))
    if not isinstance(prompt, str) or not texts or len(texts) < len(kept):
        return None
    form: Form
    match kind:
        case None:
            form = Preferred(tie=bool(content.get("tie")))
        case "kept" if content.get("how") in IMPLICIT:
            form = Preferred(how=content["how"])
        case "rating":
            form = Graded(float(content["rating"]))
        case "ranking":
            form = Ranked()
        case _:
            return None
    authors = content.get("members")
    known = isinstance(authors, list) and len(authors) == len(texts) and all(isinstance(author, str) for author in authors)
    return LoggedForm(form, prompt, context if isinstance(context, str) else None, texts, tuple(authors) if known and authors else None)


# --- packed -------------------------------------------------------------------------------------------------------

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


def pack_payload(told: Mapping[str, object]) -> bytes:
    """Returns what is kept beside a comparison's evidence, packed; `read_payload` is its inverse.

    Two candidates of one decision are 17 bytes before the rest, and a zero byte stands there for all other comparisons.
    """
    ids, rest = _packed_ids(told), dict(told)
    if ids != _NO_IDS:
        for name in _IDS:
            del rest[name]
    content = orjson.dumps(rest)
    window, memory = room_to_pack(len(content))
    packer = zlib.compressobj(9, zlib.DEFLATED, -window, memory, zdict=PAYLOAD_WORDS)
    return ids + packer.compress(content) + packer.flush()


class PayloadUnreadable(ValueError):
    """What was kept beside a comparison's evidence is damaged; the evidence need not be."""


def read_payload(payload: bytes) -> dict[str, object]:
    """Returns what was kept beside a comparison's evidence.

    Raises:
        PayloadUnreadable: it is damaged.
    """
    if not payload:
        return {}
    ids, packed = (payload[:17], payload[17:]) if payload[:1] != _NO_IDS else (b"", payload[1:])
    unpacked = zlib.decompressobj(-zlib.MAX_WBITS, zdict=PAYLOAD_WORDS)
    try:
        found: dict[str, object] = orjson.loads(unpacked.decompress(packed) + unpacked.flush())
        decision = str(uuid.UUID(bytes=ids[1:])) if ids else ""
    except (ValueError, zlib.error) as error:
        raise PayloadUnreadable(f"what was kept of a comparison, {len(payload)} bytes, is damaged: {type(error).__name__}") from error
    if not ids:
        return found
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
