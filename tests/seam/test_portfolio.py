"""`portfolio.json`: a round trip, refusals, and the members' values for a prompt."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from attune.models.seam.certificate import Certificate
from attune.models.seam.families import Families
from attune.models.seam.portfolio import Portfolio, PortfolioInvalid, PortfolioMember, read_portfolio, write_portfolio
from tests.seam import examples


@pytest.fixture
def families(rng) -> Families:
    return examples.all_families(rng)


@pytest.fixture
def portfolio(rng, families) -> Portfolio:
    members = tuple(PortfolioMember(name, f"answers in a {name} manner", {"head0": 0.5, "head1": 0.5}) for name in ("concise", "détaillé"))
    values = {name: rng.normal(size=(2, len(families[name].heads))) for name in families.names}
    return Portfolio(members, values, {name: np.abs(array) / 10 for name, array in values.items()}, certificate(rng))


def certificate(rng) -> Certificate:
    lower = rng.uniform(0.0, 0.5, size=(2, 4))
    return Certificate(
        family="micro",
        rewards=("a", "b", "c", "d"),
        offset=rng.normal(size=4),
        scale=rng.uniform(0.5, 2.0, size=4),
        weight_map=np.diag(rng.uniform(0.5, 2.0, size=4)),
        epsilon=0.02,
        delta=0.01,
        confidence=0.95,
        worst_weights=np.array([0.1, 0.9, 0.0, 0.0]),
        worst_ratio=0.1,
        gap=0.4,
        oracle_calls=9,
        lower=lower,
        upper=lower + 0.1,
        vertices=rng.uniform(0.5, 1.0, size=(5, 4)),
    )


def edited(portfolio: Portfolio, change: Any) -> bytes:
    document = json.loads(write_portfolio(portfolio))
    change(document)
    return json.dumps(document).encode()


def test_a_round_trip_gives_the_same_portfolio_and_the_same_bytes(portfolio, families):
    again = read_portfolio(write_portfolio(portfolio), families)
    assert (again.members, again.names) == (portfolio.members, ("concise", "détaillé"))
    assert again.certificate.document() == portfolio.certificate.document()
    for name in families.names:
        assert np.array_equal(again.values[name], portfolio.values[name])
        assert np.array_equal(again.intervals[name], portfolio.intervals[name])
    assert write_portfolio(again) == write_portfolio(portfolio)


def test_a_portfolio_may_have_no_certificate(portfolio, families):
    assert read_portfolio(write_portfolio(replace(portfolio, certificate=None)), families).certificate is None


def test_an_older_certificate_without_bounds_or_one_of_another_family_is_left_out(portfolio, families):
    assert read_portfolio(edited(portfolio, lambda d: d.update(certificate={"epsilon": 0.02})), families).certificate is None
    assert read_portfolio(edited(portfolio, lambda d: d["certificate"].update(family="stranger")), families).certificate is None


def test_only_the_certified_family_has_a_ratio(portfolio):
    weights = np.full(4, 0.25)
    assert portfolio.certified_ratio("micro", weights) == portfolio.certificate.certified_ratio(weights)
    assert portfolio.certified_ratio("vrf", weights) is None
    assert replace(portfolio, certificate=None).certified_ratio("micro", weights) is None


def test_values_come_from_the_prompt_member_by_member_where_the_graph_gives_them(portfolio):
    row = {"micro_values": np.arange(8, dtype=np.float32)}
    assert portfolio.values_for("micro", row).tolist() == [[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 7.0]]
    assert portfolio.values_for("micro", row).dtype == np.float64


def test_values_are_the_means_without_a_prompt_or_without_the_output(portfolio):
    assert np.array_equal(portfolio.values_for("micro", None), portfolio.values["micro"])
    assert np.array_equal(portfolio.values_for("vrf", {"micro_values": np.zeros(8)}), portfolio.values["vrf"])


@pytest.mark.parametrize("size", [4, 6, 16])
def test_values_of_another_size_are_refused_even_where_they_divide(portfolio, size):
    with pytest.raises(ValueError, match=rf"micro_values is \({size},\); \(8,\) was expected"):
        portfolio.values_for("micro", {"micro_values": np.zeros(size)})


def test_an_unknown_family_has_no_values(portfolio):
    with pytest.raises(KeyError, match="stranger"):
        portfolio.values_for("stranger", {"stranger_values": np.zeros(8)})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "portfolio.json is not JSON"),
        (b"\xff", "portfolio.json is not JSON"),
        (b"[]", "portfolio.json holds a list"),
        (b"{}", "schema None"),
        (b'{"schema": 7}', "schema 7"),
        (b'{"schema": 1}', "members"),
        (b'{"schema": 1, "members": []}', "one or more members"),
        (b'{"schema": 1, "members": [3]}', "members"),
    ],
)
def test_a_document_that_is_none_is_refused(families, content, message):
    with pytest.raises(PortfolioInvalid, match=message):
        read_portfolio(content, families)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["members"][1].update(name="concise"), "names of their own"),
        (lambda d: d["members"][1].update(name=""), "names of their own"),
        (lambda d: d["members"][1].pop("name"), "name"),
        (lambda d: d["members"][1].pop("description"), "description"),
        (lambda d: d["members"][1].update(weights=[1.0]), "weights"),
        (lambda d: d["members"][1].update(weights={"head0": "most"}), "weights"),
        (lambda d: d["members"][1]["values"].pop("vrf"), "values of family 'vrf' are missing or ragged"),
        (lambda d: d["members"][1].pop("intervals"), "intervals of family 'bradley_terry' are missing or ragged"),
        (lambda d: d["members"][1]["values"]["vrf"].pop(), "values of family 'vrf' are missing or ragged"),
        (lambda d: [member["values"]["vrf"].pop() for member in d["members"]], r"values of family 'vrf' are \(2, 3\); finite \(2, 4\)"),
        (lambda d: [member["values"].update(vrf=1.0) for member in d["members"]], r"values of family 'vrf' are \(2,\)"),
        (lambda d: d["members"][0]["values"]["vrf"].__setitem__(0, float("nan")), "values of family 'vrf'"),
        (lambda d: d["members"][0]["values"]["vrf"].__setitem__(0, "high"), "values of family 'vrf'"),
        (lambda d: d["members"][0]["values"]["vrf"].__setitem__(0, None), "values of family 'vrf'"),
        (lambda d: d["members"][0]["intervals"]["micro"].__setitem__(0, float("inf")), "intervals of family 'micro'"),
        (lambda d: d["members"][0]["intervals"]["micro"].__setitem__(0, -0.1), "intervals of family 'micro' are half widths"),
        (lambda d: d.update(certificate=[1]), "certificate is a list"),
        (lambda d: d["certificate"].pop("vertices"), "certificate has no field 'vertices'"),
        (lambda d: d["certificate"].update(scale=[1.0, 1.0, 1.0]), r"scale is \(3,\); \(4,\)"),
        (lambda d: d["certificate"].update(scale=[1.0, 1.0, 0.0, 1.0]), "scales above 0"),
        (lambda d: d["certificate"].update(gap="wide"), "something that is no number"),
        (lambda d: d["certificate"].update(worst_ratio=float("nan")), "numbers has 1 of 5 entries that are not finite"),
        (lambda d: [d["certificate"][name].pop() for name in ("lower", "upper")], "certificate is of 1 members"),
    ],
)
def test_a_damaged_portfolio_is_refused_with_what_is_wrong(portfolio, families, change, message):
    with pytest.raises(PortfolioInvalid, match=message):
        read_portfolio(edited(portfolio, change), families)


def test_numbers_that_json_cannot_hold_are_not_written(portfolio):
    broken = replace(portfolio, values={**portfolio.values, "vrf": np.full((2, 4), np.nan)})
    with pytest.raises(PortfolioInvalid, match="concise"):
        write_portfolio(broken)


def test_values_of_families_that_the_bundle_lacks_are_left_out(portfolio, rng):
    read = read_portfolio(write_portfolio(portfolio), Families([examples.micro(rng)]))
    assert set(read.values) == set(read.intervals) == {"micro"}
