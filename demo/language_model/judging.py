"""Does the demo language model answer fluently, on topic and in the manner asked for? Figures and samples.

    held-out phrasings ─> base and each adapter ─> answers ─> manner_scores, ended, tokens, distinct-2 ─> report

Judges what the folders on disk generate, with the sampling that the service uses by default.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from demo.corpus.tastes import manner_scores
from demo.corpus.texts import MANNERS, all_prompts, topics
from demo.language_model.conversations import Message


@dataclass(frozen=True, slots=True)
class JudgedAnswer:
    """One generated answer: `ended` says that the model stopped by itself, `tokens` counts without the end token."""

    prompt: str
    topic: str
    text: str
    tokens: int
    ended: bool


@dataclass(frozen=True, slots=True)
class MemberReport:
    """Means over the answers of one member.

    `scores` are the six manner scores in the order of MANNERS, `ended` the share of answers that stopped by themselves,
    `on_topic` the share that hold at least three words in a row from the clauses of their own topic, `distinct_2` the
    share of distinct pairs of words among all pairs, `distinct_answers` the share of answers that occur once.
    """

    member: str
    scores: tuple[float, ...]
    ended: float
    on_topic: float
    tokens: float
    distinct_2: float
    distinct_answers: float
    answers: tuple[JudgedAnswer, ...]


def evaluate_language_model(folder: Path, seed: int, prompts_per_member: int = 60) -> tuple[MemberReport, ...]:
    """Returns a report for the base and for each adapter under `folder`, on phrasings that training never showed.

    Every member answers the same prompts, with the generation settings of the base, as it serves. The answers depend on `seed` and on
    the number of prompts.

    Raises:
        OSError: `folder` holds no model as `train_demo_language_model` writes it.
    """
    held_out = [prompt for prompt in all_prompts() if prompt.held_out]
    order = np.random.default_rng(seed).permutation(len(held_out))[:prompts_per_member]
    asked = [held_out[i] for i in order]
    tokenizer = AutoTokenizer.from_pretrained(folder / "base", padding_side="left")
    model: Any = AutoModelForCausalLM.from_pretrained(folder / "base")
    members = sorted(path.name for path in (folder / "adapters").iterdir())
    for manner in members:
        path = folder / "adapters" / manner
        if isinstance(model, PeftModel):
            model.load_adapter(path, manner)
        else:
            model = PeftModel.from_pretrained(model, path, manner)
    model.eval()
    conversations: list[list[Message]] = [[{"role": "user", "content": prompt.text}] for prompt in asked]
    reports = []
    for member in ("base", *(manner for manner in MANNERS if manner in members)):
        torch.manual_seed(seed)
        if member == "base":
            with model.disable_adapter():
                texts = generate_answers(model, tokenizer, conversations)
        else:
            model.set_adapter(member)
            model.merge_adapter()  # one product in place of three, at every layer and token
            texts = generate_answers(model, tokenizer, conversations)
            model.unmerge_adapter()
        answers = tuple(
            JudgedAnswer(prompt.text, prompt.topic, text, tokens, ended) for prompt, (text, tokens, ended) in zip(asked, texts, strict=True)
        )
        reports.append(_summarise(member, answers))
    return tuple(reports)


def generate_answers(
    model: Any, tokenizer: Any, conversations: Sequence[Sequence[Message]], **sampling: float
) -> list[tuple[str, int, bool]]:
    """Returns text, number of tokens and whether the model ended it, for each conversation, sampled in batches of 32."""
    found: list[tuple[str, int, bool]] = []
    for start in range(0, len(conversations), 32):
        part = [list(messages) for messages in conversations[start : start + 32]]
        inputs = tokenizer.apply_chat_template(part, add_generation_prompt=True, padding=True, return_dict=True, return_tensors="pt")
        with torch.inference_mode():
            output = model.generate(**inputs, do_sample=True, **sampling)
        for row in output[:, inputs["input_ids"].shape[1] :].tolist():
            ended = tokenizer.eos_token_id in row
            ids = row[: row.index(tokenizer.eos_token_id)] if ended else row
            found.append((tokenizer.decode(ids), len(ids), ended))
    return found


def render_report(reports: Sequence[MemberReport], samples: int = 3) -> str:
    """Returns the reports as a plain-text table, followed by a few samples of each member."""
    lines = ["member     " + "".join(f"{manner:>10}" for manner in MANNERS) + "     ended  on topic    tokens  distinct-2  distinct"]
    for report in reports:
        figures = (*report.scores, report.ended, report.on_topic)
        lines.append(
            f"{report.member:<11}"
            + "".join(f"{figure:>10.2f}" for figure in figures)
            + f"{report.tokens:>10.0f}{report.distinct_2:>12.2f}{report.distinct_answers:>10.2f}"
        )
    for i in range(samples):
        lines.append(f"\n> {reports[0].answers[i].prompt}")
        lines += [f"  {report.member}: {report.answers[i].text}" for report in reports]
    return "\n".join(lines)


def _summarise(member: str, answers: tuple[JudgedAnswer, ...]) -> MemberReport:
    pairs = [pair for answer in answers for pair in runs(answer.text, 2)]
    texts = [answer.text for answer in answers]
    return MemberReport(
        member=member,
        scores=tuple(float(score) for score in np.mean([manner_scores(text) for text in texts], axis=0)),
        ended=float(np.mean([answer.ended for answer in answers])),
        on_topic=float(np.mean([_on_topic(answer) for answer in answers])),
        tokens=float(np.mean([answer.tokens for answer in answers])),
        distinct_2=len(set(pairs)) / max(1, len(pairs)),
        distinct_answers=len(set(texts)) / len(texts),
        answers=answers,
    )


def _on_topic(answer: JudgedAnswer) -> bool:
    clauses = topics()[answer.topic].clauses
    known = {run for kind in clauses.values() for clause in kind for run in runs(clause, 3)}
    return not known.isdisjoint(runs(answer.text, 3))


def runs(text: str, length: int) -> list[tuple[str, ...]]:
    """Returns every `length` words in a row of `text`, without marks and capitals."""
    words = [word.strip(".,:!?").lower() for word in text.split()]
    return list(zip(*(words[i:] for i in range(length)), strict=False))
