"""The scorer's outputs of candidates that a decision keeps, and of their prompt; what is missing is computed from their texts.

It is missing where an answer was sent unscored, where nothing needed the prompt's row, and where another basis serves by now.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from attune.models.seam.family import Row
from attune.service.errors import ExpiredCandidate
from attune.service.live.runtime import Call
from attune.service.usecases.decision_record import DecisionRecord, KeptCandidate
from attune.service.usecases.scoring import encode, submit, submit_with_prompt


async def settled(call: Call, decisions: Iterable[str]) -> None:
    """Returns when none of these decisions has answers that this process is still to score; read a record after this."""
    await call.runtime.later.settled(decisions, call.left_s)


async def rows_of_kept(call: Call, kept: Sequence[tuple[DecisionRecord, KeptCandidate]]) -> tuple[tuple[Row, ...], Row]:
    """Returns the rows of these candidates, in their order, and the row of the prompt that all of them answer.

    Raises:
        ExpiredCandidate: rows are missing, and so are the texts to compute them from.
        Overloaded, DeadlineExceeded, ScorerFailed, NotReady: see `Batcher.submit`.
    """
    serving = call.serving
    rows = [_known(record, serving.bundle.basis, candidate.outputs, serving.candidate_outputs) for record, candidate in kept]
    prompts = (_known(record, serving.bundle.basis, record.prompt_outputs, serving.prompt_outputs) for record, _ in kept)
    prompt_row = next((row for row in prompts if row is not None), None)
    if None not in rows and prompt_row is not None:
        return tuple(row for row in rows if row is not None), prompt_row
    first, missing = kept[0][0], [candidate.text for (_, candidate), row in zip(kept, rows, strict=True) if row is None]
    texts = [text for text in missing if text is not None]
    if first.prompt is None or len(texts) < len(missing):
        basis = serving.bundle.basis
        made = "were sent before they were scored" if first.basis == basis else f"were made under basis {first.basis}, {basis} serves now"
        raise ExpiredCandidate(f"the candidates {made}, and no texts were kept; send them as texts")
    with_prompt = prompt_row is None
    encoded = await encode(call, first.prompt, texts, context=first.context, with_prompt=with_prompt)
    found = await (submit_with_prompt if with_prompt else submit)(call, encoded)
    if prompt_row is None:
        prompt_row = found.pop()
    computed = iter(found)
    return tuple(next(computed) if row is None else row for row in rows), prompt_row


def _known(record: DecisionRecord, basis: str, outputs: Row, wanted: Collection[str]) -> Row | None:
    """Returns what a record has of a row; None if it means something else under this basis, or is not whole."""
    return outputs if record.basis == basis and outputs.keys() >= set(wanted) else None
