"""`demo/build.sh` makes a bundle by public commands: its lines, the tutorial's, and a small run of them."""

from __future__ import annotations

import json
import shlex

import numpy as np
from typer.testing import CliRunner

from attune.models.__main__ import app
from attune.models.alignment.trained_member import MemberSettings
from attune.models.portfolio.inputs import changed, read_prompts
from attune.models.seam.bundle import read_bundle
from demo.__main__ import app as demo_app
from demo.rewards import DEMO_SETTINGS
from tests.models.tiny_causal import QUICK, few_prompts, write_model
from tests.models.tiny_trunk import write_tiny_trunk
from tests.project.tree import ROOT

LINES = [shlex.split(line, comments=True) for line in (ROOT / "demo" / "build.sh").read_text().replace("\\\n", " ").splitlines()]
PUBLIC = [words[1:] for words in LINES if words[:1] == ["attune"]]


def run(words, using=app) -> str:
    done = CliRunner().invoke(using, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_public_lines_of_the_build_are_the_journey_with_the_settings_of_the_demos_members():
    assert [words[:2] for words in PUBLIC] == [
        ["data", "check"],
        ["train", "families"],
        ["portfolio", "build"],
        ["portfolio", "show"],
        ["bundle", "build"],
        ["bundle", "build"],
    ]
    words = PUBLIC[2]
    given = [words[at + 1] for at, word in enumerate(words) if word == "--set"]
    assert changed(MemberSettings(), given) == DEMO_SETTINGS


def test_the_tutorial_has_the_same_lines_with_the_same_settings():
    page = (ROOT / "docs" / "tutorial.md").read_text().replace("\\\n", " ")
    shown = [shlex.split(line) for line in page.splitlines() if line.startswith("    attune ")]
    here = [[word.replace("$work", ".attune/demo") for word in ["attune", *words]] for words in PUBLIC[:5]]
    assert [words for words in here if words not in shown] == []


def test_a_small_version_of_the_build_makes_a_bundle_from_the_file_that_the_demo_writes(tmp_path):
    run(["data", "--out", tmp_path, "--users", 32, "--per-user", 8], demo_app)
    assert len(read_prompts(tmp_path / "prompts.txt").training) > 100
    found = json.loads(run(["data", "check", tmp_path / "prefs.jsonl", "--json"]))
    assert (found["comparisons"], found["users"], found["bad"]) == (256, 32, 0)
    trunk = write_tiny_trunk(tmp_path / "trunk", "encoder")
    kept = ["--trunk", trunk, "--cache", tmp_path / "cache", "--folds", 1, "--families", "additive"]
    said = run(["train", "families", tmp_path / "prefs.jsonl", "--out", tmp_path / "fam", *kept])
    assert "People whom training never met" in said
    (tmp_path / "prompts.txt").write_text("\n".join(few_prompts()))
    where = ["--base", write_model(tmp_path / "base"), "--families", tmp_path / "fam", "--prompts", tmp_path / "prompts.txt"]
    options = ["--out", tmp_path / "pf", "--cache", tmp_path / "cache", "--family", "additive", "--max-calls", 2, *QUICK]
    assert "heads of 'additive', 0 to 1 over what the base gives: everybody" in run(["portfolio", "build", *where, *options])
    assert "certificate, over everybody, axis0+," in run(["portfolio", "show", tmp_path / "pf"])
    packed = ["bundle", "build", tmp_path / "fam", "--portfolio", tmp_path / "pf", "--out", tmp_path / "bundles"]
    bundle = read_bundle(tmp_path / run(packed).strip().splitlines()[-1])
    assert bundle.families.names == ("bradley_terry", "additive")
    family, certificate = bundle.families["additive"], bundle.portfolio.certificate
    assert certificate.rewards[0] == "everybody"
    assert 2 < len(certificate.rewards) < len(family.heads)
    assert certificate.stands_for(np.eye(len(family.heads))[0]) == 1.0
