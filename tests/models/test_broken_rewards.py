"""Rewards of somebody else that cannot score: told in a sentence, before an answer is sampled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from attune.models.__main__ import app
from attune.models.alignment.base_answers import Rewards
from attune.models.portfolio.inputs import tried
from tests.models.tiny_causal import rewards

MODULE = """
import numpy as np
from attune.models.alignment.base_answers import Rewards

RAISES = Rewards(("a", "b"), lambda prompts, responses: 1 / 0)
WORDS = Rewards(("a", "b"), lambda prompts, responses: "good")
NOTHING = Rewards(("a", "b"), lambda prompts, responses: None)
WIDE = Rewards(("a", "b"), lambda prompts, responses: np.full((len(responses), 2), 7.0))
"""


@pytest.mark.parametrize(
    "command",
    [
        ["portfolio", "build", "--base", "none"],
        ["train", "member", "--base", "none", "--weights", "a=1"],
        ["measure", "members", "members", "--base", "none"],
    ],
)
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("RAISES", "the rewards cannot score 4 answers: ZeroDivisionError: division by zero"),
        ("WORDS", "the rewards cannot score 4 answers: ValueError: could not convert string to float: 'good'"),
        ("NOTHING", "scores are (); (4, 2) for ['a', 'b'] was expected"),
        ("WIDE", "rewards must be in [0, 1]; 'a' lies in [7, 7]: normalise them first"),
    ],
)
def test_rewards_that_cannot_score_are_refused_before_anything_is_sampled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str], name: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "somebodys_rewards.py").write_text(MODULE)
    (tmp_path / "members").mkdir()
    (tmp_path / "none").mkdir()  # a base that is not loaded: the rewards come first
    (tmp_path / "none" / "config.json").write_text("{}")
    (tmp_path / "prompts.txt").write_text("\n".join(f"prompt {number}" for number in range(200)))
    where = ["--rewards", f"somebodys_rewards:{name}", "--prompts", "prompts.txt", "--out", "out"]
    shown = CliRunner().invoke(app, [*command, *where])
    assert (shown.exit_code, said in shown.stderr) == (1, True), shown.output
    assert not (tmp_path / "out").exists()


def test_rewards_that_look_prompts_up_are_tried_on_those_of_the_file() -> None:
    known = {"one": 0.25, "two": 0.5}
    looked_up = Rewards(("a", "b"), lambda prompts, _responses: np.array([[known[prompt]] * 2 for prompt in prompts]))
    assert tried(looked_up, ["one", "two", "three"]) is looked_up
    assert tried(rewards(), ["one"]).names == rewards().names
