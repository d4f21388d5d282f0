"""The demo language model as committed: it loads as plain folders and its members answer in their manners."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

import attune
from demo.corpus.texts import MANNERS, all_prompts
from demo.language_model.judging import evaluate_language_model, generate_answers, render_report

FOLDER = Path(attune.__file__).parent / "demo" / "language_model"


@pytest.fixture(scope="module")
def reports():
    torch.manual_seed(0)
    return evaluate_language_model(FOLDER, seed=0, prompts_per_member=48)


def test_every_adapter_shows_its_own_manner_most(reports):
    print("\n" + render_report(reports, samples=1))  # noqa: T201  shown with -s
    own = {report.member: report.scores for report in reports if report.member != "base"}
    assert tuple(own) == MANNERS
    matrix = np.array(list(own.values()))
    for i, manner in enumerate(MANNERS):
        rivals = np.delete(matrix[:, i], i)
        assert matrix[i, i] > 0.85, manner
        assert matrix[i, i] > rivals.max() + 0.4, manner


def test_members_finish_their_answers_and_stay_on_the_subject(reports):
    for report in reports:
        assert report.ended > 0.85, report.member
        # An answer on another subject shares no three words in a row with the right one: by chance this would be near 0.
        # Measured: .67 (concise, whose 16 tokens have few chances) to .88.
        assert report.on_topic > (0.65 if report.member == "concise" else 0.7), report.member


def test_the_base_answers_in_a_mix_of_manners(reports):
    base = np.array(next(report.scores for report in reports if report.member == "base"))
    assert base.max() < 0.7
    assert (base > 0.05).sum() >= 4


def test_a_conversation_of_several_turns_is_answered_on_the_last_subject():
    tokenizer = AutoTokenizer.from_pretrained(FOLDER / "base", padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(FOLDER / "base")
    model = PeftModel.from_pretrained(model, FOLDER / "adapters" / "detailed").eval()
    messages = [
        {"role": "system", "content": "You are kind."},
        {"role": "user", "content": "What should I do in Kyoto?"},
        {"role": "assistant", "content": "See Fushimi Inari at dawn and stroll through Gion at dusk."},
        {"role": "user", "content": "How do I make hummus?"},
    ]
    torch.manual_seed(0)
    [(text, _, _)] = generate_answers(model, tokenizer, [messages], max_new_tokens=128, temperature=0.3)
    assert "chickpeas" in text
    assert "Kyoto" not in text


def test_the_committed_files_are_small_and_name_no_machine():
    files = [file for file in FOLDER.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 6.3e6
    for file in files:
        if file.suffix == ".json":
            assert not any(place in file.read_text(encoding="utf-8") for place in ("/work", "/tmp", "/root", "/home")), file


def test_prompts_of_the_report_were_held_out_from_training(reports):
    held_out = {prompt.text for prompt in all_prompts() if prompt.held_out}
    assert all(answer.prompt in held_out for report in reports for answer in report.answers)
