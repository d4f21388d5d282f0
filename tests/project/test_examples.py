"""The example on real data: its table is read as its page says, and three commands lead from it to scores."""

from __future__ import annotations

import csv
import gzip
import json

from typer.testing import CliRunner

from attune.models.__main__ import app
from attune.models.seam.bundle import read_bundle
from tests.models.tiny_trunk import write_tiny_trunk
from tests.project.tree import ROOT

TABLE = ROOT / "examples" / "summeval" / "summaries.csv.gz"


def attune(*words: object) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_table_holds_what_its_page_says():
    found = json.loads(attune("data", "check", TABLE, "--json"))
    assert (found["shape"], found["rows"], found["users"], found["candidates"]) == ("scores", 1248, 21, 416)
    page = (TABLE.parent / "README.md").read_text(encoding="utf-8")
    assert f"{found['comparisons']:,}" in page


def test_three_commands_lead_from_the_table_to_a_bundle_that_scores(tmp_path):
    """A few products of it, on a tiny trunk."""
    with gzip.open(TABLE, "rt", encoding="utf-8", newline="") as stream:
        rows = list(csv.reader(stream))
    with (tmp_path / "few.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows(rows[: 1 + 3 * 13 * 3])
    trunk = write_tiny_trunk(tmp_path / "trunk", "encoder")
    kept = ["--cache", tmp_path / "cache", "--folds", 1, "--families", "bradley_terry", "--most-pairs", 8]
    said = attune("train", "families", tmp_path / "few.csv", "--trunk", trunk, "--out", tmp_path / "fam", *kept)
    assert "Do not personalise: 21 people are fewer than the 30" in said
    bundle = read_bundle(tmp_path / attune("bundle", "build", tmp_path / "fam", "--out", tmp_path / "bundles").strip().splitlines()[-1])
    assert bundle.families.names == ("bradley_terry",)
