"""Real LLMs as a portfolio: on responses made up so that the answer is known, and on the set itself where it is at hand."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from attune.models.seam.text import TextEncoder, TextTemplate
from studies.zeroeval.responses import LEAST_QUESTIONS, Responses, ResponsesInvalid, read_responses
from studies.zeroeval.run import LAMBDAS, PENALTIES, SETS, _ridges, evaluate_zeroeval, one_split, predict_rewards

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


def features_of(responses: Responses, seed: int = 0) -> NDArray[np.float32]:
    """Returns `[Q, 20]`: whether it is a sum, in a column among noise, as a trunk would bury it."""
    found = np.random.default_rng(seed).normal(size=(len(responses.questions), 20))
    found[:, 3] = [4.0 * question.startswith("add") for question in responses.questions]
    return found.astype(np.float32)


def test_routing_by_question_beats_every_single_model_where_questions_tell():
    responses = made_up()
    found = one_split(responses, features_of(responses), np.random.default_rng(0))
    assert "bad" not in found.members + found.candidates
    assert "short" in found.members
    utility = {name: table.mean(axis=1) for name, table in found.utility.items()}
    patient = np.array(LAMBDAS) < 0.3
    assert np.all(utility["routed by user and question"][patient] > utility["best single in hindsight"][patient] + 0.1)
    assert np.all(utility["routed by user and question"] <= utility["oracle over candidates"] + 1e-12)
    assert np.all(utility["oracle over candidates"] <= utility["oracle over all models"] + 1e-12)


def test_routing_by_user_gives_the_hurried_the_short_model_and_nothing_else():
    responses = made_up()
    utility = one_split(responses, features_of(responses), np.random.default_rng(0)).utility
    gain = (utility["routed by user"] - utility["most correct model"]).mean(axis=1)
    assert gain[0] == 0.0
    assert gain[-1] > 1.0


def test_questions_that_tell_nothing_cost_nothing():
    responses = made_up()
    noise = [np.random.default_rng(seed).normal(size=(300, 20)).astype(np.float32) for seed in range(5)]
    runs = [one_split(responses, features, np.random.default_rng(seed)) for seed, features in enumerate(noise)]
    assert np.mean([run.otherwise for run in runs]) < 0.2
    assert np.mean([run.utility["routed by user and question"] - run.utility["routed by user"] for run in runs]) > -0.01


def test_each_reward_is_shrunk_by_itself_and_to_the_mean_where_nothing_can_be_told():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, 5)).astype(np.float32)
    told = np.column_stack([np.tanh(features[:, 0]), -np.tanh(features[:, 0])])
    rewards = np.stack([rng.normal(size=(200, 2)), told], axis=2)
    found = predict_rewards(features[:150], rewards[:150], features[150:], rng)
    assert np.mean((found[:, :, 1] - told[150:]) ** 2) < 0.2 * np.var(told)
    np.testing.assert_allclose(found[:, :, 0], np.broadcast_to(rewards[:150, :, 0].mean(axis=0), (50, 2)), atol=0.1)


def test_kernel_ridge_is_what_solving_the_centred_system_gives():
    rng = np.random.default_rng(0)
    known, asked = rng.normal(size=(30, 4)).astype(np.float32), rng.normal(size=(7, 4)).astype(np.float32)
    targets = rng.normal(size=(30, 3, 2))
    scaled = [(rows - known.mean(axis=0)) / known.std(axis=0) for rows in (known, asked)]
    kernels = [np.exp(-np.square(rows[:, None] - scaled[0]).sum(axis=2) / 8.0) for rows in scaled]
    centring = np.eye(30) - 1.0 / 30
    centred = centring @ kernels[0] @ centring
    across = (kernels[1] - kernels[0].mean(axis=0)) @ centring
    found = _ridges(known, targets, asked)
    for penalty, predictions in zip(PENALTIES[:-1], found[:-1], strict=True):
        weights = np.linalg.solve(centred + penalty * np.eye(30), (targets - targets.mean(axis=0)).reshape(30, 6))
        np.testing.assert_allclose(predictions, targets.mean(axis=0) + (across @ weights).reshape(7, 3, 2), atol=1e-5)
    np.testing.assert_allclose(found[-1], np.broadcast_to(targets.mean(axis=0), (7, 3, 2)))


class Reader:
    """Stands in for the trunk: a text's vector is its tokens' ids and their number, whatever they mean."""

    sha256 = "0" * 64
    width = 2

    def __init__(self) -> None:
        words = {"[UNK]": 0, "add": 1, "write": 2}
        tokenizer = Tokenizer(WordLevel(words, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = Whitespace()
        self.encoder = TextEncoder(tokenizer, TextTemplate((), (), (), (), 32, 16, 8))

    def embed(self, rows):
        return np.array([[float(np.mean(row.input_ids)), float(len(row))] for row in rows], dtype=np.float32)


def test_the_report_has_every_set_and_compares_with_every_rival(tmp_path):
    for seed, name in enumerate(SETS):
        write(tmp_path, name, made_up(seed, 60))
    said: list[str] = []
    found = evaluate_zeroeval(tmp_path, tmp_path / "out", splits=2, trunk=Reader(), progress=said.append)
    assert list(found["sets"]) == [*SETS, " + ".join(SETS)]
    assert len(said) == 4
    whole = found["sets"][" + ".join(SETS)]
    assert (whole["models"], whole["questions"]) == (4, 180)
    for routed in ("routed by user", "routed by user and question"):
        for rival in ("one model for all", "best single in hindsight", "oracle over all models"):
            row = whole["versus"][f"{routed} over {rival}"]
            by_split = np.array(whole["utility"][routed]) - np.array(whole["utility"][rival])
            np.testing.assert_allclose(row["gain"], by_split, atol=1e-12)
            assert row["mean_gain"]["low"] <= by_split.mean() <= row["mean_gain"]["high"]
            assert row["surely_won"] <= row["won"] <= 1.0 - row["tied"]
    assert whole["versus"]["routed by user and question over oracle over all models"]["won"] == 0.0
    report = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert report.count("| routed by user and question over one model for all |") == 4
    assert json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))["sets"].keys() == found["sets"].keys()


def test_as_few_questions_as_are_read_can_be_halved():
    few = made_up(0, LEAST_QUESTIONS)
    found = one_split(few, features_of(few), np.random.default_rng(0))
    assert np.isfinite(found.utility["routed by user and question"]).all()
    assert len(found.test) == 2


def test_what_all_questions_of_a_set_begin_and_end_with_is_not_read(tmp_path):
    one = made_up(0, 6)
    asked = tuple(f"Answer this.\n{text}\nWrite JSON." for text in ("two and two", "a verse", "x", "y y", "", "why?"))
    write(tmp_path, "a", Responses(one.models, asked, one.correct, one.characters))
    assert read_responses(tmp_path, ("a",)).questions == ("two and two", "a verse", "x", "y y", "", "why?")


def test_matrices_are_read_for_the_models_that_all_sets_have(tmp_path):
    one = made_up(0, 6)
    write(tmp_path, "a", one)
    write(tmp_path, "b", Responses(("short", "long"), one.questions, one.correct[:, [2, 0]], one.characters[:, [2, 0]]))
    both = read_responses(tmp_path, ("a", "b"))
    assert (both.models, len(both.questions)) == (("long", "short"), 12)
    np.testing.assert_array_equal(both.correct[:6], both.correct[6:])
    assert read_responses(tmp_path, ("a",), without="b").models == ("long", "poet", "short")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("gone", "a_correct.csv.gz cannot be read"),
        ("textless", "a_questions.jsonl.gz cannot be read"),
        ("odd", "do not fit"),
        ("unknown", "do not fit"),
        ("few", "1 models in all of a"),
        ("short", "3 questions in a; at least 4 are needed"),
    ],
)
def test_matrices_that_do_not_fit_are_refused(tmp_path, change, message):
    one = made_up(0, 6)
    if change == "odd":
        one = Responses(one.models, one.questions, one.correct + 1.0, one.characters)
    if change == "few":
        one = Responses(one.models[:1], one.questions, one.correct[:, :1], one.characters[:, :1])
    if change == "short":
        one = made_up(0, 3)
    write(tmp_path, "a", one)
    if change == "gone":
        (tmp_path / "a_correct.csv.gz").unlink()
    if change == "unknown":
        path = tmp_path / "a_output_chars.csv.gz"
        head, row, *rows = gzip.decompress(path.read_bytes()).decode().splitlines()
        path.write_bytes(gzip.compress("\n".join([head, row.rsplit(",", 1)[0] + ",nan", *rows]).encode()))
    if change == "textless":
        (tmp_path / "a_questions.jsonl.gz").unlink()
    with pytest.raises(ResponsesInvalid, match=message):
        read_responses(tmp_path, ("a",))


@pytest.mark.skipif(not DATA.is_dir(), reason="the zeroeval response matrices are not beside this checkout")
def test_the_set_itself_has_the_documented_sizes_and_best_models():
    for name, models, questions, best in (("gsm", 43, 1319, 0.9666), ("crux", 51, 800, 0.9588), ("math-l5", 41, 721, 0.8932)):
        found = read_responses(DATA, (name,))
        assert (len(found.models), len(found.questions)) == (models, questions)
        assert found.correct.mean(axis=0).max() == pytest.approx(best, abs=1e-4)
