"""What is kept beside a comparison's evidence is read back as it was, in few bytes where it is two candidates of one decision."""

from __future__ import annotations

from typing import Any

import pytest

from attune.service.ids import candidate_id, new_decision_id
from attune.service.usecases.forms_of_feedback import pack_payload, read_payload

ONE, TWO = new_decision_id(1.8e9), new_decision_id(1.8e9 + 1)
PLAIN: dict[str, Any] = {
    "chosen": candidate_id(ONE, 0),
    "rejected": candidate_id(ONE, 1),
    "decisions": [ONE],
    "members": ["concise", "detailed"],
    "tie": False,
    "prompt": None,
    "context": None,
    "chosen_text": None,
    "rejected_text": None,
    "predicted": {"bradley_terry": 0.5012, "micro": 0.7311, "vrf": 0.25, "additive": 0.9},
}


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"chosen": candidate_id(ONE, 14), "rejected": candidate_id(ONE, 3)},
        {"chosen": candidate_id(ONE, 15)},
        {"rejected": candidate_id(TWO, 1), "decisions": [ONE, TWO]},
        {"chosen": candidate_id(ONE, 0).upper()},
        {"chosen": None, "rejected": None, "decisions": []},
        {"prompt": "how do i boil an egg ?", "chosen_text": "ünïcode ✓ " * 300, "tie": True},
    ],
)
def test_a_payload_is_read_back_as_it_was(changed: dict[str, Any]) -> None:
    assert read_payload(pack_payload(PLAIN | changed)) == PLAIN | changed


def test_a_payload_without_texts_is_small_and_none_is_nothing() -> None:
    assert len(pack_payload(PLAIN)) < 70
    assert len(pack_payload(PLAIN | {"rejected": candidate_id(TWO, 1), "decisions": [ONE, TWO]})) < 120
    assert read_payload(b"") == {}
