"""The cards that ship with the demo: one for each head, and of the heads that are named after manners a true one."""

from __future__ import annotations

import json
from pathlib import Path

from attune.models.training.heads import load_heads
from demo.corpus.tastes import manner_scores
from demo.corpus.texts import MANNERS

ARTEFACTS = Path(__file__).parents[2] / "demo" / "artefacts"


def test_every_head_of_the_demo_has_a_card_whose_highest_answer_is_rewarded_more_than_its_lowest():
    cards = json.loads((ARTEFACTS / "cards.json").read_text(encoding="utf-8"))
    families = [one.family for one in load_heads(ARTEFACTS)[0]]
    assert {family: set(heads) for family, heads in cards.items()} == {one.name: set(one.heads) for one in families}
    for heads in cards.values():
        for card in heads.values():
            assert card["highest"][0]["reward"] > card["lowest"][0]["reward"]


def test_the_card_of_a_manner_shows_an_answer_in_that_manner_and_one_that_is_not():
    cards = json.loads((ARTEFACTS / "cards.json").read_text(encoding="utf-8"))["attributes"]
    for place, manner in enumerate(MANNERS):
        highest, lowest = (manner_scores(cards[manner][end][0]["response"])[place] for end in ("highest", "lowest"))
        assert highest > lowest, manner
