"""`portfolio.json` and `values.npz`: a round trip, refusals, the members' values for a prompt, and members that come and go."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from attune.models.seam.certificate import Certificate
from attune.models.seam.families import Families
from attune.models.seam.member_values import POOLED, ValueHeads, write_values
from attune.models.seam.portfolio import Portfolio, PortfolioInvalid, PortfolioMember, no_members, read_portfolio, write_portfolio
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


@pytest.mark.parametrize(
    "change", [lambda d: d.update(certificate={"epsilon": 0.02}), lambda d: d["certificate"].update(family="stranger")]
)
def test_a_certificate_of_a_family_that_is_not_there_is_an_error_that_says_what_to_do(portfolio, families, change):
    with pytest.raises(PortfolioInvalid, match=r"family .*and the bundle has .*without a certificate has null"):
        read_portfolio(edited(portfolio, change), families)


def test_a_certificate_speaks_of_its_own_family_alone(portfolio):
    assert portfolio.proved_under("micro") is portfolio.certificate is not None
    assert portfolio.proved_under("vrf") is None
    assert replace(portfolio, certificate=None).proved_under("micro") is None


def value_heads(portfolio: Portfolio, rng, width: int = 5) -> dict[str, ValueHeads]:
    return {family: ValueHeads(rng.normal(size=(*means.shape, width)), means) for family, means in portfolio.values.items()}


def test_values_for_a_prompt_are_linear_in_its_pooled_vector(portfolio, families, rng):
    heads = value_heads(portfolio, rng)
    content = write_values(portfolio.names, heads)
    read = read_portfolio(write_portfolio(portfolio), families, content)
    vector = rng.normal(size=5).astype(np.float32)
    by_hand = [[float(heads["micro"].weight[m, k] @ vector + heads["micro"].bias[m, k]) for k in range(4)] for m in range(2)]
    assert read.values_for("micro", {POOLED: vector}) == pytest.approx(np.array(by_hand), abs=1e-5)
    assert read.values_for("micro", {POOLED: vector}).dtype == np.float64
    assert write_values(portfolio.names, heads) == content


def test_value_heads_are_found_by_the_names_of_the_members_and_not_by_their_order(portfolio, families, rng):
    heads = value_heads(portfolio, rng)
    turned = {family: head.of([1, 0]) for family, head in heads.items()}
    vector = {POOLED: rng.normal(size=5).astype(np.float32)}
    read = [
        read_portfolio(write_portfolio(portfolio), families, write_values(names, values))
        for names, values in ((portfolio.names, heads), (portfolio.names[::-1], turned))
    ]
    assert np.array_equal(read[0].values_for("vrf", vector), read[1].values_for("vrf", vector))


def test_values_are_the_means_without_a_prompt_or_without_value_heads(portfolio, families, rng):
    assert np.array_equal(portfolio.values_for("micro", {POOLED: np.zeros(5, dtype=np.float32)}), portfolio.values["micro"])
    with_heads = read_portfolio(write_portfolio(portfolio), families, write_values(portfolio.names, value_heads(portfolio, rng)))
    assert np.array_equal(with_heads.values_for("micro", None), portfolio.values["micro"])
    assert np.array_equal(with_heads.values_for("micro", {"micro_gate": np.zeros(4)}), portfolio.values["micro"])


def test_a_vector_of_another_size_is_refused(portfolio, rng):
    with pytest.raises(ValueError, match=r"pooled is \(6,\); \(5,\) was expected"):
        replace(portfolio, heads=value_heads(portfolio, rng)).values_for("micro", {POOLED: np.zeros(6, dtype=np.float32)})


@pytest.mark.parametrize(
    ("names", "change", "message"),
    [
        (("concise", "stranger"), lambda heads: heads, r"values.npz is of members \['concise', 'stranger'\]; portfolio.json has"),
        (("concise",), lambda heads: {name: head.of([0]) for name, head in heads.items()}, "values.npz is of members"),
        (
            ("concise", "détaillé"),
            lambda heads: {"micro": ValueHeads(np.zeros((2, 3, 5)), np.zeros((2, 3)))},
            r"'micro' has heads for \(2, 3\); \(2, 4\)",
        ),
        (
            ("concise", "détaillé"),
            lambda heads: {**heads, "vrf": ValueHeads(np.zeros((2, 4, 6)), np.zeros((2, 4)))},
            "vectors of different sizes",
        ),
    ],
)
def test_value_heads_that_do_not_fit_are_refused_with_what_is_wrong(portfolio, families, rng, names, change, message):
    with pytest.raises(PortfolioInvalid, match=message):
        read_portfolio(write_portfolio(portfolio), families, write_values(names, change(value_heads(portfolio, rng))))


@pytest.mark.parametrize("content", [b"", b"PK", write_values(("a",), {})[:40]])
def test_a_damaged_file_of_values_is_refused(portfolio, families, content):
    with pytest.raises(PortfolioInvalid, match=r"values\.npz"):
        read_portfolio(write_portfolio(portfolio), families, content)


# --- the members that serve


def test_a_bundle_without_members_has_a_portfolio_without_any(families, rng):
    empty = no_members(families)
    assert empty.names == ()
    assert all(empty.values_for(name, {POOLED: np.zeros(3)}).shape == (0, len(families[name].heads)) for name in families.names)
    assert read_portfolio(write_portfolio(empty), families).members == ()
    assert write_portfolio(read_portfolio(write_portfolio(empty), families)) == write_portfolio(empty)


def test_members_are_left_out_turned_round_and_added_without_a_graph(portfolio, rng):
    whole = replace(portfolio, heads=value_heads(portfolio, rng))
    vector = {POOLED: rng.normal(size=5).astype(np.float32)}
    known = whole.values_for("vrf", vector)
    served = whole.for_members(["détaillé", "new", "concise"])
    assert served.names == ("détaillé", "new", "concise")
    assert served.unmeasured == {"new"}
    assert served.values_for("vrf", vector) == pytest.approx(np.array([known[1], known.mean(axis=0), known[0]]))
    assert np.array_equal(served.values["vrf"][0], portfolio.values["vrf"][1])
    assert np.array_equal(whole.for_members(["détaillé"]).values_for("vrf", vector)[0], known[1])
    assert whole.for_members(whole.names) is whole


def test_a_member_that_was_never_measured_is_worth_the_mean_of_the_others_and_nobody_is_sure_of_it(portfolio, families):
    served = portfolio.for_members([*portfolio.names, "new"])
    for family, means in portfolio.values.items():
        assert served.values[family][2] == pytest.approx(means.mean(axis=0))
        assert np.all(served.intervals[family][2] >= np.maximum(1.96, 1.96 * means.std(axis=0, ddof=1) - 1e-9))
        assert np.array_equal(served.intervals[family][:2], portfolio.intervals[family])
    alone = no_members(families).for_members(["first", "second"])
    assert np.array_equal(alone.values["micro"], np.zeros((2, 4)))
    assert np.array_equal(alone.intervals["micro"], np.full((2, 4), 1.96))
    # A prior is no measurement: a third one begins where the others began, not at what was guessed of them.
    assert alone.for_members(["first", "third"]).unmeasured == {"first", "third"}


def test_a_certificate_holds_for_each_user_with_the_members_that_are_left(portfolio):
    weights = np.array([0.1, 0.2, 0.3, 0.4])
    certificate = portfolio.certificate
    mapped = certificate.palm_weights(weights)
    left = portfolio.for_members(["détaillé"]).certificate
    assert left.bounds(mapped) == (pytest.approx(float(certificate.lower[1] @ mapped)), certificate.bounds(mapped)[1])
    assert (left.epsilon, left.worst_ratio) == (1.0, 0.0)
    more = portfolio.for_members([*portfolio.names, "new"]).certificate
    assert more.bounds(mapped) == pytest.approx(certificate.bounds(mapped))
    assert (more.epsilon, more.worst_ratio) == (certificate.epsilon, certificate.worst_ratio)
    assert portfolio.for_members(["new"]).certificate is None
    assert portfolio.for_members([]).certificate is None


def test_an_unknown_family_has_no_values(portfolio):
    with pytest.raises(KeyError, match="stranger"):
        portfolio.values_for("stranger", {POOLED: np.zeros(8)})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "portfolio.json is not JSON"),
        (b"\xff", "portfolio.json is not UTF-8: byte 0xff"),
        (b"[]", "portfolio.json holds a list"),
        (b"{}", "schema None"),
        (b'{"schema": 7}', "schema 7"),
        (b'{"schema": 1}', "members"),
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
