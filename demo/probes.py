"""The texts by which a server checks that it scores as training did: what `attune bundle demo` packs as probes."""

from __future__ import annotations

import json
from pathlib import Path

from attune.models.data.probes import FILE
from attune.models.measuring.report_files import write_text
from demo.corpus.texts import prompts

RESPONSES = (
    "Yes.",
    "Take the train; it is quicker and you see more.",
    "",
    "First, whisk the eggs. Then fold in the flour. " * 8,
    "Perhaps, though I would ask a doctor first.",
    "¡Claro! Crêpes, naïveté, 東京, Ελλάδα, und so weiter 🙂",
    "",
    "Absolutely. Do it today!",
)
"""Ordinary, empty (the prompt's own row), long, and not ASCII."""


def write_probes(demo: Path) -> None:
    """Writes 16 prompts with a response each into the folder of the demo."""
    asked = [prompt.text for prompt in prompts("test", 0)[:6]]
    lines = [{"prompt": asked[index % len(asked)], "response": response} for index, response in enumerate(RESPONSES * 2)]
    write_text(demo / FILE, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
