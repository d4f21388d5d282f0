"""Probe texts of a bundle: what the service answers before it is ready, to be held against what the training framework answered.

Drawn from the data that the heads were trained on, so that they look like what will be asked, and kept beside the heads as
`probes.jsonl`, one `{"prompt", "response"}` a line; an empty response stands for the prompt alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from attune.models.data.preferences import Texts
from attune.models.seam.counts import counted

FILE = "probes.jsonl"
Pairs = list[tuple[str, str]]

ORDINARY: Pairs = [
    ("How do I boil an egg?", "Put it in boiling water for seven minutes, then cool it under the tap."),
    ("How do I boil an egg?", ""),
    ("What should I read next?", "Perhaps something short. What did you like best so far?"),
    ("Plan a weekend by the sea. " * 12, "Take the early train. Then walk along the beach and eat where the fishermen do. " * 12),
]
"""Where a folder brings no probes of its own."""

ODD: Pairs = [
    ("Wie heißt die Hauptstadt? 東京 Ποια είναι;", "¡Claro! Crêpes, naïveté, 日本語, Ελλάδα, und so weiter 🙂"),
    ("ok", "."),
    ("Summarise this. " * 100, ""),
]
"""Beside all others: other scripts, next to nothing, and more than small trunks read."""


class ProbesInvalid(ValueError):
    """`probes.jsonl` does not hold a prompt and a response a line; the message names the line."""


def draw_probes(texts: Texts, seed: int, *, candidates: int = 10, prompts: int = 3) -> Pairs:
    """Returns candidates of different length, prompts alone, and the odd ones; as many as there are, where there are few."""
    rng = np.random.default_rng(seed)
    order = sorted(range(len(texts.candidates)), key=lambda index: len(texts.candidates[index][1]))
    places = np.unique(np.linspace(0, len(order) - 1, min(candidates, len(order))).round().astype(int))
    chosen: Pairs = [texts.candidates[order[place]] for place in places]
    asked = rng.permutation(len(texts.prompts))[:prompts]
    return [*chosen, *((texts.prompts[index][0], "") for index in asked), *ODD]


def write_probes(folder: Path, pairs: Sequence[tuple[str, str]]) -> None:
    """Writes `probes.jsonl` into `folder`, made if absent."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"prompt": prompt, "response": response}, ensure_ascii=False) for prompt, response in pairs]
    (folder / FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_probes(folder: Path) -> Pairs:
    """Returns the probes of a folder of families, or ordinary ones where it brings none.

    Raises:
        ProbesInvalid: a line is not a prompt and a response, or there are fewer than two.
    """
    path = folder / FILE
    if not path.is_file():
        return [*ORDINARY, *ODD]
    pairs: Pairs = []
    for number, line in enumerate(path.read_text(encoding="utf-8").removesuffix("\n").split("\n"), start=1):
        try:
            row = json.loads(line)
            prompt, response = row["prompt"], row["response"]
        except (KeyError, RecursionError, TypeError, ValueError) as error:
            raise ProbesInvalid(f"{path}, line {number}: a prompt and a response are needed ({error!r})") from error
        if not isinstance(prompt, str) or not isinstance(response, str):
            raise ProbesInvalid(f"{path}, line {number}: prompt and response are texts")
        pairs.append((prompt, response))
    if len(pairs) < 2:
        raise ProbesInvalid(f"{path} has {counted(len(pairs), 'probe')}; two or more are needed")
    return pairs
