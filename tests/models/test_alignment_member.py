"""A member from end to end on tiny models: it learns its own reward, survives a kill, and is refused when it cheats."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import attune
from attune.models.alignment.base_answers import Rewards, sample_answers
from attune.models.alignment.causal import BASE, load
from attune.models.alignment.dpo import DpoSettings, StepsTold, complete_checkpoints, train_dpo
from attune.models.alignment.guard import GuardLimits
from attune.models.alignment.pairs import choose_pairs
from attune.models.alignment.trained_member import (
    MemberConflict,
    MemberRefused,
    MemberSettings,
    Prompts,
    fingerprint,
    read_member,
    train_member,
)
from demo.corpus.tastes import manner_scores
from demo.corpus.texts import MANNERS, prompts
from tests.models.tiny_causal import PROMPTS, rewards, write_model
from tests.project.tree import ROOT

ASKED = Prompts(PROMPTS[:32], PROMPTS[32:40], PROMPTS[40:])
LAX = GuardLimits(0.0, 100.0, 100.0, 0.0, 0.0, 0.0, 1.0, 1.0)


def settings(**changes):
    dpo = DpoSettings(rank=4, alpha=8, learning_rate=1e-2, epochs=3, batch=16, checkpoints=3)
    return MemberSettings(answers=8, pairs=2, least_margin=0.0, dpo=dpo, limits=LAX, validation_answers=2, held_out_answers=8, **changes)


def trained(base, out, weights=(1.0, 0.0), told=None, **changes):
    say = None if told is None else told.append
    return train_member(base, rewards(), weights, out, ASKED, seed=0, settings=settings(**changes), base_name="tiny", progress=say)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A base and the folder and the lines of a member of it that was trained without a break."""
    folder = tmp_path_factory.mktemp("made")
    base = write_model(folder / "base", max_tokens=24)
    told: list[str] = []
    trained(base, folder / "member", told=told)
    return base, folder / "member", told


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen"])
def test_a_member_is_made_whatever_the_architecture_and_made_once(tmp_path, kind, made):
    if kind == "llama":
        base, told = made[0], list(made[2])
        shutil.copytree(made[1], tmp_path / "member")
        member = read_member(tmp_path / "member")
    else:
        base, told = write_model(tmp_path / "base", kind, max_tokens=24), []
        member = trained(base, tmp_path / "member", told=told)
    assert member.document["held_out"]["rewards"]["short"]["gain"] == pytest.approx(member.document["held_out"]["own"]["gain"])
    assert member.document["held_out"]["kl"] > 0
    assert member.document["curve"][-1]["loss"] < member.document["curve"][0]["loss"] == pytest.approx(np.log(2), abs=1e-3)
    assert member.document["curve"][-1]["margin"] > 0
    assert [look["step"] for look in member.document["checkpoints"]] == [12]  # the last is good: no need to look further back
    assert any(line.startswith("step 1 of 12") for line in told)
    assert [line for line in told if line.startswith("member: ")][-1].startswith("member: 64 of 64 answers")
    assert load(base, {"it": tmp_path / "member"}).members == ("it",)
    config = json.loads((tmp_path / "member" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny"
    assert sorted(path.name for path in (tmp_path / "member").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "member.json",
    ]
    told.clear()
    assert trained(base, tmp_path / "member", told=told).document == json.loads(json.dumps(member.document))
    assert told == []
    document = json.loads((tmp_path / "member" / "member.json").read_text())
    del document["arguments"]["settings"]["dpo"]["imitation"]  # as if made before there was such a setting
    (tmp_path / "member" / "member.json").write_text(json.dumps(document))
    assert trained(base, tmp_path / "member").step == 12
    with pytest.raises(MemberConflict, match=r"weights: .*1\.0.*0\.0.* there, .*0\.5"):
        trained(base, tmp_path / "member", weights=(0.5, 0.5))


def test_between_two_lines_with_figures_steps_are_told_by_time():
    now, told = [0.0], []
    said = StepsTold(told.append, clock=lambda: now[0])
    state = SimpleNamespace(global_step=100, max_steps=200)
    said.on_train_begin(None, state, None)
    for second, step in ((4.0, 101), (12.0, 102), (14.0, 103), (20.0, 104)):
        now[0], state.global_step = second, step
        said.on_step_end(None, state, None)
    said.on_log(None, state, None, logs={"loss": 0.5})
    now[0] = 25.0
    said.on_step_end(None, state, None)  # what was told with figures is not told again at once
    assert told == ["step 102 of 200, 9:48 left", "step 104 of 200: loss 0.500, 8:00 left"]


SCRIPT = """
import sys
from pathlib import Path
from tests.models.test_alignment_member import trained
class Told(list):
    def append(self, line):
        print(line, flush=True)
trained(Path(sys.argv[1]), Path(sys.argv[2]), told=Told())
"""


def test_a_killed_run_goes_on_and_ends_where_an_uninterrupted_one_does(tmp_path, made):
    base, uninterrupted, _ = made
    whole = read_member(uninterrupted)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(base), str(tmp_path / "cut")], stdout=subprocess.PIPE, text=True, env=environment
    ) as run:
        assert run.stdout is not None
        for line in run.stdout:
            if line.startswith("checkpoint 4"):
                run.send_signal(signal.SIGKILL)
                break
    work = tmp_path / "cut" / "work"
    reached = max(complete_checkpoints(work))
    assert 4 <= reached < 12
    (work / "checkpoint-11").mkdir()  # as if the process had died while it was writing another
    (work / "checkpoint-11" / "trainer_state.json").write_text('{"global_')
    told: list[str] = []
    resumed = trained(base, tmp_path / "cut", told=told)
    assert any(f"from step {reached}" in line for line in told)
    assert not any(line.startswith(f"step {reached} ") for line in told)
    one, other = (load_file(folder / "adapter_model.safetensors") for folder in (uninterrupted, tmp_path / "cut"))
    assert one.keys() == other.keys()
    assert all(torch.allclose(one[key].float(), other[key].float(), atol=2e-3) for key in one)
    assert resumed.document["held_out"]["own"]["gain"] == pytest.approx(whole.document["held_out"]["own"]["gain"], abs=1e-2)


