"""`attune portfolio show`: what a terminal is told, and a picture whose colours are right."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from attune.models.__main__ import app
from attune.models.portfolio.picture import draw_portfolio, serving
from attune.models.portfolio.show import what_would_prove_more
from attune.models.seam.bundle import read_bundle
from tests.tiny_bundle import write_tiny_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles"))


def test_a_bundle_is_described_with_values_weights_and_certificate(bundle):
    told = CliRunner().invoke(app, ["portfolio", "show", str(bundle)])
    assert told.exit_code == 0
    assert "3 members; values under the heads of 'vrf'" in told.output
    assert "+1.000 ± 0.050" in told.output
    assert "every user gets at least 0.792 of the best that training reached, or loses at most 0.083" in told.output
    assert "epsilon 0.25, delta 0, with 4 oracle calls" in told.output
    assert "concise 0.33, detailed 0.33, warm 0.33" in told.output


def test_programs_get_the_same_as_json(bundle):
    told = CliRunner().invoke(app, ["portfolio", "show", str(bundle), "--json"])
    assert '"worst_ratio": 0.79' in told.output
    assert '"name": "detailed"' in told.output


def test_a_portfolio_without_certificate_says_so_and_cannot_be_drawn(tmp_path):
    plain = write_tiny_bundle(tmp_path, only="micro")
    assert "no certificate" in CliRunner().invoke(app, ["portfolio", "show", str(plain)]).output
    refused = CliRunner().invoke(app, ["portfolio", "show", str(plain), "--picture", str(tmp_path / "p.png")])
    assert (refused.exit_code, "no certificate to draw" in refused.output) == (1, True)


def test_what_is_not_there_is_an_error_and_no_traceback(bundle, tmp_path):
    assert CliRunner().invoke(app, ["portfolio", "show", str(tmp_path)]).exit_code == 1
    refused = CliRunner().invoke(app, ["portfolio", "show", str(bundle), "--family", "stranger"])
    assert (refused.exit_code, "no values of family 'stranger'" in refused.output) == (1, True)


def test_every_user_is_served_by_the_best_member_and_told_what_is_proved(bundle):
    certificate = read_bundle(bundle).portfolio.certificate
    members, ratios = serving(certificate, np.array([[0.8, 0.1, 0.1], [0.1, 0.1, 0.8], [1 / 3, 1 / 3, 1 / 3]]))
    assert members[:2].tolist() == [0, 2]
    assert ratios.tolist() == pytest.approx([0.95, 0.95, 0.95 / 1.2])


@pytest.mark.parametrize("rewards", [2, 3, 5])
def test_a_picture_is_drawn_for_any_number_of_rewards(bundle, tmp_path, rewards):
    certificate = read_bundle(bundle).portfolio.certificate
    eye = np.eye(rewards)
    other = replace(
        certificate,
        rewards=tuple("abcde"[:rewards]),
        offset=np.zeros(rewards),
        scale=np.ones(rewards),
        weight_map=eye,
        worst_weights=np.full(rewards, 1 / rewards),
        lower=eye * 0.9,
        upper=eye,
        vertices=eye,
    )
    path = draw_portfolio(other, tuple("vwxyz"[:rewards]), tmp_path / "deep" / "portfolio.png")
    assert path.stat().st_size > 5000


def test_a_portfolio_that_proves_next_to_nothing_says_what_would_help():
    (advice,) = what_would_prove_more(0.0)
    assert "more prompts" in advice
    assert "--max-calls" in advice
    assert what_would_prove_more(0.5) == []
