"""The demo's members: what they are called, how they are installed, and what their rewards are in."""

from __future__ import annotations

import json

import numpy as np
import pytest

from attune.models.training.attributes import AttributesSettings, Ratings, train_attributes
from demo.corpus.texts import MANNERS
from demo.members import describe, install_members, member_names
from demo.portfolio import normalised_rewards, policy_name
from tests.models.small_world import BagOfWords, small_world

NAMES = ("concise", "playful", "bold")


@pytest.mark.parametrize(
    ("weights", "name"),
    [
        ([1.0, 0.0, 0.0], "concise"),
        ([0.04, 0.96, 0.0], "playful"),
        ([0.24, 0.76, 0.0], "playful8-concise2"),
        ([1 / 3, 1 / 3, 1 / 3], "concise3-playful3-bold3"),
        ([0.1, 0.8, 0.1], "playful8"),
    ],
)
def test_a_policy_is_named_after_the_rewards_that_matter_to_it(weights, name):
    assert policy_name(NAMES, np.array(weights)) == name


def test_a_member_for_one_manner_is_described_by_it_and_a_mixed_one_by_its_shares():
    assert describe({"concise": 1.0, "playful": 0.0}) == "Answers in as few words as will do."
    assert describe({"concise": 0.25, "playful": 0.75, "bold": 0.0}) == "For people who want 75% playful, 25% concise."


def test_installed_members_replace_those_before_and_the_roster_keeps_their_order(tmp_path):
    sources = {}
    for name in ("playful", "bold8-concise2"):
        folder = tmp_path / "trained" / name
        folder.mkdir(parents=True)
        (folder / "adapter_config.json").write_text(json.dumps({"r": 8}))
        (folder / "adapter_model.safetensors").write_bytes(name.encode())
        (folder / "member.json").write_text("{}")
        sources[name] = folder
    old = tmp_path / "demo" / "language_model" / "adapters" / "gone"
    old.mkdir(parents=True)
    assert member_names(tmp_path / "demo") == MANNERS  # before there is a roster
    install_members(tmp_path / "demo", sources)
    assert member_names(tmp_path / "demo") == ("playful", "bold8-concise2")
    installed = tmp_path / "demo" / "language_model" / "adapters"
    assert sorted(path.name for path in installed.iterdir()) == ["bold8-concise2", "playful"]
    assert (installed / "playful" / "adapter_model.safetensors").read_bytes() == b"playful"
    assert not (installed / "playful" / "member.json").exists()
    entry = json.loads((tmp_path / "demo" / "roster.json").read_text())["bold8-concise2"]
    assert entry == {"kind": "local", "base": "language_model/base", "adapter": "language_model/adapters/bold8-concise2"}


def test_rewards_are_in_the_units_of_the_ratings_and_the_certificates_map_says_so():
    data, _ = small_world(users=60)
    texts = data.train.texts
    trunk = BagOfWords([f"{prompt} {response}" for prompt, response in texts.candidates], width=9)
    raw = data.vectors.candidates[:, :2].astype(np.float64)
    scores = (raw - raw.min(axis=0)) / np.ptp(raw, axis=0)
    row = np.arange(len(scores)) // 8
    rated = train_attributes(data, Ratings(("a", "b"), scores, row < 20, row >= 20), AttributesSettings((1e-3,)), 0)
    normalisation, rewards = normalised_rewards(rated, trunk, None)
    # Where the heads are exact, head plus intercept is the rating: the frozen map undoes the centring and nothing else.
    heads = rated.heads.outputs["attributes_rewards"][0]
    exact = data.vectors.candidates @ heads.weight.numpy().T + heads.bias.numpy()
    np.testing.assert_allclose(normalisation.apply(exact), scores, atol=2e-3)
    np.testing.assert_array_equal(normalisation.weight_map(), np.eye(2))
    found = rewards.of(["p0", "p0", "p1"], ["r1", "r2", "r1"])
    assert found.shape == (3, 2)
    assert ((found >= 0) & (found <= 1)).all()
    np.testing.assert_array_equal(found, np.concatenate([rewards.of(["p0", "p0"], ["r1", "r2"]), rewards.of(["p1"], ["r1"])]))