def test_imitation_keeps_the_chosen_answers_likely(tmp_path, made):
    base = made[0]
    answers = sample_answers(load(base), BASE, PROMPTS[:24], 6, seed=0)
    pairs = choose_pairs(answers, answers.rewards(rewards()), np.array([1.0, 0.0]), least_margin=0.0)
    ends = {}
    for imitation in (0.0, 2.0):
        chosen = DpoSettings(rank=4, alpha=8, imitation=imitation, learning_rate=1e-2, epochs=4, batch=4, checkpoints=1)
        ends[imitation] = train_dpo(base, pairs, tmp_path / str(imitation), 0, chosen).curve[-1]
    assert ends[2.0]["chosen_logp"] > ends[0.0]["chosen_logp"] + 1.0
    assert ends[2.0]["margin"] > 0


def test_a_member_that_cheats_is_rolled_back_to_the_last_checkpoint_that_does_not(tmp_path, made):
    base = made[0]
    impossible = MemberSettings(**{**_fields(settings()), "limits": GuardLimits(**{**_fields(LAX), "least_length": 50.0})})
    with pytest.raises(MemberRefused, match="none of 3 checkpoints passes the guard") as refused:
        train_member(base, rewards(), (1.0, 0.0), tmp_path / "never", ASKED, seed=0, settings=impossible)
    assert not (tmp_path / "never" / "member.json").exists()
    told_lengths = re.findall(r"at step (\d+) answers are (\d+\.\d\d) times as long; at least 50", str(refused.value))
    (first, early), (last, late) = [(int(step), float(length)) for step, length in told_lengths]
    assert (first, last) == (4, 12)
    assert early != late
    between = (early + late) / 2
    limit = {"least_length": between} if early > late else {"most_length": between}
    told: list[str] = []
    shutil.copytree(tmp_path / "never" / "work", tmp_path / "kept" / "work")  # the limits judge a training and are no part of it
    (tmp_path / "kept" / "work" / "arguments.json").unlink()
    strict = MemberSettings(**{**_fields(settings()), "limits": GuardLimits(**{**_fields(LAX), **limit})})
    kept = train_member(base, rewards(), (1.0, 0.0), tmp_path / "kept", ASKED, seed=0, settings=strict, progress=told.append)
    looks = kept.document["checkpoints"]
    assert kept.step == looks[0]["step"] < last
    assert [bool(look["violations"]) for look in looks] == [False, *[True] * (len(looks) - 1)]
    assert [look["step"] for look in looks] == list(range(kept.step, last + 1, 4))
    assert any("rolled back" in line for line in told)


