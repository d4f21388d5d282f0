"""A path in the wrong place is told what it is, and who reads it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from attune.models.alignment.vllm import members_in
from attune.models.commands.options import NotThere, model_source
from attune.models.data.adapters import read_comparisons
from attune.models.data.check import survey
from attune.models.data.logged import read_logged
from attune.models.data.preferences import ComparisonInvalid
from attune.models.data.table_shapes import Reading
from attune.models.data.tables import TableInvalid
from attune.models.measuring.policy.duels import LogInvalid
from attune.models.measuring.policy.values_report import evaluate_log, read_log
from attune.models.portfolio.inputs import SettingsInvalid
from attune.models.portfolio.inputs import read_prompts as read_training_prompts
from attune.models.portfolio.show import load_portfolio
from attune.models.seam.artefacts import it_is, recognised
from attune.models.seam.bundle import BundleInvalid, read_bundle
from attune.models.seam.portfolio import PortfolioInvalid
from attune.models.training.heads import HeadsInvalid, load_heads
from attune.service.members.member import UnusableMember
from attune.service.members.roster_file import read_roster
from attune.service.upstream_measurement import MeasureFailed, read_prompts

EXPORT = [{"type": "user", "id": "ada"}, {"type": "comparison", "event_id": "e", "prompt": "p", "chosen_text": "a", "rejected_text": "b"}]
PAIR = {"user": "u", "prompt": "p", "chosen": "a", "rejected": "b"}
ROSTER = {"m": {"kind": "openai", "base_url": "http://h/v1", "model": "m"}}


def lines(*values):
    return "".join(json.dumps(value) + "\n" for value in values)


@pytest.fixture
def written(tmp_path):
    """One of each thing that is written, by name."""
    folders = {"bundle": "manifest.json", "families": "heads.json", "portfolio": "portfolio.json", "adapter": "adapter_config.json"}
    for name, file in folders.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text("{}")
    (tmp_path / "bundles" / "bundle-a-1").mkdir(parents=True)
    (tmp_path / "bundles" / "bundle-a-1" / "manifest.json").write_text("{}")
    (tmp_path / "export.jsonl").write_text(lines(*EXPORT))
    (tmp_path / "export.jsonl.gz").write_bytes(gzip.compress(lines(*EXPORT).encode()))
    (tmp_path / "export.json").write_text(lines(*EXPORT))
    (tmp_path / "pairs.jsonl").write_text(lines(PAIR))
    (tmp_path / "decisions.jsonl").write_text(lines({"decision_id": "d", "candidates": [], "routing": {}}))
    (tmp_path / "roster.json").write_text(json.dumps(ROSTER, indent=1))
    (tmp_path / "members.toml").write_text('[m]\nkind = "openai"\nbase_url = "http://h/v1"\nmodel = "m"\n')
    (tmp_path / "measured.json").write_text(json.dumps({"schema": 1, "members": {}, "certificate": {}}, indent=1))
    (tmp_path / "bundle.tar.gz").write_bytes(gzip.compress(b"tar"))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("bundle", "a bundle, which `attune serve`"),
        ("bundle/manifest.json", "a part of a bundle"),
        ("bundles", "a folder of bundles; name one of them: bundle-a-1"),
        ("families", "a folder of families, which `attune bundle build`"),
        ("families/heads.json", "a part of a folder of families"),
        ("portfolio", "a portfolio, which `attune bundle build --portfolio`"),
        ("adapter", "a member's adapter"),
        ("export.jsonl", "an export of users, which `attune users import`"),
        ("export.jsonl.gz", "an export of users"),
        ("export.json", "an export of users"),
        ("pairs.jsonl", "a table of comparisons, which `attune data check`"),
        ("decisions.jsonl", "a file of decisions, which `attune measure policy"),
        ("roster.json", "a roster, which `attune serve --roster`"),
        ("members.toml", "a roster"),
        ("measured.json", "what `attune members measure` found"),
        ("bundle.tar.gz", "an archive; unpack it"),
        ("absent", ""),
    ],
)
def test_what_our_commands_write_is_recognised(written, name, said):
    found = recognised(written / name)
    assert found.startswith(said)
    assert bool(found) == bool(said)


@pytest.mark.parametrize("address", ["http://host/bundle-x", "https://host/b", "s3://bucket/b", "gs://b/c", "file:///tmp/b"])
def test_an_address_is_told_to_be_fetched(address):
    assert "`attune bundle fetch`" in it_is(address)


@pytest.mark.parametrize("content", [b"", b"\x00\xff\xfe", b"\x1f\x8bbroken", b"[" * 100_000, b"plain text\n", b'{"a": 1}\n', b"\n\n"])
def test_what_is_nothing_of_ours_gets_no_name(tmp_path, content):
    for name in ("file.jsonl", "file.toml", "file"):
        (tmp_path / name).write_bytes(content)
        assert it_is(tmp_path / name) == ""
    assert it_is("\0") == ""
    assert it_is("x" * 5000) == ""


@pytest.mark.parametrize("name", ["export.json", "export.jsonl", "families", "bundle", "roster.json", "decisions.jsonl"])
@pytest.mark.parametrize("read", [lambda path: survey(path, Reading()), read_comparisons], ids=["check", "train"])
def test_a_reader_of_tables_says_what_it_was_given(written, name, read):
    with pytest.raises(TableInvalid) as caught:
        read(written / name)
    assert str(caught.value).endswith(it_is(written / name))


def test_a_table_that_lacks_a_column_is_not_told_that_it_is_one(written):
    with pytest.raises(TableInvalid) as caught:
        read_comparisons(written / "pairs.jsonl", Reading(columns={"prompt": "question"}))
    assert "it is a table" not in str(caught.value)


@pytest.mark.parametrize("name", ["families", "bundle", "roster.json", "decisions.jsonl"])
def test_the_reader_of_exports_says_what_it_was_given(written, name):
    with pytest.raises(ComparisonInvalid) as caught:
        read_logged(written / name)
    assert str(caught.value).endswith(it_is(written / name))


@pytest.mark.parametrize(
    ("read", "wrong", "error"),
    [
        (read_bundle, "families", BundleInvalid),
        (read_bundle, "bundles", BundleInvalid),
        (read_bundle, "bundle.tar.gz", BundleInvalid),
        (read_bundle, "roster.json", BundleInvalid),
        (load_heads, "bundle", HeadsInvalid),
        (load_heads, "portfolio", HeadsInvalid),
        (load_portfolio, "families", PortfolioInvalid),
        (load_portfolio, "export.jsonl", PortfolioInvalid),
        (members_in, "families", ValueError),
        (lambda path: model_source(str(path)), "bundle", NotThere),
        (lambda path: model_source(str(path)), "export.jsonl", NotThere),
        (read_log, "roster.json", LogInvalid),
        (lambda path: evaluate_log(path, path, path.parent / "out"), "pairs.jsonl", LogInvalid),
        (read_training_prompts, "export.jsonl", SettingsInvalid),
        (read_prompts, "export.jsonl", MeasureFailed),
        (read_roster, "export.json", UnusableMember),
        (read_roster, "bundle", UnusableMember),
        (read_roster, "measured.json", UnusableMember),
    ],
)
def test_every_other_reader_says_what_it_was_given(written, read, wrong, error):
    with pytest.raises(error) as caught:
        read(written / wrong)
    assert recognised(written / wrong) in str(caught.value)


@pytest.mark.parametrize("path", ["\0", "x" * 5000])
def test_a_path_that_cannot_be_one_is_no_bundle(path):
    with pytest.raises((BundleInvalid, OSError)):
        read_bundle(Path(path))
