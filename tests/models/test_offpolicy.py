"""Off-policy evaluation: worked out by hand, covered on simulated logs, and read from what an export really looks like."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace

import numpy as np
import pytest

from attune.models.measuring.policy.duels import Duels, LogInvalid, duels_from
from attune.models.measuring.policy.estimators import (
    AS_LOGGED,
    best_single,
    estimate,
    evaluate_policies,
    predict_wins,
    target_laws,
    unsupported,
)
from attune.models.measuring.policy.intervals import of_mean, of_ratio, of_skewed, untransformed
from attune.models.measuring.policy.values_report import evaluate_log, read_log
from studies.offpolicy_check.run import coverage, simulated_log, true_values


def decision(name: str, members: tuple[str, str], joint: float | None = 0.25, user: str = "u1", policy: str = "sample") -> dict:
    laws = {"a": 0.5, "b": 0.25, "c": 0.25}
    return {
        "type": "decision",
        "decision_id": name,
        "user_tag": user,
        "routing": {
            "policy": policy,
            "members": list(members),
            "propensity": None if joint is None else laws[members[0]],
            "joint_propensity": joint,
            "propensities": laws,
            "expected": {member: {"mean": mean, "std": 0.1} for member, mean in (("a", 0.3), ("b", 0.2), ("c", 0.1))},
        },
        "candidates": [{"candidate_id": f"{name}-{i}", "index": i, "member": member} for i, member in enumerate(members)],
    }


def comparison(event: str, chosen: str | None, rejected: str | None, *, tie: bool = False) -> dict:
    return {"type": "comparison", "event_id": event, "chosen": chosen, "rejected": rejected, "tie": tie}


DECISIONS = [
    decision("d1", ("a", "b")),
    decision("d2", ("c", "a"), joint=1 / 6, user="u2"),
    decision("d3", ("b", "a"), joint=None),
    decision("d4", ("a", "c")),
]
COMPARISONS = [
    comparison("e1", "d1-0", "d1-1"),
    comparison("e2", "d2-1", "d2-0"),
    comparison("e3", "d3-0", "d3-1"),
    comparison("e4", None, None),
    comparison("e5", "d1-0", "d2-0"),
    comparison("e6", "gone-0", "gone-1"),
]


def test_duels_are_what_was_drawn_and_the_rest_is_counted():
    duels = duels_from(DECISIONS, COMPARISONS)
    assert duels.members == ("a", "b", "c")
    assert (duels.first.tolist(), duels.second.tolist(), duels.won.tolist()) == ([0, 2], [1, 0], [1.0, 0.0])
    assert duels.joint.tolist() == [0.25, 1 / 6]
    assert duels.users.tolist() == [0, 1]
    assert dict(duels.left_out) == {
        "comparisons of decisions with a null propensity": 1,
        "comparisons of texts": 1,
        "comparisons across two decisions": 1,
        "comparisons of unknown decisions": 1,
        "decisions nobody compared": 1,
    }


def test_a_tie_is_half_a_win_for_each():
    assert duels_from(DECISIONS, [comparison("e1", "d1-1", "d1-0", tie=True)]).won.tolist() == [0.5]


def test_inverse_propensities_worked_out_by_hand():
    duels = duels_from(DECISIONS, COMPARISONS)
    always_a = target_laws(duels)["always a"]
    found = estimate(duels, always_a, np.full((2, 3, 3), 0.5))
    # Weights of a's role: 1 / (2 * 0.25) / 2 = 1 and 1 / (2 / 6) / 2 = 1.5; a won both.
    assert found["ips"].value == pytest.approx((1.0 + 1.5) / 2)
    assert found["snips"].value == pytest.approx(1.0)
    assert found["dr"].value == pytest.approx(0.5 + (1.0 * 0.5 + 1.5 * 0.5) / 2)


def test_the_value_of_uniform_routing_is_one_half_whatever_was_logged():
    duels, _ = simulated_log(20, 4, np.random.default_rng(0))
    found = estimate(duels, target_laws(duels)["uniform"])
    assert found["snips"].value == pytest.approx(0.5)
    assert found["dr"].value == pytest.approx(0.5)


@pytest.mark.slow
def test_the_intervals_hold_the_truth_in_nineteen_of_twenty_logs():
    found = coverage(60, users=80, rounds=5, truth_users=3000, seed=2)
    for policy in (AS_LOGGED, "best", "uniform", "best single"):
        for estimator in ("ips", "snips", "dr"):
            assert found[policy][estimator]["coverage"] >= 0.85  # 57 of 60 expected; fewer than 51 has a chance of 0.3 %
            assert abs(found[policy][estimator]["bias"]) < 0.03
    assert found["best"]["dr"]["width"] < found["best"]["ips"]["width"]


def test_intervals_that_forget_that_duels_of_a_user_are_alike_would_be_too_short():
    duels, _ = simulated_log(40, 8, np.random.default_rng(1))
    repeated = Duels(
        duels.members,
        *(np.concatenate([column] * 3) for column in (duels.users, duels.first, duels.second, duels.won, duels.joint)),
        *(np.concatenate([table] * 3) for table in (duels.laws, duels.expected, duels.as_pair)),
        duels.left_out,
    )
    law = target_laws(duels)["best"]
    once, thrice = estimate(duels, law, np.full((320, 4, 4), 0.5)), estimate(repeated, np.concatenate([law] * 3), np.full((960, 4, 4), 0.5))
    assert thrice["ips"].high - thrice["ips"].low == pytest.approx(once["ips"].high - once["ips"].low)


def test_an_interval_of_skewed_weights_reaches_further_to_where_the_rare_duels_are():
    duels, _ = simulated_log(150, 8, np.random.default_rng(3))
    found = estimate(duels, target_laws(duels)["always d"])
    assert found["ips"].high - found["ips"].value > 1.2 * (found["ips"].value - found["ips"].low)
    for name in ("snips", "dr"):  # nearly symmetric: normalised weights, or a prediction, carry less skewness
        assert found[name].high - found[name].value == pytest.approx(found[name].value - found[name].low, rel=0.1)


@pytest.mark.parametrize("skewness", [-4.0, -0.5, 0.0, 0.7, 9.0])
def test_halls_transformation_of_what_was_untransformed_is_the_quantile(skewness):
    for quantile in (-2.3, 0.4, 1.97):
        t, root = untransformed(quantile, skewness, 200), np.sqrt(200)
        moved = t + skewness * t**2 / (3 * root) + skewness**2 * t**3 / (27 * 200) + skewness / (6 * root)
        assert moved == pytest.approx(quantile)


def test_duels_that_policy_learn_drew_value_other_policies_as_those_of_sampling_do():
    # 20 logs whose first half was drawn as pairs: no estimator is off by more than chance (four standard errors of a mean).
    found: dict[tuple[str, str], list[float]] = {}
    for number in range(20):
        duels, wins = simulated_log(40, 4, np.random.default_rng([7, number]), learn_rounds=2)
        assert duels.as_pair.mean() == 0.5
        truth, laws = true_values(duels, wins), target_laws(duels)
        predicted = predict_wins(duels)
        for name in (AS_LOGGED, "best", "always a", "always d"):
            for estimator, one in estimate(duels, laws[name], predicted).items():
                found.setdefault((name, estimator), []).append(one.value - truth[name])
            assert unsupported(duels, laws[name]) == 0.0
    for values in found.values():
        assert abs(np.mean(values)) < 4.0 * np.std(values) / np.sqrt(len(values)) + 0.005


def test_a_pair_that_learning_drew_could_have_been_any_pair_also_where_its_margins_say_nothing():
    # Margins of a law of pairs may be so uneven that drawing one member after the other could not give some pairs.
    duels = duels_from([decision("d1", ("a", "b"), policy="learn")], COMPARISONS[:1])
    uneven = replace(duels, laws=np.array([[1.0, 0.0, 0.0]]))
    assert duels.as_pair.tolist() == [True]
    assert unsupported(uneven, target_laws(uneven)["always c"]) == 0.0
    assert unsupported(replace(uneven, as_pair=np.array([False])), target_laws(uneven)["always c"]) == 1.0


def test_a_policy_that_the_log_could_not_have_drawn_is_marked():
    duels = duels_from(DECISIONS, COMPARISONS)
    certain = replace(duels, laws=np.tile([1.0, 0.0, 0.0], (2, 1)))
    assert unsupported(certain, target_laws(certain)["best"]) == pytest.approx(0.5)  # after a, only b could follow
    assert unsupported(certain, target_laws(certain)["always c"]) == 1.0
    assert unsupported(duels, target_laws(duels)["always c"]) == 0.0


def test_better_routing_has_the_greater_value_and_the_best_member_is_not_chosen_on_the_duels_that_value_it():
    duels, wins = simulated_log(300, 8, np.random.default_rng(4))
    truth, found = true_values(duels, wins), evaluate_policies(duels)
    assert truth["best"] > truth["always a"] > truth["uniform"]
    for name in ("best", AS_LOGGED):
        assert found[name]["dr"].low > 0.5
    assert found["best single"]["dr"].value == pytest.approx(truth["always a"], abs=0.08)


def test_one_user_is_not_enough_to_choose_a_member_on_others():
    duels, _ = simulated_log(1, 8, np.random.default_rng(0))
    with pytest.raises(LogInvalid, match="one user"):
        best_single(duels)


def test_files_of_exports_become_a_report(tmp_path):
    log = tmp_path / "export.jsonl"
    lines = [
        {"type": "user", "id": "u1"},
        *DECISIONS,
        *COMPARISONS,
        comparison("e9", "d4-0", "d4-1"),
        {"type": "taken-back", "event_id": "e9"},
    ]
    log.write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    results = evaluate_log(log, log, tmp_path / "out")
    assert (results["duels"], results["users"], results["left_out"]["decisions nobody compared"]) == (2, 2, 1)
    assert json.loads((tmp_path / "out" / "results.json").read_text("utf-8"))["policies"]["always a"]["ips"]["value"] == pytest.approx(1.25)
    assert "| best single |" in (tmp_path / "out" / "report.md").read_text("utf-8")


def test_two_users_with_one_event_id_have_two_comparisons_and_one_takes_back_only_their_own(tmp_path):
    log = tmp_path / "export.jsonl"
    lines = [
        {"type": "user", "id": "ada"},
        comparison("tour-0", "c1", "c2"),
        {"type": "user", "id": "bob"},
        comparison("tour-0", "c3", "c4"),
    ]
    log.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    assert [one["chosen"] for one in read_log(log)[1].values()] == ["c1", "c3"]
    lines.append({"type": "taken-back", "event_id": "tour-0"})
    log.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    assert [one["chosen"] for one in read_log(log)[1].values()] == ["c1"]


def test_decisions_and_comparisons_without_types_are_read_from_packed_files_with_a_byte_order_mark(tmp_path):
    plain = [{key: value for key, value in line.items() if key != "type"} for line in [*DECISIONS, *COMPARISONS]]
    (tmp_path / "log.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, plain)).encode("utf-8-sig")))
    decisions, comparisons = read_log(tmp_path / "log.jsonl.gz")
    assert (len(decisions), len(comparisons)) == (len(DECISIONS), len(COMPARISONS))


def test_ratings_and_rankings_are_counted_and_no_duels(tmp_path):
    others = [{"kind": "rating", "rating": 1.0, "candidate": "d1-0"}, {"kind": "ranking", "ranking": ["d1-0", "d1-1"]}]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, others)), encoding="utf-8")
    with_them, without = (
        duels_from(DECISIONS, [*COMPARISONS, *read_log(tmp_path / "log.jsonl")[1].values()]),
        duels_from(DECISIONS, COMPARISONS),
    )
    assert with_them.won.tolist() == without.won.tolist()
    assert with_them.left_out == {**without.left_out, "ratings of one answer": 1, "rankings": 1}


def test_lines_and_fields_that_cannot_be_used_are_named(tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_text('{"type": "user"}\n{"decision_id"\n', encoding="utf-8")
    with pytest.raises(LogInvalid, match=r"log.jsonl: line 1: id is None; a text is needed; line 2 is not JSON"):
        read_log(log)
    log.write_text('{"colour": 1}\n', encoding="utf-8")
    with pytest.raises(LogInvalid, match=r"log.jsonl line 1 is neither a decision nor a comparison: colour"):
        read_log(log)
    with pytest.raises(LogInvalid, match="decision 1 lacks 'user_tag'"):
        duels_from([{"decision_id": "d"}], [])
    with pytest.raises(LogInvalid, match="decision 2 lacks 'propensities'"):
        duels_from([DECISIONS[0], DECISIONS[1] | {"routing": {}}], [])
    with pytest.raises(LogInvalid, match="comparison 1 lacks 'rejected'"):
        duels_from(DECISIONS, [{"chosen": "d1-0"}])
    said = "hold no choice between two members that one decision drew"
    with pytest.raises(
        LogInvalid, match=rf"^{len(DECISIONS)} decisions and 0 comparisons {said}: decisions nobody compared \({len(DECISIONS)}\)$"
    ):
        duels_from(DECISIONS, [])
    with pytest.raises(LogInvalid, match=rf"^0 decisions and 0 comparisons {said}: both files are empty$"):
        duels_from([], [])
    broken = [decision("d1", ("a", "b"), joint=1.5)]
    with pytest.raises(LogInvalid, match=r"decision 1 has joint propensity 1\.5"):
        duels_from(broken, COMPARISONS[:1])


@pytest.mark.parametrize("users", [8, 40, 400])
def test_answers_that_all_agree_are_no_certainty(users):
    number, ones = np.arange(users), np.ones(users)
    for found in (of_mean(ones, number), of_ratio(ones, ones, number), of_skewed(ones, ones, number)):
        assert found.value == 1.0
        assert 0.3 / users < 1.0 - found.low < 3.0 / users + 0.2
        assert found.high == 1.0


@pytest.mark.parametrize("scores", [np.array([0.2, 0.9, 0.4]), np.array([1.0, 1.0]), np.array([5.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])])
def test_few_users_or_one_of_great_weight_say_nothing(scores):
    number = np.arange(len(scores))
    found = of_skewed(scores, scores, number)
    assert (found.low, found.high, found.estimable) == (0.0, 1.0, False)


def test_a_policy_that_was_never_drawn_is_not_estimable():
    found = of_ratio(np.zeros(30), np.zeros(30), np.arange(30))
    assert np.isnan(found.value)
    assert (found.low, found.high, found.estimable) == (0.0, 1.0, False)


def test_ends_of_an_interval_are_chances():
    rng = np.random.default_rng(0)
    weights = np.where(rng.random(200) < 0.05, 20.0, 0.0)
    for found in (
        of_skewed(weights, weights, np.arange(200)),
        of_ratio(weights, weights, np.arange(200)),
        of_mean(weights, np.arange(200)),
    ):
        assert 0.0 <= found.low <= found.high <= 1.0


def test_a_member_that_a_decision_did_not_know_is_no_rival_in_it():
    duels, _ = simulated_log(20, 4, np.random.default_rng(1))
    expected = duels.expected.copy()
    expected[:, 3] = -np.inf
    narrowed = replace(duels, laws=np.delete(duels.laws, 3, axis=1) @ np.eye(3, 4), expected=expected)
    narrowed = replace(narrowed, laws=narrowed.laws / narrowed.laws.sum(axis=1, keepdims=True))
    assert unsupported(narrowed, narrowed.laws) == pytest.approx(0.0, abs=1e-12)


def test_uniform_routing_is_worth_one_half_also_where_members_came_later():
    duels, _ = simulated_log(300, 4, np.random.default_rng(3))
    early = (duels.first < 3) & (duels.second < 3) & (np.arange(len(duels.won)) % 2 == 0)
    expected, laws = duels.expected.copy(), duels.laws.copy()
    expected[early, 3], laws[early, 3] = -np.inf, 0.0
    laws /= laws.sum(axis=1, keepdims=True)
    grown = replace(duels, expected=expected, laws=laws)
    found = estimate(grown, target_laws(grown)["uniform"])
    assert found["dr"].low <= 0.5 <= found["dr"].high
    assert found["dr"].value == pytest.approx(0.5, abs=1e-9)  # what one of a pair wins the other loses
    assert found["snips"].value == pytest.approx(0.5, abs=1e-9)


def test_inverse_propensities_are_worth_as_much_in_a_decision_that_knew_fewer_members():
    known = decision("d1", ("a", "b"))
    known["routing"] |= {"propensities": {"a": 0.5, "b": 0.5}, "expected": {name: {"mean": 0.0} for name in "ab"}, "joint_propensity": 0.5}
    others = [decision(f"d{number}", pair, joint=1 / 6, user=f"u{number}") for number, pair in enumerate((("a", "c"), ("c", "b")), start=2)]
    duels = duels_from([known, *others], [comparison("e", f"d{number}-0", f"d{number}-1") for number in (1, 2, 3)])
    found = estimate(duels, target_laws(duels)["uniform"])
    # (1/2) / (1 * 1/2) / 2 of two members, (1/3) / (2 * 1/6) / 2 of three.
    assert found["ips"].value == pytest.approx(0.5)


def test_an_interval_of_a_mean_is_of_those_who_make_the_mean():
    covered = []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        counts = np.ceil(rng.lognormal(0.0, 1.2, size=80)).astype(int)
        users = np.repeat(np.arange(80), counts)
        chances = np.where(counts > 3, rng.uniform(0.0, 1.0, size=80), 0.5)  # who compares much has a taste of their own
        found = of_mean((rng.random(len(users)) < chances[users]).astype(float), users)
        covered.append(found.low <= 0.5 <= found.high)
    assert np.mean(covered) > 0.92
    one_says_all = of_mean(np.repeat([1.0, 0.0], [400, 30]), np.repeat(np.arange(31), [400, *[1] * 30]))
    assert not one_says_all.estimable
    assert one_says_all.users < 2
