"""A portfolio over the heads of a folder of families: built, shown, packed; certificate and users speak of the same heads."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from attune.models.__main__ import app
from attune.models.alignment.base_answers import Rewards, RewardsInvalid
from attune.models.export.pack import pack
from attune.models.export.portfolio_files import MembersInvalid
from attune.models.portfolio.end_to_end import PalmSettings, build_from_files, build_portfolio
from attune.models.portfolio.inputs import Prompts, SettingsInvalid
from attune.models.portfolio.own_heads import build_over_heads, leading_rewards
from attune.models.portfolio.rewards import Normalisation
from attune.models.portfolio.show import show_portfolio
from attune.models.seam.additive import Additive
from attune.models.seam.bundle import read_bundle
from attune.models.seam.member_values import POOLED
from attune.models.seam.portfolio import PortfolioInvalid
from attune.models.training.reward_model_import import import_reward_model
from tests.models.architectures import write_classifier
from tests.models.tiny_causal import QUICK, few_prompts, write_model


def test_a_portfolio_over_own_heads_is_built_shown_and_packed_by_commands(tmp_path):
    base = write_model(tmp_path / "base")
    model = write_classifier(tmp_path / "model", "Llama", 2, names={0: "helpful", 1: "short"})
    import_reward_model(str(model), tmp_path / "fam", [], "")
    (tmp_path / "prompts.txt").write_text("\n".join(few_prompts()))
    run = CliRunner()
    where = ["--base", str(base), "--families", str(tmp_path / "fam"), "--prompts", str(tmp_path / "prompts.txt")]
    built = run.invoke(app, ["portfolio", "build", *where, "--out", str(tmp_path / "pf"), "--max-calls", "2", *QUICK])
    assert built.exit_code == 0, built.output
    assert "rewards are the heads of 'imported', 0 to 1 over what the base gives: helpful" in built.output
    proved = json.loads((tmp_path / "pf" / "palm.json").read_text())["certificate"]["worst_ratio"]
    assert f"every user gets at least {proved:.3f} of what 2 trained members can give" in built.stdout.splitlines()[-1]
    assert ("more prompts narrow the intervals" in built.stdout) == (proved < 0.05)
    assert "members kept" not in built.stdout
    assert re.search(r"call 1 of at most 2: weights \[1.0, 0.0\], value \[.*\], at most \d+:\d\d left\n", built.stderr)
    shown = run.invoke(app, ["portfolio", "show", str(tmp_path / "pf")])
    assert shown.exit_code == 0, shown.output
    assert "certificate, over helpful, short of 'imported'" in shown.output
    roster = json.loads((tmp_path / "pf" / "roster.json").read_text())
    assert {entry["base"] for entry in roster.values()} == {str(base.resolve())}
    packed = run.invoke(app, ["bundle", "build", str(tmp_path / "fam"), "--portfolio", str(tmp_path / "pf"), "--out", str(tmp_path / "b")])
    assert packed.exit_code == 0, packed.output
    made = packed.stdout.strip()
    assert packed.stderr.splitlines()[-1] == f"next: attune check --bundle {made}, then attune serve --bundle {made}"
    bundle = read_bundle(next((tmp_path / "b").iterdir()))
    assert bundle.portfolio.names == tuple(roster)
    certificate = bundle.portfolio.certificate
    assert (certificate.family, certificate.rewards) == ("imported", ("helpful", "short"))
    family = bundle.families["imported"]
    assert certificate.palm_weights(family.weights(np.zeros(family.evidence_size), None)) is not None
    assert bundle.portfolio.values_for("imported", {POOLED: np.zeros(33, dtype=np.float32)}).shape == (len(roster), 2)
    assert all((bundle.path / entry["adapter"]).is_dir() for entry in roster.values())


def test_some_of_many_heads_are_rewards_and_the_certificate_knows_what_it_leaves_out(tmp_path):
    base = write_model(tmp_path / "base")
    import_reward_model(str(write_classifier(tmp_path / "model", "Llama", 19)), tmp_path / "fam", [], "")
    (tmp_path / "prompts.txt").write_text("\n".join(few_prompts()))
    run = CliRunner()
    where = ["--base", str(base), "--families", str(tmp_path / "fam"), "--prompts", str(tmp_path / "prompts.txt")]
    some = ["--heads", "reward_7,reward_3", "--max-calls", "2", *QUICK]
    built = run.invoke(app, ["portfolio", "build", *where, "--out", str(tmp_path / "pf"), *some])
    assert built.exit_code == 0, built.output
    assert "rewards are 2 of 19 heads of 'imported', 0 to 1 over what the base gives: reward_7 " in built.stdout
    shown = run.invoke(app, ["portfolio", "show", str(tmp_path / "pf")]).stdout
    assert "under the heads of 'imported' that are rewards, 2 of 19, mean" in shown
    assert "reward_5" not in shown
    assert "  every user whose taste lies along these rewards alone gets at least" in shown
    assert "every user whose taste lies along these rewards alone gets at least" in built.stdout.splitlines()[-1]
    packed = run.invoke(app, ["bundle", "build", str(tmp_path / "fam"), "--portfolio", str(tmp_path / "pf"), "--out", str(tmp_path / "b")])
    assert packed.exit_code == 0, packed.output
    bundle = read_bundle(next((tmp_path / "b").iterdir()))
    certificate = bundle.portfolio.certificate
    assert certificate.rewards == ("reward_7", "reward_3")
    assert bundle.portfolio.values["imported"].shape[1] == 19
    weights = np.zeros(19)
    weights[[7, 3]] = 0.75, 0.25
    asked = certificate.palm_weights(weights)
    assert asked[0] / asked[1] == pytest.approx(3.0 * certificate.scale[0] / certificate.scale[1])
    assert certificate.stands_for(weights) == 1.0
    assert certificate.rest[[7, 3]].tolist() == [0.0, 0.0]
    assert np.all(np.delete(certificate.rest, [7, 3]) > 0)
    assert certificate.palm_weights(np.eye(19)[5]) is None


def test_a_folder_that_was_begun_with_something_else_is_refused_and_left_as_it_is(tmp_path):
    base, other = write_model(tmp_path / "base"), write_model(tmp_path / "other", seed=1)
    names = dict(enumerate(("helpful", "short", "kind")))
    import_reward_model(str(write_classifier(tmp_path / "model", "Llama", 3, names=names)), tmp_path / "fam", [], "")
    shutil.copytree(tmp_path / "fam", tmp_path / "anew")
    weights = load_file(tmp_path / "anew" / "heads.safetensors")
    save_file(
        {name: 2 * array if name.startswith("heads/") else array for name, array in weights.items()},
        tmp_path / "anew" / "heads.safetensors",
    )
    (tmp_path / "prompts.txt").write_text("\n".join(few_prompts()))
    (tmp_path / "fewer.txt").write_text("\n".join(few_prompts()[1:]))
    begun = {
        "--base": base,
        "--families": tmp_path / "fam",
        "--prompts": tmp_path / "prompts.txt",
        "--heads": "helpful,short",
        "--seed": "0",
    }
    out = tmp_path / "pf"

    def run(changed: dict[str, object], *more: str):
        words = [str(word) for option in (begun | changed).items() for word in option]
        return CliRunner().invoke(app, ["portfolio", "build", *words, "--out", str(out), "--max-calls", "2", *QUICK, *more])

    assert run({}).exit_code == 0
    there = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    for changed, said in (
        ({"--heads": "helpful,kind"}, "--heads was helpful, short and is helpful, kind"),
        ({"--heads": "short,helpful"}, "--heads was helpful, short and is short, helpful"),
        ({"--base": other}, "base was "),
        ({"--families": tmp_path / "anew"}, "weights of the heads was "),
        ({"--prompts": tmp_path / "fewer.txt"}, "prompts was "),
        ({"--seed": "1"}, "seed was 0 and is 1"),
    ):
        refused = run(changed)
        assert (refused.exit_code, refused.stdout) == (1, ""), changed
        assert f"something else ({said}" in refused.stderr, refused.stderr
        assert refused.stderr.count("\n") == 1
    assert "--set dpo.epochs was 2 and is 3): give another --out" in run({}, "--set", "dpo.epochs=3").stderr
    assert {file: file.read_bytes() for file in out.rglob("*") if file.is_file()} == there
    (out / "begun.json").write_text("[")
    assert "begun.json is damaged" in run({}).stderr


def test_prompts_that_cannot_carry_a_certificate_are_refused_before_anything_is_sampled(tmp_path):
    import_reward_model(str(write_classifier(tmp_path / "model", "Llama", 2)), tmp_path / "fam", [], "")
    (tmp_path / "p.txt").write_text("\n".join(few_prompts()[3:]))
    with pytest.raises(SettingsInvalid, match=r"9 held out, .*two of each kind and 10 held out are needed, which some 200 prompts give"):
        build_over_heads(tmp_path / "base", tmp_path / "fam", tmp_path / "p.txt", tmp_path / "pf", settings=PalmSettings(), seed=0)
    rewards = Rewards(("a", "b"), lambda _asked, said: np.zeros((len(said), 2)))
    (tmp_path / "p.txt").write_text("\n".join(few_prompts()[9:]))
    with pytest.raises(SettingsInvalid, match=r"3 held out, .*two of each kind and 4 held out are needed, which a hundred prompts give"):
        build_from_files(tmp_path / "base", rewards, tmp_path / "p.txt", tmp_path / "pf", settings=PalmSettings(), seed=0)
    assert not (tmp_path / "pf").exists()


def test_of_additive_the_axes_are_rewards_along_which_answers_differ_most():
    names = ("everybody", *(f"axis{index}+" for index in range(8)), *(f"axis{index}-" for index in range(8)))
    family = Additive("additive", names, 1.0, 10.0)
    rng = np.random.default_rng(0)

    def answers(*spread: float) -> np.ndarray:
        along = 10.0 * rng.normal(size=(400, 8)) * np.array([*spread, *[0.01] * (8 - len(spread))])
        common = rng.normal(size=(400, 1))
        return np.concatenate([common, common + along, common - along], axis=1)

    def chosen(*spread: float) -> list[str]:
        return [names[place] for place in leading_rewards(family, answers(*spread))]

    assert chosen(3.0, 1.0) == ["everybody", "axis0+", "axis0-"]
    assert chosen(1.0, 1.0) == ["everybody", "axis0+", "axis1+", "axis0-", "axis1-"]
    assert len(chosen(*[1.0] * 8)) == 11


def test_heads_that_cannot_be_weighed_are_refused_before_anything_is_sampled(tmp_path):
    model = write_classifier(tmp_path / "model", "Llama", 1)
    import_reward_model(str(model), tmp_path / "fam", [], "")
    arguments = {"settings": PalmSettings(), "seed": 0}
    with pytest.raises(RewardsInvalid, match=r"2 rewards and more, and every family here has fewer heads \(imported with 1\): train"):
        build_over_heads(tmp_path / "base", tmp_path / "fam", tmp_path / "p.txt", tmp_path / "pf", **arguments)
    with pytest.raises(RewardsInvalid, match=r"no family 'other' here; there is imported with 1"):
        build_over_heads(tmp_path / "base", tmp_path / "fam", tmp_path / "p.txt", tmp_path / "pf", family="other", **arguments)
    neither = CliRunner().invoke(app, ["portfolio", "build", "--base", "b", "--prompts", "p"])
    assert neither.exit_code != 0


def test_more_rewards_than_can_be_proved_over_are_refused_before_anything_is_sampled(tmp_path):
    model = write_classifier(tmp_path / "model", "Llama", 19)
    import_reward_model(str(model), tmp_path / "fam", [], "")
    arguments = {"settings": PalmSettings(), "seed": 0}
    with pytest.raises(RewardsInvalid, match=r"at most 12 rewards, and imported with 19: .*--heads NAME,NAME of reward_0, reward_1,"):
        build_over_heads(tmp_path / "base", tmp_path / "fam", tmp_path / "p.txt", tmp_path / "pf", **arguments)
    for heads, message in (
        (["reward_1"], "1 head is named; a portfolio weighs 2 to 12"),
        (["reward_1", "reward_3", "reward_1"], "head 'reward_1' is named 2 times; name each once"),
        ([""], "no head ''; heads are reward_0"),
        ([f"reward_{number}" for number in range(13)], "13 heads are named"),
        (["reward_1", "kind"], "no head 'kind'; heads are reward_0"),
    ):
        with pytest.raises(RewardsInvalid, match=message):
            build_over_heads(tmp_path / "base", tmp_path / "fam", tmp_path / "p.txt", tmp_path / "pf", heads=heads, **arguments)
    many = Rewards(tuple(f"r{number}" for number in range(13)), lambda _asked, said: np.zeros((len(said), 13)))
    whole = Normalisation(np.zeros(13), np.ones(13))
    asked = Prompts(("a",), ("b",), ("c",))
    with pytest.raises(RewardsInvalid, match="there are 13 rewards; a portfolio is searched over at most 12"):
        build_portfolio(tmp_path / "base", many, whole, tmp_path / "pf", family="f", asked=asked, fresh=("d",))
    assert not (tmp_path / "pf").exists()


def test_a_folder_that_was_built_for_python_rewards_says_what_it_lacks(tmp_path):
    (tmp_path / "palm.json").write_text("{}")
    with pytest.raises(PortfolioInvalid, match=r"built for rewards in Python.*--families"):
        show_portfolio(tmp_path)
    model = write_classifier(tmp_path / "model", "Llama", 1)
    import_reward_model(str(model), tmp_path / "fam", [], "")
    with pytest.raises(MembersInvalid, match=r"--roster .*roster\.json takes its members at the prior"):
        pack(tmp_path / "fam", tmp_path / "b", "mine", portfolio=tmp_path)
