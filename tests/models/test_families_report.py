"""The few-shot harness: fair parts, learners of every kind, and the report that is written of them."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from attune.models.data.preferences import Comparison, ComparisonInvalid, Comparisons
from attune.models.measuring.families.curves import (
    Observed,
    accuracy_by_quartile,
    effective_heads,
    observe,
    over_users,
    paired_gain,
    reliability,
)
from attune.models.measuring.families.fewshot import COUNTS
from attune.models.measuring.families.held_out import hold_out
from attune.models.measuring.families.report import Run, Sizes, evaluate_families, masked
from attune.models.measuring.families.runs import RunUnknown, chosen_runs, standard_runs
from attune.models.training.features import Subspace
from attune.models.training.hierarchical import PopulationSettings
from attune.models.training.learner import Predicted
from attune.models.training.trainers import LineUp
from tests.models.small_world import BagOfWords, small_texts, small_vectors


def word(number):
    """Returns a word of three letters, said once to three times: there is a length to leave out."""
    return " ".join([chr(97 + number) * 3] * (1 + number % 3))


def told(users=40, per_user=40, prompts=10, seed=0):
    """Returns comparisons of words by how early in the alphabet they are, liked by even users and disliked by odd ones."""
    rng = np.random.default_rng(seed)
    records = []
    for user in range(users):
        for _ in range(per_user):
            first, second = rng.choice(26, size=2, replace=False)
            low, high = min(first, second), max(first, second)
            better, worse = (low, high) if user % 2 == 0 else (high, low)
            prompt = f"prompt {rng.integers(prompts)}"
            records.append(Comparison(f"u{user}", prompt, word(better), word(worse)))
    return Comparisons.from_records(records)


def on_one_prompt_each(users, per_user):
    """Returns comparisons of people who were asked one thing each: all that somebody told is trained on, or all of it held back."""
    return Comparisons.from_records(
        Comparison(f"u{user}", f"prompt {user}", word(at), word(at + 1)) for user in range(users) for at in range(per_user)
    )


class Oracle:
    """Knows every target, the surer the more it was told."""

    name = "oracle"

    def predict(self, context, targets):
        sure = np.full(len(targets), 0.5 + 0.02 * len(context))
        return Predicted(sure, np.linspace(0, 1, len(targets)), np.array([0.5, 0.5]))


class Coin:
    name = "bradley_terry"

    def predict(self, context, targets):
        return Predicted(np.full(len(targets), 0.5), np.zeros(len(targets)))


def pairs(comparisons):
    return set(
        zip(
            comparisons.user.tolist(),
            np.minimum(comparisons.chosen, comparisons.rejected).tolist(),
            np.maximum(comparisons.chosen, comparisons.rejected).tolist(),
            strict=True,
        )
    )


# --- parts


@pytest.mark.parametrize("prompts", [1, 10])
def test_what_is_predicted_was_never_trained_on(prompts):
    parts = hold_out(told(prompts=prompts), seed=0, context=10, targets=10)
    trained = pairs(parts.train) | pairs(parts.validation)
    for context, targets in (parts.seen, parts.unseen):
        assert len(targets)
        assert not pairs(targets) & (trained | pairs(context))
    assert pairs(parts.seen[0]) <= pairs(parts.train)
    assert not set(parts.unseen[1].user) & (set(parts.train.user) | set(parts.validation.user))
    assert parts.held_by == ("pairs" if prompts == 1 else "prompts")


def test_seen_users_are_asked_about_prompts_that_nobody_was_trained_on():
    parts = hold_out(told(), seed=0, context=10, targets=10)
    asked = set(parts.seen[1].prompt)
    assert asked
    assert not asked & (set(parts.train.prompt) | set(parts.validation.prompt))


def test_texts_apart_means_that_no_text_is_told_and_asked():
    parts = hold_out(told(per_user=120), seed=0, context=10, targets=10, texts_apart=True)
    context, targets = parts.unseen
    for user, mine in targets.rows_of_users().items():
        said = context.rows_of_users()[user]
        texts = [
            {int(index) for column in (part.chosen, part.rejected) for index in column[rows]}
            for part, rows in ((context, said), (targets, mine))
        ]
        assert texts[0]
        assert not texts[0] & texts[1]


def test_training_takes_at_most_so_many_comparisons_of_a_user():
    parts = hold_out(told(), seed=0, per_user=7)
    assert {len(rows) for rows in parts.train.rows_of_users().values()} == {7}


# --- what is read off


def observed(learners=None, **changes):
    everything = told(**changes)
    parts = hold_out(everything, seed=0, context=10, targets=10)
    return observe(learners or [Coin(), Oracle()], *parts.unseen, counts=(0, 5, 10))


def test_gains_are_paired_and_curves_follow_what_was_said():
    found = observed()
    assert paired_gain([found], "oracle", "bradley_terry", 2).mean == pytest.approx(0.5)
    assert paired_gain([found], "bradley_terry", "bradley_terry", 2).high == 0.0
    assert [found.per_user("oracle", at)[1].mean() for at in range(3)] == pytest.approx([-np.log(p) for p in (0.5, 0.6, 0.7)])
    assert reliability([found], "oracle", 2).ece == pytest.approx(0.3)
    assert effective_heads([found], "oracle", 0) == pytest.approx((2.0, 2.0))
    assert effective_heads([found], "bradley_terry", 0) is None


def test_targets_that_were_told_are_refused():
    parts = hold_out(told(), seed=0, context=10, targets=10)
    with pytest.raises(ValueError, match=r"10 targets of user 'u.*' are pairs that their context tells"):
        observe([Coin()], parts.unseen[0], parts.unseen[0], counts=(0, 10))


def test_a_user_of_two_seeds_counts_once():
    found = observed()
    values = np.arange(len(found.users), dtype=float)
    once, twice = over_users([found], [values]), over_users([found, found], [values, values])
    assert (once.mean, once.low, once.high, once.users) == (twice.mean, twice.low, twice.high, twice.users)


def test_quartiles_sort_by_what_a_learner_says_of_itself():
    class Modest:
        """Right where it says that it is sure, wrong where not."""

        name = "bradley_terry"

        def predict(self, context, targets):
            spreads = np.arange(len(targets), dtype=float)
            return Predicted(np.where(spreads < len(targets) / 2, 0.9, 0.4), spreads)

    found = observed([Modest()])
    for by in ("spread", "probability"):
        quartiles = accuracy_by_quartile([found], "bradley_terry", 1, by=by)
        assert [one.mean for one in quartiles] == pytest.approx([1.0, 1.0, 0.0, 0.0], abs=0.08)
    assert accuracy_by_quartile([observed()], "bradley_terry", 1, by="spread") is None
    predicted = Predicted(np.array([0.9, 0.6, 0.4]), np.arange(3.0))
    three = Observed((0,), ("u",), {"bradley_terry": [[predicted]]}, skipped=0)
    assert accuracy_by_quartile([three], "bradley_terry", 0, by="spread") is None  # a quarter of three is nothing to average


def test_two_learners_of_one_name_are_refused():
    with pytest.raises(ValueError, match="names repeat"):
        observed([Coin(), Coin()])


# --- the report


def test_the_length_can_be_left_out_or_left_alone():
    vectors = small_vectors(small_texts())
    without, only = masked(vectors, "without"), masked(vectors, "only")
    assert not without.candidates[:, -1].any()
    assert not only.candidates[:, :-1].any()
    assert np.array_equal(without.candidates + only.candidates, vectors.candidates)
    assert masked(vectors, "with") is vectors


def test_a_report_has_every_learner_its_seeds_and_what_it_was_made_of(tmp_path):
    comparisons = told(users=60, per_user=30)
    space = Subspace(4)
    line_up = LineUp(space, heads=3, axes=4, bases=4, population=PopulationSettings(rounds=5), steps=50)
    runs = [Run("main", line_up), Run("length", replace(line_up, subspace=Subspace(4, kind="principal")), ("additive",), "only")]
    trunk = BagOfWords([candidate for _, candidate in comparisons.texts.candidates])
    sizes = Sizes(users=8, counts=(0, 1, 5, 10))
    found = evaluate_families("words", comparisons, runs, tmp_path, trunk=trunk, cache=None, sizes=sizes)
    assert found == json.loads((tmp_path / "results.json").read_text())
    main, length = found["runs"]
    assert set(main["on"]) == {"unseen", "seen"}
    assert {"bradley_terry", "micro", "vrf", "additive", "hierarchical", "per_user_logistic", "lore", "vpl"} <= set(
        main["on"]["seen"]["learners"]
    )
    assert set(length["on"]["unseen"]["learners"]) == {"bradley_terry", "additive"}
    report = (tmp_path / "report.md").read_text()
    for name in (*main["on"]["unseen"]["learners"], comparisons.sha256()[:16], "![Few-shot curves](curves.png)", "Seeds [0]"):
        assert name in report
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    # Two opposed halves: what is learned from ten comparisons beats what everybody likes.
    last = {name: one["curve"][-1]["gain"]["mean"] for name, one in main["on"]["unseen"]["learners"].items()}
    assert last["hierarchical"] > 0.1
    assert last["additive"] > 0.1


@pytest.mark.parametrize(
    ("users", "per_user", "counts", "said"),
    [
        (40, 12, COUNTS, "with 25 or more that are no ties is needed (20 to learn from, 5 to predict) who is kept out of training"),
        (40, 12, COUNTS, "of 40 people 0 made so many, and the most that anybody made is 12. Add comparisons of the same people"),
        (
            30,
            12,
            (0, 5),
            "is needed (5 to learn from, 3 to predict) who is trained on, with 3 of them held back",
        ),
    ],
)
def test_too_few_comparisons_a_person_are_refused_with_how_many_are_needed_before_a_text_is_embedded(
    tmp_path, users, per_user, counts, said
):
    comparisons = told(users=users, per_user=per_user) if counts is COUNTS else on_one_prompt_each(users, per_user)
    trunk = BagOfWords([candidate for _, candidate in comparisons.texts.candidates])
    runs = standard_runs()[:1]
    with pytest.raises(ComparisonInvalid, match=re.escape(said)):
        evaluate_families("words", comparisons, runs, tmp_path / "out", trunk=trunk, cache=None, sizes=Sizes(counts=counts))
    assert trunk.asked == []
    assert list(tmp_path.iterdir()) == []


# --- the sets


def test_a_table_is_looked_at_with_the_length_without_it_and_by_it_alone():
    runs = standard_runs()
    assert {run.length for run in runs} == {"with", "without", "only"}
    assert not runs[0].learners
    assert len({run.name for run in runs}) == len(runs)


def test_runs_are_chosen_by_name_and_the_main_one_has_all_seeds():
    chosen = chosen_runs(standard_runs(), ["all", "length-alone"], seeds=3)
    assert [(run.name, run.seeds) for run in chosen] == [("all", (0, 1, 2)), ("length-alone", (0,))]
    with pytest.raises(RunUnknown, match="everything: no such run; there are all, principal-components"):
        chosen_runs(standard_runs(), ["everything"], seeds=3)