def test_the_demo_model_learns_to_please_by_five_standard_errors_and_stays_itself(tmp_path):
    base = shutil.copytree(Path(attune.__file__).parent / "demo" / "language_model" / "base", tmp_path / "base")
    sampling = base / "generation_config.json"
    sampling.write_text(json.dumps(json.loads(sampling.read_text()) | {"max_new_tokens": 48}))  # enough to show a manner
    playful = Rewards(MANNERS, lambda _prompts, responses: np.array([manner_scores(text) for text in responses]))
    sizes = {"train": 32, "validation": 4, "test": 24}
    asked = Prompts(*(tuple(prompt.text for prompt in prompts(part, 0)[:size]) for part, size in sizes.items()))
    lax = GuardLimits(least_diversity=0.2)  # one manner of six
    dpo = DpoSettings(imitation=1.0, learning_rate=6e-3, epochs=3, batch=4, checkpoints=1)
    chosen = MemberSettings(answers=6, temperature=0.8, pairs=2, dpo=dpo, limits=lax, held_out_answers=2)
    weights = np.eye(len(MANNERS))[MANNERS.index("playful")]
    member = train_member(base, playful, weights, tmp_path / "member", asked, seed=1, settings=chosen)
    found = member.document["held_out"]
    assert found["own"]["gain"] > 5 * found["own"]["se"]
    assert found["rewards"]["playful"]["gain"] == pytest.approx(found["own"]["gain"])
    assert found["ratios"]["perplexity"] < 2
    assert found["ratios"]["distinct_2"] > 0.8
    assert 0.3 < found["kl"] < 15


STORIES = ROOT.parent / "shared" / "data" / "stories260k" / "hf"


@pytest.mark.skipif(not STORIES.is_dir(), reason="stories260k is not distributed with this project")
def test_a_public_model_without_template_and_padding_is_aligned_too(tmp_path):
    exclaiming = Rewards(
        ("loud", "quiet"), lambda _p, r: np.array([[min(1.0, text.count("!") / 4), 1 - min(1.0, text.count("!") / 4)] for text in r])
    )
    dpo = DpoSettings(learning_rate=3e-3, epochs=2, batch=16, checkpoints=1)
    chosen = MemberSettings(answers=4, only_ended=False, dpo=dpo, limits=LAX, held_out_answers=8)
    asked = Prompts(*(tuple(f"Once there was a {kind} {noun}" for noun in nouns) for kind, nouns in _STORIES.items()))
    member = train_member(STORIES, exclaiming, (1.0, 0.0), tmp_path, asked, seed=0, settings=chosen)
    found = member.document["held_out"]
    assert found["own"]["gain"] > 2 * found["own"]["se"]
    assert found["rewards"]["quiet"]["gain"] == pytest.approx(-found["own"]["gain"])
    assert found["ratios"]["perplexity"] < 2


_STORIES = {
    "big": ("dog", "cat", "boy", "girl", "bird", "bear", "fish", "car", "ball", "tree", "box", "frog", "bunny", "cow", "lion", "mouse"),
    "red": ("dog", "cat", "boy", "girl"),
    "little": ("dog", "cat", "boy", "girl", "bird", "bear", "fish", "car"),
}


def _fields(of):
    return {name: getattr(of, name) for name in of.__slots__}


def test_a_tuned_base_with_the_embeddings_of_its_own_base_is_another(tmp_path):
    embeddings, layers = bytes(1 << 20), bytes(3 << 20)
    tuned = bytearray(layers)
    tuned[2 << 20 : (2 << 20) + (64 << 10)] = bytes([1]) * (64 << 10)
    for name, content in (("base", layers), ("same", layers), ("tuned", bytes(tuned))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(embeddings + content)
    assert fingerprint(tmp_path / "base") == fingerprint(tmp_path / "same") != fingerprint(tmp_path / "tuned")


def test_training_prompts_may_not_be_reported_on():
    with pytest.raises(ValueError, match="1 held_out prompts are among the training prompts, the first 'make soup'"):
        Prompts(PROMPTS[:4], PROMPTS[4:6], PROMPTS[:1])


def test_weights_keep_their_scale():
    assert np.allclose(rewards().weights([0.2, 0.6]), [0.2, 0.6])
