"""The demo's language model serves with every one of its adapters."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

pytest.importorskip("peft")

from attune.service.members.local import LocalEngine
from tests.members.asking import ask, collect

LANGUAGE_MODEL = Path(__file__).parents[2] / "demo" / "artefacts" / "language_model"


async def test_every_manner_of_the_demo_answers_in_its_own_words():
    if not (LANGUAGE_MODEL / "base" / "config.json").is_file():
        pytest.skip("demo/artefacts/language_model is not there: demo/build.sh makes it")
    adapters = {path.name: path for path in sorted((LANGUAGE_MODEL / "adapters").iterdir()) if path.is_dir()}
    engine = LocalEngine(LANGUAGE_MODEL / "base", adapters, threads=1)
    await asyncio.to_thread(engine.load)
    request = ask("How do I make tomato soup?", temperature=0.0, max_tokens=40)
    answers = await asyncio.gather(*(collect(engine.member(name, name), request) for name in adapters))
    await engine.aclose()
    assert len(adapters) >= 4
    assert len({text for text, _ in answers}) > 1
    assert all(text.strip() and "\ufffd" not in text for text, _ in answers)
