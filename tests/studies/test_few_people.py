"""Few people who are known and strangers beside them: nobody is on two sides, and what is planted is what is chosen by."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from attune.models.data.preferences import Comparisons
from attune.models.measuring.families.curves import Observed
from attune.models.seam.bradley_terry import NAME as EVERYBODY
from attune.models.training.learner import Predicted
from studies.few_people.known_people import EACH, TASTES, TOLD, parted, planted
from studies.few_people.run import ALL, COUNTS, SEEN, render_few, summarise

ENDS = ("Yes.", "I ask my friend?")
TEXTS = {topic: [f"{topic} {'word ' * (2 + 3 * number)}{ENDS[number % 2]}" for number in range(8)] for topic in ("a", "b")}


def test_known_people_judges_and_strangers_share_nobody_and_strangers_tell_before_they_are_asked():
    found = parted(Comparisons.from_records(planted(TEXTS, TASTES["opposed"], 30, 0)), 20)
    parts = found.train, found.validation, found.context, found.targets
    train, validation, context, targets = ({part.users[user] for user in part.user} for part in parts)
    assert (len(train), len(validation)) == (16, 4)
    assert not (train | validation) & context
    assert not train & validation
    assert context == targets == {f"p{number}" for number in range(20, 30)}
    assert set(np.bincount(found.context.user)[20:]) == {TOLD}
    assert set(np.bincount(found.targets.user)[20:]) == {EACH - TOLD}


@pytest.mark.parametrize(("world", "person", "taste"), [("opposed", 0, 0), ("opposed", 1, 1), ("three", 4, 1), ("three", 5, 2)])
def test_people_mostly_choose_by_the_taste_that_was_planted(world, person, taste):
    likes = TASTES[world][taste]
    mine = [one for one in planted(TEXTS, TASTES[world], 6, 1) if one.user == f"p{person}"]
    gaps = np.array([likes(one.chosen) - likes(one.rejected) for one in mine])
    assert len(mine) == EACH
    assert np.mean(gaps[gaps != 0] > 0) > 0.75


def test_a_report_says_what_all_features_gain_over_the_directions_seen():
    def said(share: float) -> list[list[Predicted]]:
        right = np.array([0.9] * round(share * 10) + [0.1] * (10 - round(share * 10)))
        return [[Predicted(right, np.zeros(10)) for _ in COUNTS] for _ in range(9)]

    users = tuple(f"p{number}" for number in range(9))
    found = summarise([Observed(COUNTS, users, {EVERYBODY: said(0.5), SEEN: said(0.6), ALL: said(0.8)}, 0)])
    assert found[ALL]["over_seen"][-1]["mean"] == pytest.approx(0.2)
    assert found[SEEN]["gain"][-1]["mean"] == pytest.approx(0.1)
    assert found[ALL]["nll_less_seen"][0]["mean"] == pytest.approx(0.2 * np.log(0.1 / 0.9))
    chosen = [{ALL: "how texts are written", f"trust of {ALL}": 4.0}]
    results = {
        "attune": "x",
        "study": vars(SimpleNamespace(seeds=[1], strangers=9)),
        "counts": list(COUNTS),
        "worlds": {"opposed": {"40": {"learners": found, "chosen": chosen}}},
    }
    report = render_few(json.loads(json.dumps(results)))
    assert "+20.0 [" in report
    assert "- 40 known, axes from: how texts are written (trust 4.0)" in report
