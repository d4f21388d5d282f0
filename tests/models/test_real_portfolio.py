"""Real LLMs as a portfolio: on responses made up so that the answer is known, and on the set itself where it is at hand."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from models.evaluation.real_portfolio import LAMBDAS, Responses, ResponsesInvalid, one_split, question_features, read_responses

DATA = Path(__file__).parents[3] / "shared" / "data" / "zeroeval"


def made_up(seed: int = 0, questions: int = 300) -> Responses:
    """Sums go well with `long`, better on the whole, verse with `poet`, shorter; `short` is brief and seldom right, `bad` is neither."""
    rng = np.random.default_rng(seed)
    sums = rng.random(questions) < 0.5
    chances = np.column_stack([np.where(sums, 0.98, 0.65), np.where(sums, 0.35, 0.95), np.full(questions, 0.35), np.full(questions, 0.2)])
    correct = (rng.random((questions, 4)) < chances).astype(float)
    characters = rng.normal([900.0, 600.0, 100.0, 950.0], 40.0, size=(questions, 4)).clip(1.0)
    texts = tuple(f"add {i} and {i}" if one else f"write a verse about {i}" for i, one in enumerate(sums))
    return Responses(("long", "poet", "short", "bad"), texts, correct, characters)


def write(folder: Path, name: str, responses: Responses) -> None:
    for kind, table in (("correct", responses.correct.astype(int)), ("output_chars", responses.characters.astype(int))):
        with gzip.open(folder / f"{name}_{kind}.csv.gz", "wt", newline="") as file:
            csv.writer(file).writerows([["id", *responses.models], *([f"q{i}", *row] for i, row in enumerate(table.tolist()))])
    with gzip.open(folder / f"{name}_questions.jsonl.gz", "wt") as file:
        file.write("".join(json.dumps({"id": f"q{i}", "question": text}) + "\n" for i, text in enumerate(responses.questions)))


def test_routing_by_question_beats_every_single_model_where_questions_tell():
    responses = made_up()
    found = one_split(responses, question_features(responses.questions), np.random.default_rng(0))
    assert "bad" not in found["members"]
    assert "short" in found["members"]
    utility = found["utility"]
    patient = np.array(LAMBDAS) < 0.3
    assert np.all(utility["routed by user and question"][patient] > utility["best single in hindsight"][patient] + 0.1)
    assert np.all(utility["routed by user and question"] <= utility["oracle over members"] + 1e-12)
    assert np.all(utility["oracle over members"] <= utility["oracle over all models"] + 1e-12)


def test_routing_by_user_gives_the_hurried_the_short_model_and_nothing_else():
    responses = made_up()
    found = one_split(responses, question_features(responses.questions), np.random.default_rng(0))
    gain = [one.mean for one in found["versus"]["routed by user over most correct model"]]
    assert gain[0] == 0.0
    assert gain[-1] > 1.0


def test_questions_that_tell_nothing_are_not_read():
    responses = made_up()
    noise = [np.random.default_rng(seed).normal(size=(300, 20)).astype(np.float32) for seed in range(5)]
    runs = [one_split(responses, features, np.random.default_rng(seed)) for seed, features in enumerate(noise)]
    assert np.mean([run["informed"] for run in runs]) < 0.4
    assert np.mean([run["utility"]["routed by user and question"] - run["utility"]["routed by user"] for run in runs]) > -0.01


def test_matrices_are_read_for_the_models_that_all_sets_have(tmp_path):
    one = made_up(0, 6)
    write(tmp_path, "a", one)
    write(tmp_path, "b", Responses(("short", "long"), one.questions, one.correct[:, [2, 0]], one.characters[:, [2, 0]]))
    both = read_responses(tmp_path, ("a", "b"))
    assert (both.models, len(both.questions)) == (("long", "short"), 12)
    np.testing.assert_array_equal(both.correct[:6], both.correct[6:])
    assert read_responses(tmp_path, ("a",), without="b").models == ("long", "poet", "short")


@pytest.mark.parametrize(
    ("change", "message"), [("gone", "a_correct.csv.gz cannot be read"), ("odd", "do not fit"), ("few", "1 models in all of a")]
)
def test_matrices_that_do_not_fit_are_refused(tmp_path, change, message):
    one = made_up(0, 6)
    if change == "odd":
        one = Responses(one.models, one.questions, one.correct + 1.0, one.characters)
    if change == "few":
        one = Responses(one.models[:1], one.questions, one.correct[:, :1], one.characters[:, :1])
    write(tmp_path, "a", one)
    if change == "gone":
        (tmp_path / "a_correct.csv.gz").unlink()
    with pytest.raises(ResponsesInvalid, match=message):
        read_responses(tmp_path, ("a",))


@pytest.mark.skipif(not DATA.is_dir(), reason="the zeroeval response matrices are not beside this checkout")
def test_the_set_itself_has_the_documented_sizes_and_best_models():
    for name, models, questions, best in (("gsm", 43, 1319, 0.9666), ("crux", 51, 800, 0.9588), ("math-l5", 41, 721, 0.8932)):
        found = read_responses(DATA, (name,))
        assert (len(found.models), len(found.questions)) == (models, questions)
        assert found.correct.mean(axis=0).max() == pytest.approx(best, abs=1e-4)
