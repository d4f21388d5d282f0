"""What the tests of local members ask, and how they wait."""

from __future__ import annotations

import pytest

pytest.importorskip("peft")


from tests.members.asking import ask
from tests.members.tiny import ADAPTERS

PROMPTS = ["Hi", "Where should I travel in spring?", "A recipe for soup, please, with onions", "naïve café 🙂 " * 3]


def requests():
    """Sixteen requests that differ in prompt, length, temperature, nucleus and seed."""
    return [
        ask(PROMPTS[i % 4], seed=i, max_tokens=5 + 2 * i, temperature=(0.0, 0.7, 1.0, 1.5)[i % 4], top_p=(1.0, 0.9, 0.5)[i % 3])
        for i in range(16)
    ]


def members_of(engine):
    return [*(engine.member(name, name) for name in ADAPTERS), engine.member("base")]


async def settled(engine):
    """Returns how busy the engine is once its worker has seen everything that was done before."""
    member = next(iter(members_of(engine)))
    await member.check()
    await member.check()  # the first may be answered from the middle of a round
    return engine.load_now()
