"""The texts of many pieces of feedback, scored together before each is learned: sorted by length over all of them, and each once.

Whoever learns a piece finds its rows remembered. Nothing depends on that: what fails here, or is forgotten meanwhile, is scored by the one
whose turn comes, and told there. One submission may be large: its later turns yield to requests that come after it (`BatchQueue`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from attune.models.seam.member_values import POOLED
from attune.models.seam.text import Encoded
from attune.service.live.runtime import Call
from attune.service.observe.logs import get_logger
from attune.service.usecases.text_scores import encode, submit

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class JudgedTexts:
    """Answers to one prompt, as feedback tells them."""

    prompt: str
    context: str | None
    answers: tuple[str, ...]


async def read_ahead(call: Call, told: Sequence[JudgedTexts]) -> None:
    """Returns once the rows of these answers and prompts are remembered, or cannot be had now."""
    serving = call.serving
    answers: dict[Encoded, None] = {}
    prompts: dict[Encoded, None] = {}
    try:
        for each in told:
            *rows, own = await encode(call, each.prompt, each.answers, context=each.context, with_prompt=True)
            answers.update((row, None) for row in rows if serving.judged.get(row) is None)
            if serving.prompts.get(own) is None:
                prompts[own] = None
        texts = [*answers, *prompts]
        found = await submit(call, texts) if texts else []
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told by the piece that it is about
        _log.debug("texts are not scored ahead", reason=type(error).__name__)
        return
    for text, row in zip(texts, found, strict=True):
        if text in answers:
            serving.judged.put(text, row, serving.candidate_outputs)
        else:
            serving.prompts.put(text, row, (*serving.prompt_outputs, POOLED))
