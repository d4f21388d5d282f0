"""Oracles that train or mix language models, the commands around members, and a portfolio from end to end, on tiny models."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from attune.models.__main__ import app
from attune.models.alignment.base_answers import RewardsInvalid
from attune.models.alignment.causal import load
from attune.models.alignment.dpo import DpoSettings
from attune.models.alignment.guard import GuardLimits
from attune.models.alignment.trained_member import MemberSettings, Prompts
from attune.models.alignment.vllm import members_in
from attune.models.measuring.aligned_members import evaluate_members, render_members
from attune.models.portfolio.end_to_end import PalmSettings, build_portfolio
from attune.models.portfolio.inputs import SettingsInvalid, changed, described, load_rewards, parse_weights, read_prompts
from attune.models.portfolio.model_oracles import DpoOracle, named
from attune.models.portfolio.oracles import OracleFailed
from attune.models.portfolio.rewards import Normalisation
from attune.models.portfolio.search import SearchSettings, lazy_search
from attune.service.members.local_model import load as load_for_serving
from attune.service.members.roster_file import read_roster
from attune.service.members.spec import LocalSpec
from studies.approximations.run import compare, render
from studies.approximations.untrained_oracles import MixingOracle, OracleTask, SoupOracle, proportions
from tests.models.tiny_causal import NAMES, PROMPTS, rewards, write_lora, write_model

ASKED = Prompts(PROMPTS[:16], PROMPTS[16:22], PROMPTS[22:28])
FRESH = PROMPTS[28:]
LAX = GuardLimits(0.0, 100.0, 100.0, 0.0, 0.0, 0.0, 1.0, 1.0)
QUICK = MemberSettings(
    answers=6, least_margin=0.0, dpo=DpoSettings(rank=4, alpha=8, learning_rate=1e-2, epochs=1, batch=8, checkpoints=1), limits=LAX
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    root = tmp_path_factory.mktemp("tiny")
    base = write_model(root / "base", max_tokens=16)
    adapters = {name: write_lora(root / "adapters" / name, base, seed, scale=0.3) for seed, name in enumerate(NAMES)}
    return root, base, adapters


@pytest.fixture(scope="module")
def aligned(tiny, tmp_path_factory):
    """Returns the folder of an oracle that has trained a member for each reward alone."""
    folder = tmp_path_factory.mktemp("aligned")
    oracle = DpoOracle(tiny[1], rewards(), ASKED, folder, settings=QUICK, base_name="tiny")
    for corner in np.eye(2):
        oracle.solve(corner)
    return folder


def test_the_dpo_oracle_trains_once_for_each_weights_and_tells_what_it_measured(tiny, tmp_path):
    _, base, _ = tiny
    told: list[str] = []
    oracle = DpoOracle(base, rewards(), ASKED, tmp_path, settings=QUICK, slack=0.01, progress=told.append)
    found = oracle.solve(np.array([0.25, 0.75]))
    assert found.handle == "short250-vowels750"
    document = json.loads((tmp_path / found.handle / "member.json").read_text())
    assert found.value == pytest.approx([document["held_out"]["rewards"][name]["after"] for name in NAMES])
    assert (found.half_width > [1.96 * document["held_out"]["rewards"][name]["after_se"] for name in NAMES]).all()
    assert found.optimum == pytest.approx(found.value @ [0.25, 0.75] + 0.01)
    assert found.divergence == document["held_out"]["kl"]
    told.clear()
    again = oracle.solve(np.array([0.25, 0.75]))
    assert told == []
    assert again.value.tolist() == found.value.tolist()
    never = GuardLimits(least_length=50.0)
    refusing = DpoOracle(
        base, rewards(), ASKED, tmp_path / "refusing", settings=changed(QUICK, [f"limits.least_length={never.least_length}"])
    )
    with pytest.raises(OracleFailed, match=r"no member for short: none of 1 checkpoints.*at 1/4 of the rate, none of 1 checkpoints"):
        refusing.solve(np.array([1.0, 0.0]))


def test_weights_of_the_same_thousandths_are_members_of_their_own(tmp_path):
    oracle = DpoOracle("base", rewards(), ASKED, tmp_path)
    first, second = np.array([0.50004, 0.49996]), np.array([0.5, 0.5])
    assert oracle.folder(first) == oracle.folder(second) == tmp_path / "short500-vowels500"
    begun = tmp_path / "short500-vowels500" / "work" / "arguments.json"
    begun.parent.mkdir(parents=True)
    begun.write_text(json.dumps({"weights": dict(zip(NAMES, first.tolist(), strict=True))}))
    assert oracle.folder(first).name == "short500-vowels500"
    assert oracle.folder(second).name.startswith("short500-vowels500-")
    assert oracle.folder(second, slower=2).name == "short500-vowels500-slower2"
    (begun.parent.parent / "member.json").write_text(json.dumps({"kept": 1, "arguments": json.loads(begun.read_text())}))
    assert oracle.folder(first).name == "short500-vowels500"
    assert oracle.folder(second).name.startswith("short500-vowels500-")


def test_a_member_that_the_guard_refuses_is_tried_again_at_a_lower_rate(tiny, aligned, tmp_path):
    _, base, _ = tiny
    weights = np.array([1.0, 0.0])
    assert QUICK.dpo.learning_rate == 1e-2
    slower = DpoOracle(base, rewards(), ASKED, tmp_path / "slower", settings=changed(QUICK, ["dpo.learning_rate=0.005"]))
    slower.solve(weights)
    looks = [json.loads((folder / "short" / "member.json").read_text())["checkpoints"] for folder in (aligned, tmp_path / "slower")]
    fast, slow = (look["ratios"]["length"] for [look] in looks)
    assert abs(fast - slow) > 0.05
    told: list[str] = []
    limit = "least_length" if fast < slow else "most_length"  # one that only the slower one keeps
    strict = changed(QUICK, [f"limits.{limit}={(fast + slow) / 2}"])
    oracle = DpoOracle(base, rewards(), ASKED, tmp_path / "strict", settings=strict, progress=told.append)
    found = oracle.solve(weights)
    assert found.handle == "short-slower2"
    assert any(line.startswith("short is refused; none of 1 checkpoints") for line in told)
    document = json.loads((tmp_path / "strict" / found.handle / "member.json").read_text())
    assert document["arguments"]["settings"]["dpo"]["learning_rate"] == 5e-3
    assert oracle.solve(weights).value.tolist() == found.value.tolist()


def test_mixing_and_soups_at_a_corner_are_the_member_of_that_corner(tiny, aligned, tmp_path):
    _, base, adapters = tiny
    asked = OracleTask(rewards(), FRESH, answers=4)
    corners = dict(zip(NAMES, np.eye(2), strict=True))
    mixing = MixingOracle(load(base, adapters), corners, asked)
    soups = SoupOracle(base, adapters, corners, asked, tmp_path)
    corner = np.array([0.0, 1.0])
    mixed, averaged = mixing.solve(corner), soups.solve(corner)
    alone = MixingOracle(load(base, {"vowels": adapters["vowels"]}), {"vowels": corner}, asked).solve(corner)
    assert mixed.value.tolist() == alone.value.tolist()
    assert np.all(np.abs(averaged.value - alone.value) <= averaged.half_width + alone.half_width)
    assert (averaged.half_width > 0).all()
    assert averaged.divergence > 0
    assert mixed.optimum is averaged.optimum is None
    middle = soups.solve(np.array([0.5, 0.5]))
    assert (tmp_path / middle.handle / "adapter_model.safetensors").is_file()
    trained = DpoOracle(base, rewards(), ASKED, aligned, settings=QUICK, slack=0.0, base_name="tiny")
    found = lazy_search(trained, SearchSettings(0.1, 0.1, 2), start=[middle])
    assert middle.handle in {solution.handle for solution in found.solutions}


def test_users_between_members_are_compared_on_the_same_prompts(tiny, tmp_path):
    root, base, _ = tiny
    [found] = compare(base, root / "adapters", rewards(), PROMPTS[:10], [NAMES], tmp_path, answers=4)
    assert set(found.value) == {"base", "best member", "soup", "MOD"}
    assert found.best_member in NAMES
    asked = OracleTask(rewards(), PROMPTS[:10], answers=4)
    corners = dict(zip(NAMES, np.eye(2), strict=True))
    again = MixingOracle(load(base, {name: root / "adapters" / name for name in NAMES}), corners, asked).solve(np.array([0.5, 0.5]))
    assert found.value["MOD"] == pytest.approx(again.value.mean())
    assert f"| short and vowels | {found.value['base']:.3f} ± {found.half_width['base']:.3f} |" in render([found])
    assert json.loads((tmp_path / "approximations.json").read_text())["between"][0]["value"] == found.value
    with pytest.raises(SettingsInvalid, match="no member that was aligned to tall alone"):
        compare(base, root / "adapters", rewards(), PROMPTS[:10], [("short", "tall")], tmp_path)


def test_proportions_are_the_weights_where_members_were_made_for_one_reward_each():
    corners = {"a": np.array([1.0, 0.0, 0.0]), "b": np.array([0.0, 1.0, 0.0]), "c": np.array([0.0, 0.0, 1.0])}
    assert list(proportions(corners, np.array([0.2, 0.0, 0.8])).values()) == pytest.approx([0.2, 0.0, 0.8], abs=1e-4)
    near = proportions({"ab": np.array([0.5, 0.5, 0.0]), "c": corners["c"]}, np.array([0.4, 0.2, 0.4]))
    assert sum(near.values()) == pytest.approx(1.0)
    assert near["ab"] == pytest.approx(0.6, abs=1e-3)
    assert named(("a", "b"), np.array([1.0, 0.0])) == "a"
    assert named(("a", "b"), np.array([0.999, 0.001])) == "a999-b1"


def test_the_table_shows_every_member_whose_weights_are_known(tiny, tmp_path):
    root, base, _ = tiny
    rows = evaluate_members(base, root / "adapters", rewards(), PROMPTS[:8], answers=4, seed=0, cache=tmp_path)
    assert [row.name for row in rows] == sorted(NAMES)
    assert rows[0].measured.weights.tolist() == [1.0, 0.0]
    table = render_members(rows)
    assert f"| short | {rows[0].measured.before[:, 0].mean():.3f} | {rows[0].measured.after[:, 0].mean():.3f} |" in table
    again = evaluate_members(base, root / "adapters", rewards(), PROMPTS[:8], answers=4, seed=0, cache=tmp_path)
    assert render_members(again) == table
    (tmp_path / "prompts.txt").write_text("\n".join(f"{prompt} {number}" for prompt in PROMPTS for number in range(2)))
    command = ["measure", "members", str(root / "adapters"), "--base", str(base), "--rewards", "tests.models.tiny_causal:REWARDS"]
    where = ["--prompts", str(tmp_path / "prompts.txt"), "--out", str(tmp_path / "judged"), "--answers", "1", "--json"]
    found = json.loads(CliRunner().invoke(app, [*command, *where]).stdout)
    assert set(found) == set(NAMES)
    assert found["short"]["own"]["gain"] == pytest.approx(found["short"]["own"]["after"] - found["short"]["own"]["before"])
    with pytest.raises(ValueError, match="no adapter whose weights over short, vowels are known"):
        evaluate_members(base, tmp_path, rewards(), PROMPTS[:8], answers=4, seed=0)


def test_a_portfolio_is_built_certified_laid_out_and_goes_on_after_a_failure(tiny, aligned, tmp_path):
    _, base, _ = tiny
    shutil.copytree(aligned, tmp_path / "members")
    settings = PalmSettings(epsilon=0.05, delta=0.05, max_calls=3, slack=0.01, member=QUICK)
    normal = Normalisation(np.zeros(2), np.ones(2))
    arguments = {"family": "tiny", "asked": ASKED, "fresh": FRESH, "roster_base": "base", "base_name": "tiny"}
    palm = build_portfolio(base, rewards(), normal, tmp_path, settings=settings, **arguments)
    document = json.loads((tmp_path / "palm.json").read_text())
    assert set(document["members"]) == set(palm.names) <= {"short", "vowels"} | {solution.handle for solution in palm.search.solutions}
    assert 0.0 < palm.certificate.worst_ratio <= 1.0
    assert palm.certificate.rewards == NAMES
    assert palm.certificate.lower.shape == (len(palm.names), 2)
    assert np.all(palm.certificate.lower <= palm.values + 1e-9)
    roster = read_roster(tmp_path / "roster.json")
    assert [spec.adapter for spec in roster.values() if isinstance(spec, LocalSpec)] == [f"adapters/{name}" for name in palm.names]
    assert load(base, {name: tmp_path / "adapters" / name for name in palm.names}).members == palm.names
    served = load_for_serving(base, palm.adapters)
    assert set(served.slots) == set(palm.names)
    told: list[str] = []
    (tmp_path / "palm.json").unlink()
    again = build_portfolio(base, rewards(), normal, tmp_path, settings=settings, progress=told.append, **arguments)
    assert [line for line in told if line.startswith("call")] == []
    assert json.loads((tmp_path / "palm.json").read_text()) == document
    assert again.names == palm.names
    single = build_portfolio(base, rewards(), normal, tmp_path, settings=replace(settings, most_members=1), **arguments)
    assert len(single.names) == len(read_roster(tmp_path / "roster.json")) == len(list((tmp_path / "adapters").iterdir())) == 1
    # Members that are not kept go on to bound what any policy could give.
    assert single.certificate.oracle_calls == palm.search.calls > 1
    np.testing.assert_allclose(single.certificate.vertices, palm.certificate.vertices, atol=0.05)


def test_the_command_builds_a_portfolio_for_any_model_rewards_and_prompts(tiny, tmp_path):
    _, base, _ = tiny
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(f"{prompt} {number}" for prompt in PROMPTS for number in range(2)))
    lax = ["least_length=0", "most_length=100", "most_perplexity=100", "least_distinct_2=0", "least_diversity=0", "least_ended=0"]
    lax += ["more_repetition=1", "more_blank=1"]
    changes = [f"limits.{limit}" for limit in lax] + ["dpo.checkpoints=1", "answers=4", "least_margin=0"]
    options = [option for change in changes for option in ("--set", change)]
    where = ["--base", str(base), "--rewards", "tests.models.tiny_causal:REWARDS", "--prompts", str(file), "--out", str(tmp_path / "out")]
    shown = CliRunner().invoke(app, ["portfolio", "build", *where, "--max-calls", "2", *options, "--json"])
    assert shown.exit_code == 0, shown.output
    found = json.loads(shown.stdout)
    assert found == {"portfolio": str(tmp_path / "out"), **json.loads((tmp_path / "out" / "palm.json").read_text())}
    assert found["search"]["calls"] == 2
    assert 0.0 <= found["certificate"]["worst_ratio"] <= 1.0
    assert " of 2 members kept: " in shown.stderr.splitlines()[-1]


def test_a_mistake_on_the_command_line_is_a_line_and_not_a_traceback(tiny, tmp_path):
    _, base, _ = tiny
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(PROMPTS))
    fine = ["--rewards", "tests.models.tiny_causal:REWARDS", "--prompts", str(file)]
    out = ["--base", str(base), "--out", str(tmp_path / "it"), *fine]
    for options, complaint in (
        (["--weights", "tall=1"], ": weight 'tall=1': the rewards are short, vowels"),
        (["--weights", "short=1", "--set", "dpo.speed=3"], ": setting 'dpo.speed=3' is not known; dpo.rank"),
        (["--weights", "short=1", "--prompts", str(tmp_path / "none.txt")], f": {tmp_path / 'none.txt'}: no such file or folder"),
        (["--weights", "short=1", "--base", str(tmp_path / "none")], str(tmp_path / "none")),
        (["--weights", "short=1", "--rewards", "no_such_module:REWARDS"], "'no_such_module:REWARDS' cannot be loaded"),
    ):
        shown = CliRunner().invoke(app, ["train", "member", *out, *options])
        assert shown.exit_code == 1, shown.output
        assert complaint in shown.output
        assert not re.search(r"Traceback|Error:|Invalid:|\[Errno", shown.output)
        assert not (tmp_path / "it" / "member.json").exists()


def test_weights_settings_and_rewards_from_the_command_line_are_checked():
    assert parse_weights("vowels=.5, short", NAMES).tolist() == [1.0, 0.5]
    for wrong in ("tall=1", "short=x", "short=1,short=2"):
        with pytest.raises(RewardsInvalid, match="short"):
            parse_weights(wrong, NAMES)
    new = changed(MemberSettings(), ["dpo.beta=.2", "answers=3", "dpo.bf16=true"])
    assert (new.dpo.beta, new.answers, new.dpo.bf16) == (0.2, 3, True)
    # What a run prints is what the option takes.
    assert changed(MemberSettings(), described(new).split()) == new
    for wrong in ("beta=1", "dpo.nothing=1", "dpo.epochs=many", "answers", "dpo=3"):
        with pytest.raises(ValueError, match="setting"):
            changed(MemberSettings(), [wrong])
    assert load_rewards("demo.rewards:MANNER_REWARDS").names[0] == "concise"
    with pytest.raises(RewardsInvalid, match="module:name"):
        load_rewards("demo.rewards:nothing")


def test_prompts_of_a_file_keep_their_part_when_the_file_grows(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(PROMPTS) + "\n\n" + PROMPTS[0] + "\n")
    short = read_prompts(file)
    file.write_text("\n".join([*(f"another {n}" for n in range(50)), *PROMPTS]))
    long = read_prompts(file)
    assert set(short.held_out) <= set(long.held_out)
    assert set(short.training) <= set(long.training)
    assert sorted(short.training + short.validation + short.held_out) == sorted(PROMPTS)
    file.write_text("\n".join([json.dumps({"prompt": PROMPTS[0], "source": "a log"}), *PROMPTS[1:]]))
    assert read_prompts(file) == short
    file.write_text("\n".join([*PROMPTS, json.dumps({"question": PROMPTS[0]})]))
    with pytest.raises(ValueError, match=r"prompts\.txt: {\"question\": .*an object with the text `prompt` is needed"):
        read_prompts(file)
    file.write_text("only one")
    with pytest.raises(
        ValueError, match=r"prompts\.txt gives 1 prompts to learn from, 0 that choose checkpoints and 0 held out, .*two of each kind"
    ):
        read_prompts(file)


def test_the_vllm_command_is_printed_for_a_folder_and_for_a_roster(tiny, tmp_path):
    root, base, _ = tiny
    shown = CliRunner().invoke(app, ["portfolio", "vllm", str(root), "--port", "9000"])
    assert shown.exit_code == 0, shown.output
    assert shown.output.startswith(f"vllm serve {base} \\\n  --host 127.0.0.1 \\\n  --port 9000")
    assert json.loads(shown.output.split("ATTUNE_ROSTER)\n")[1])["short"]["base_url"] == "http://127.0.0.1:9000/v1"
    told = json.loads(CliRunner().invoke(app, ["portfolio", "vllm", str(root), "--port", "9000", "--json"]).stdout)
    assert told["command"][:4] == ["vllm", "serve", str(base), "--host"]
    assert told["roster"]["short"]["base_url"] == "http://127.0.0.1:9000/v1"
    (root / "roster.json").write_text(json.dumps({"it": {"kind": "local", "base": "base", "adapter": "adapters/short"}}))
    assert members_in(root) == (base, {"it": root / "adapters" / "short"})
    (root / "roster.json").unlink()
    refused = CliRunner().invoke(app, ["portfolio", "vllm", str(tmp_path)])
    assert (refused.exit_code, "neither a roster.json" in refused.output) == (1, True)
