"""The guard against reward hacking and the choice of pairs, on texts small enough to count by hand; and the command for vLLM."""

from __future__ import annotations

import json
import shlex

import numpy as np
import pytest

from attune.models.alignment.adapter_fit import AdapterMisfit
from attune.models.alignment.base_answers import Answers
from attune.models.alignment.causal import Answer, Statistics
from attune.models.alignment.dpo import training_order
from attune.models.alignment.guard import GuardLimits, health, ratios, violations
from attune.models.alignment.pairs import PairsMissing, choose_pairs
from attune.models.alignment.vllm import plan_vllm
from attune.service.members.roster_file import parse_roster
from attune.service.members.spec import OpenAISpec
from tests.models.tiny_causal import write_lora, write_model

WORDS = tuple("abcdefghijklmnopqrs")


def said(text, end=2):
    return Answer(text, tuple(range(len(text.split()))), end)


def judged(answers, nll=1.0):
    tokens = np.array([len(answer.all_ids) for answer in answers], dtype=float)
    return Statistics(tokens, nll * tokens, nll * tokens, 0 * tokens)


def healthy(texts, nll=1.0, end=2):
    answers = [said(text, end) for text in texts]
    return health(answers, judged(answers, nll))


def plain(count=20, seed=0):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.permutation(WORDS)[:10]) for _ in range(count)]


def test_figures_of_health_are_those_counted_by_hand():
    found = healthy(["a b a b a b", "c d"], nll=np.log(3))
    assert found.tokens == 4.0
    assert found.within == (2 / 5 + 1) / 2
    assert found.distinct_2 == 3 / 6  # ab ba ab ba ab, cd
    assert found.repetition == pytest.approx((1 / 3 + 0) / 2)  # abab baba abab: one of three occurred before
    assert found.base_perplexity == pytest.approx(3.0)
    assert (found.ended, found.blank) == (1.0, 0.0)


def test_distinct_pairs_at_a_smaller_size_are_the_mean_over_all_draws():
    found = healthy(["a b a b a b", "c d"])  # counts 3, 2, 1
    from itertools import combinations

    draws = [len(set(draw)) for draw in combinations([0, 0, 0, 1, 1, 2], 3)]
    # combinations of positions: repeated values are different positions
    assert found.distinct_2_at(3) == pytest.approx(np.mean(draws) / 3)
    assert found.distinct_2_at(6) == pytest.approx(found.distinct_2)
    assert found.distinct_2_at(10**9) == pytest.approx(found.distinct_2)


def test_a_member_like_its_base_passes():
    assert violations(healthy(plain()), healthy(plain(seed=1), nll=1.2), GuardLimits()) == []


@pytest.mark.parametrize(
    ("texts", "nll", "end", "complaint"),
    [
        (["yes"] * 20, 1.0, 2, r"0\.10 times as long; at least 0\.2"),
        ([" ".join(WORDS * 2)] * 20, 1.0, 2, r"times as long; at most 3"),
        (plain(), 2.0, 2, r"perplexity under the base is 2\.72 times its own; at most 2"),
        (plain(), np.nan, 2, r"perplexity under the base is nan"),
        ([plain()[0]] * 20, 1.0, 2, r"distinct-2 of all answers is 0\.\d\d of the base's"),
        (["na na na na na na na na na na"] * 20, 1.0, 2, r"of an answer repeats itself"),
        ([f"{word} na na na na na na na na na" for word in WORDS], 1.0, 2, r"distinct-2 within an answer is 0\.\d\d of the base's"),
        (plain(), 1.0, None, r"0\.00 times as many answers end"),
        ([*plain(10), *[""] * 10], 1.0, 2, r"0\.500 of the answers are blank"),
    ],
)
def test_every_way_to_cheat_is_named_with_its_numbers(texts, nll, end, complaint):
    found = violations(healthy(plain()), healthy(texts, nll, end), GuardLimits())
    import re

    assert any(re.search(complaint, sentence) for sentence in found), found


def test_length_alone_changes_the_share_of_distinct_pairs_of_all_but_not_the_one_at_equal_size():
    short, long = healthy(plain(20)), healthy(plain(200, seed=1))
    found = ratios(short, long)
    assert found["distinct_2_of_all"] < 0.7
    assert found["diversity"] == pytest.approx(1.0, abs=0.05)
    assert found["distinct_2"] == 1.0


# --- pairs ----------------------------------------------------------------------------------------------------------


