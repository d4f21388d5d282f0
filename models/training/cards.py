"""Cards of heads, for people: the answers of the training data that a head rewards most and least.

`cards.json` beside the heads, `{family: {head: {"highest": [{prompt, response, reward}], "lowest": […]}}}`; it travels in the bundle, where
`explain` and `GET /bundle` show it. Texts are cut to a few hundred characters: a card is read, not scored.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attune.models.data.preferences import Texts
from attune.models.seam.bundle import CARDS
from attune.models.training.heads import TrainedFamily, compute_outputs

MOST_CHARS = 300

Card = dict[str, list[dict[str, Any]]]


def head_cards(trained: Sequence[TrainedFamily], texts: Texts, vectors: NDArray[np.float32], *, top: int = 3) -> dict[str, dict[str, Card]]:
    """Returns each head's highest and lowest answers, by family and head.

    Args:
        trained: whose heads.
        texts: the candidates to choose from; each response stands on a card once, however many prompts it answers.
        vectors: `[candidates, D + 1]` of theirs.
        top: answers at either end.
    """
    outputs = compute_outputs(trained, vectors)
    found: dict[str, dict[str, Card]] = {}
    for one in trained:
        rewards = outputs[f"{one.family.name}_rewards"]
        found[one.family.name] = {
            head: {
                "highest": _examples(texts, rewards[:, index], np.argsort(-rewards[:, index], kind="stable"), top),
                "lowest": _examples(texts, rewards[:, index], np.argsort(rewards[:, index], kind="stable"), top),
            }
            for index, head in enumerate(one.family.heads)
        }
    return found


def write_cards(folder: Path, trained: Sequence[TrainedFamily], texts: Texts, vectors: NDArray[np.float32], *, top: int = 3) -> None:
    """Writes `cards.json` into a folder of families; the arguments are those of `head_cards`."""
    cards = head_cards(trained, texts, vectors, top=top)
    (folder / CARDS).write_text(json.dumps(cards, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _examples(texts: Texts, rewards: NDArray[np.float32], order: NDArray[np.int64], top: int) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for row in order.tolist():
        if len(found) == top:
            break
        prompt, response = texts.candidates[row]
        found.setdefault(response, {"prompt": _cut(prompt), "response": _cut(response), "reward": round(float(rewards[row]), 4)})
    return list(found.values())


def _cut(text: str) -> str:
    return text if len(text) <= MOST_CHARS else text[: MOST_CHARS - 1] + "…"
