"""From a folder of families to a bundle: with nothing else, with a roster, with a portfolio; and what does not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from attune.models.data.model_folder import TrunkUnavailable
from attune.models.data.preferences import Texts
from attune.models.data.probes import draw_probes, read_probes, write_probes
from attune.models.data.trunk import Trunk, load_trunk
from attune.models.data.trunk_file import load_trunk_of, write_trunk_file
from attune.models.export.pack import pack
from attune.models.export.portfolio_files import MembersInvalid
from attune.models.seam.bradley_terry import BradleyTerry
from attune.models.seam.bundle import BundleInvalid, read_bundle
from attune.models.seam.families import Families
from attune.models.seam.member_values import POOLED, ValueHeads, write_values
from attune.models.seam.portfolio import Portfolio, PortfolioMember, write_portfolio
from attune.models.training.cards import write_cards
from attune.models.training.heads import Heads, TrainedFamily, compute_outputs, load_heads, save_heads
from tests.models.tiny_trunk import write_tiny_trunk


def global_family(width: int, seed: int = 0) -> TrainedFamily:
    torch.manual_seed(seed)
    heads = Heads({"quality_rewards": nn.Sequential(nn.Linear(width, 1))}, {"quality_rewards": "candidate"})
    return TrainedFamily(BradleyTerry("quality", ("quality",), 1.0), heads.eval().requires_grad_(requires_grad=False))


def write_families_folder(folder: Path, trunk: Trunk) -> Path:
    save_heads(folder, [global_family(trunk.width)], "quality")
    write_trunk_file(folder, trunk)
    return folder


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("families")
    trunk = load_trunk(str(write_tiny_trunk(folder / "trunk", "encoder")))
    return write_families_folder(folder, trunk)


def write_portfolio_folder(folder: Path, members: tuple[str, ...], width: int = 33) -> Path:
    means = np.arange(len(members), dtype=np.float64)[:, None]
    portfolio = Portfolio(
        tuple(PortfolioMember(name, name, {}) for name in members), {"quality": means}, {"quality": np.full_like(means, 0.1)}, None
    )
    folder.mkdir(exist_ok=True)
    (folder / "portfolio.json").write_bytes(write_portfolio(portfolio))
    heads = {"quality": ValueHeads(np.ones((len(members), 1, width)), means)}
    (folder / "values.npz").write_bytes(write_values(members, heads))
    return folder


def place(name: str) -> dict[str, str]:
    return {"kind": "openai", "base_url": "http://127.0.0.1:9/v1", "model": name}


def test_a_folder_of_families_alone_becomes_a_bundle_that_scores(families: Path, tmp_path: Path) -> None:
    done = pack(families, tmp_path, "mine")
    bundle = read_bundle(done.path)
    assert bundle.id.startswith("mine-")
    assert bundle.portfolio.members == ()
    assert set(bundle.probes.answers) == {"quality_rewards", POOLED}
    assert "no members" in done.told[0]
    assert not (done.path / "portfolio.json").exists()


def test_members_come_from_a_portfolio_and_a_roster_and_leave_graph_and_basis_as_they_are(families: Path, tmp_path: Path) -> None:
    alone = read_bundle(pack(families, tmp_path, "mine").path)
    folder = write_portfolio_folder(tmp_path / "pf", ("a", "b"))
    roster = tmp_path / "roster.json"
    roster.write_text(json.dumps({name: place(name) for name in ("b", "c")}))
    done = pack(families, tmp_path, "mine", portfolio=folder, roster=roster)
    bundle = read_bundle(done.path)
    assert bundle.basis == alone.basis
    assert bundle.scorer.read_bytes() == alone.scorer.read_bytes()
    assert bundle.portfolio.names == ("a", "b")
    vector = np.full(33, 0.5, dtype=np.float32)
    assert bundle.portfolio.values_for("quality", {POOLED: vector})[:, 0] == pytest.approx([16.5, 17.5])
    assert list(json.loads((done.path / "roster.json").read_text())) == ["b", "c"]
    assert [line.rsplit(": ")[-1] for line in done.told] == ["c", "a"]


def test_a_roster_alone_is_enough_for_a_bundle_that_routes(families: Path, tmp_path: Path) -> None:
    roster = tmp_path / "roster.toml"
    roster.write_text('[gpt]\nkind = "openai"\nbase_url = "http://127.0.0.1:9/v1"\nmodel = "m"\n')
    done = pack(families, tmp_path, "mine", roster=roster)
    assert json.loads((done.path / "roster.json").read_text())["gpt"]["model"] == "m"
    assert done.told == ("all members begin at the prior, since nothing was measured: gpt",)


def test_local_members_travel_with_the_bundle_under_their_relative_paths(families: Path, tmp_path: Path) -> None:
    folder = write_portfolio_folder(tmp_path / "pf", ("a",))
    (folder / "models" / "base").mkdir(parents=True)
    (folder / "models" / "base" / "weights").write_bytes(b"w")
    roster = {"a": {"kind": "local", "base": "models/base"}, "far": {"kind": "local", "base": "/elsewhere/base"}}
    (folder / "roster.json").write_text(json.dumps(roster))
    path = pack(families, tmp_path, "mine", portfolio=folder).path
    assert (path / "models" / "base" / "weights").read_bytes() == b"w"
    assert json.loads((path / "roster.json").read_text()) == roster


def test_a_local_member_beside_its_roster_does_not_take_the_place_of_the_bundles_own_files(families: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "roster.json").write_text('{"a": {"kind": "local", "base": "."}}')
    with pytest.raises(MembersInvalid, match=r"a local member's tokenizer\.json would take the place of the bundle's own"):
        pack(families, tmp_path / "bundles", "mine", roster=tmp_path / "roster.json")


@pytest.mark.parametrize(
    ("roster", "message"),
    [
        ('{"a": {"kind": "local", "base": "b"}, "a": {"kind": "local", "base": "c"}}', "'a' stands twice"),
        ('{"a": {"kind": "local", "base": "nowhere"}}', r"member 'a': base 'nowhere' is no folder below"),
        ('{"a": {"kind": "local", "base": "../out"}}', "member 'a': base"),
        ("[1]", "holds a list"),
        ("{", "is not JSON"),
    ],
)
def test_a_roster_that_cannot_be_used_is_refused_before_anything_is_exported(
    families: Path, tmp_path: Path, roster: str, message: str
) -> None:
    (tmp_path / "roster.json").write_text(roster)
    with pytest.raises(MembersInvalid, match=message):
        pack(families, tmp_path / "bundles", "mine", roster=tmp_path / "roster.json")
    assert not (tmp_path / "bundles").exists()


def test_a_certificate_of_rewards_that_are_no_family_is_left_out_and_told(families: Path, tmp_path: Path) -> None:
    folder = write_portfolio_folder(tmp_path / "pf", ("a",))
    document = json.loads((folder / "portfolio.json").read_text())
    (folder / "portfolio.json").write_text(json.dumps(document | {"certificate": {"family": "rewards"}}))
    (folder / "roster.json").write_text(json.dumps({"a": place("a")}))
    done = pack(families, tmp_path, "mine", portfolio=folder)
    assert "certificate is of rewards named 'rewards', and the bundle has the families quality" in done.told[0]
    assert read_bundle(done.path).portfolio.certificate is None
    assert list(done.told) == json.loads((done.path / "manifest.json").read_text())["told"]


def test_the_trunk_is_found_again_beside_its_heads_and_another_one_is_refused(families: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(families, tmp_path / "moved")
    assert json.loads((moved / "trunk.json").read_text())["source"] == "trunk"
    assert load_trunk_of(moved).sha256 == load_trunk_of(families).sha256
    shutil.rmtree(moved / "trunk")
    write_tiny_trunk(moved / "trunk", "encoder", max_positions=64)
    with pytest.raises(TrunkUnavailable, match="were trained on"):
        load_trunk_of(moved)
    (moved / "trunk.json").unlink()
    with pytest.raises(TrunkUnavailable, match=r"has no trunk\.json"):
        pack(moved, tmp_path, "mine")


def test_probes_are_drawn_from_the_data_by_length_and_come_back_as_written(tmp_path: Path) -> None:
    texts = Texts((("p", None), ("q", "context")), tuple(("p", "word " * count) for count in range(1, 40)))
    drawn = draw_probes(texts, seed=0)
    assert drawn == draw_probes(texts, seed=0)
    assert ("p", "word ") in drawn
    assert ("p", "word " * 39) in drawn
    assert {prompt for prompt, response in drawn if not response} >= {"p", "q"}
    write_probes(tmp_path, [*drawn, ("line\u2028separator\n", "x")])
    assert read_probes(tmp_path)[-1] == ("line\u2028separator\n", "x")


def test_families_of_the_bundle_are_those_of_the_folder(families: Path, tmp_path: Path) -> None:
    bundle = read_bundle(pack(families, tmp_path, "mine").path)
    assert isinstance(bundle.families, Families)
    assert bundle.families.names == ("quality",)
    assert bundle.template == load_trunk_of(families).template


def test_cards_of_the_heads_travel_with_the_bundle_and_damaged_ones_are_refused(families: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(families, tmp_path / "fam")
    trunk = load_trunk_of(folder)
    texts = Texts((("p", None),), tuple(("p", f"word {count} " * count) for count in range(1, 9)))
    vectors = trunk.embed([trunk.encoder.candidates(prompt, [response])[0] for prompt, response in texts.candidates])
    write_cards(folder, load_heads(folder)[0], texts, vectors)
    bundle = read_bundle(pack(folder, tmp_path / "b", "mine").path)
    rewards = compute_outputs(load_heads(folder)[0], vectors)["quality_rewards"][:, 0]
    order = [texts.candidates[index][1] for index in np.argsort(-rewards)]
    assert bundle.examples("quality", "quality") == order[:3]
    assert [example["response"] for example in bundle.cards["quality"]["quality"]["lowest"]] == order[::-1][:3]
    assert bundle.examples("quality", "stranger") == []
    (folder / "cards.json").write_text('{"quality": {"quality": {"highest": [1]}}}')
    with pytest.raises(BundleInvalid, match=r"cards\.json cannot be used: each head needs 'highest'"):
        read_bundle(pack(folder, tmp_path / "b", "mine").path)