def test_pairs_are_the_best_and_the_worst_and_only_finished_answers_take_part():
    group = (said("good"), said("best", end=None), said("bad"), said("worst"), said(""))
    answers = Answers(("p", "q"), (group, group))
    rewards = np.array([[0.8, 0.9, 0.3, 0.1, 0.9], [0.5, 0.5, 0.5, 0.5, 0.5]])[..., None] * np.array([1.0, 0.0])
    pairs = choose_pairs(answers, rewards, np.array([1.0, 0.0]), per_prompt=2)
    assert [(pair.prompt, pair.chosen.text, pair.rejected.text) for pair in pairs] == [("p", "good", "worst"), ("p", "bad", "bad")][:1]
    assert pairs[0].margin == pytest.approx(0.7)


def test_the_pairs_follow_the_weights():
    answers = Answers(("p",), ((said("short"), said("sweet")),))
    rewards = np.array([[[1.0, 0.0], [0.0, 1.0]]])
    assert choose_pairs(answers, rewards, np.array([0.9, 0.1]))[0].chosen.text == "short"
    assert choose_pairs(answers, rewards, np.array([0.1, 0.9]))[0].chosen.text == "sweet"


def test_too_little_difference_is_an_error_with_numbers():
    answers = Answers(("p",), ((said("a"), said("b", end=None)),))
    with pytest.raises(PairsMissing, match=r"2 answers to 1 prompts differs by 0\.1.*differ by 0\.02.*50%"):
        choose_pairs(answers, np.array([[[0.5], [0.52]]]), np.array([1.0]), least_margin=0.1)


def test_training_sees_every_pair_once_an_epoch_in_batches_of_like_lengths():
    lengths = np.random.default_rng(0).integers(10, 100, size=101).tolist()
    order = training_order(lengths, batch=8, epochs=3, seed=0)
    assert sorted(order) == sorted([*range(101)] * 3)
    assert order == training_order(lengths, batch=8, epochs=3, seed=0) != training_order(lengths, batch=8, epochs=3, seed=1)
    padded = sum(8 * max(lengths[row] for row in order[start : start + 8]) for start in range(0, len(order), 8))
    assert padded < 1.25 * 3 * sum(lengths)


# --- vLLM -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    root = tmp_path_factory.mktemp("members")
    base = write_model(root / "base")
    return base, {name: write_lora(root / name, base, seed, rank=rank) for seed, (name, rank) in enumerate({"one": 4, "two": 12}.items())}


def test_the_vllm_command_and_the_roster_speak_of_the_same_members(members):
    base, adapters = members
    plan = plan_vllm(base, adapters, port=8123, base_member="plain", api_key_env="VLLM_API_KEY")
    words = shlex.split(plan.shell().replace("\\\n", " "))
    assert tuple(words) == plan.command
    assert words[:3] == ["vllm", "serve", str(base)]
    assert words[words.index("--max-lora-rank") + 1] == "16"  # the least that vLLM has kernels for and both fit in
    assert words[words.index("--lora-modules") + 1 :] == [f"{name}={folder}" for name, folder in adapters.items()]
    roster = parse_roster(json.loads(json.dumps(plan.members)))
    assert {name: (spec.base_url, spec.model) for name, spec in roster.items() if isinstance(spec, OpenAISpec)} == {
        name: ("http://127.0.0.1:8123/v1", name) for name in ("plain", "one", "two")
    }
    assert words[words.index("--served-model-name") + 1] == "plain"


def test_the_adapter_file_is_what_vllm_asks_for(members):
    _, adapters = members
    config = json.loads((adapters["one"] / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny"
    assert (config["peft_type"], config["bias"], config["use_dora"], config["modules_to_save"]) == ("LORA", "none", False, None)
    assert config["target_modules"] == sorted(config["target_modules"])
    assert not (adapters["one"] / "README.md").exists()


def test_vllm_is_not_told_of_an_adapter_that_it_could_not_load(members, tmp_path):
    base, adapters = members
    other = write_model(tmp_path / "other", hidden=64)
    with pytest.raises(AdapterMisfit, match=r"member 'one'.*has shape"):
        plan_vllm(other, adapters)
    config = adapters["two"] / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"r": 1000}))
    with pytest.raises(AdapterMisfit, match=r"'two'.*1000.*512"):
        plan_vllm(base, adapters)
    with pytest.raises(ValueError, match="no member"):
        plan_vllm(base, {})
