"""Response matrices of real LLMs: who answered which question rightly, and how long the answer was.

A set is `NAME_correct.csv.gz`, `NAME_output_chars.csv.gz` (questions x models, one header row, ids in the first column) and
`NAME_questions.jsonl.gz` (`id`, `question`). Axis letters: `Q` questions, `M` models.
"""

from __future__ import annotations

import csv
import gzip
import json
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


LEAST_QUESTIONS = 4
"""Half of them train, and each of these is predicted from the others."""


class ResponsesInvalid(ValueError):
    """A response matrix is missing or does not fit the others; the message names the file."""


@dataclass(frozen=True, slots=True)
class Responses:
    """What models answered.

    Attributes:
        models: names, `M`.
        questions: texts, `Q`, without the instructions that all questions of a set begin and end with.
        correct: `[Q, M]` 0 or 1.
        characters: `[Q, M]` of the output.
    """

    models: tuple[str, ...]
    questions: tuple[str, ...]
    correct: Array
    characters: Array


def read_responses(folder: Path, sets: tuple[str, ...], *, without: str = "") -> Responses:
    """Returns the response matrices of several sets one below the other, for the models that all of them have.

    Args:
        folder: of the matrices.
        sets: names.
        without: models whose names start so are left out; none if empty.

    Raises:
        ResponsesInvalid: a file is missing, its models, ids or numbers do not fit, or there are too few questions.
    """
    tables = [_read_set(folder, name) for name in sets]
    shared = [
        model
        for model in tables[0].models
        if all(model in table.models for table in tables) and not (without and model.startswith(without))
    ]
    if len(shared) < 2:
        raise ResponsesInvalid(f"{folder} has {len(shared)} models in all of {', '.join(sets)}; a portfolio needs 2")
    questions = sum(len(table.questions) for table in tables)
    if questions < LEAST_QUESTIONS:
        raise ResponsesInvalid(f"{folder} has {questions} questions in {', '.join(sets)}; at least {LEAST_QUESTIONS} are needed")
    columns = [[table.models.index(model) for model in shared] for table in tables]
    return Responses(
        tuple(shared),
        tuple(question for table in tables for question in table.questions),
        np.concatenate([table.correct[:, chosen] for table, chosen in zip(tables, columns, strict=True)]),
        np.concatenate([table.characters[:, chosen] for table, chosen in zip(tables, columns, strict=True)]),
    )


def _read_set(folder: Path, name: str) -> Responses:
    found = []
    for kind in ("correct", "output_chars"):
        path = folder / f"{name}_{kind}.csv.gz"
        try:
            with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
                rows = list(csv.reader(file))
            found.append((tuple(rows[0][1:]), tuple(row[0] for row in rows[1:]), np.array([row[1:] for row in rows[1:]], dtype=np.float64)))
        except (OSError, EOFError, ValueError, IndexError) as error:
            raise ResponsesInvalid(f"{path.name} cannot be read: {error}") from error
    path = folder / f"{name}_questions.jsonl.gz"
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            texts = {str(entry["id"]): str(entry["question"]) for entry in map(json.loads, file)}
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise ResponsesInvalid(f"{path.name} cannot be read: {error}") from error
    (models, ids, correct), (others, other_ids, characters) = found
    missing = [one for one in ids if one not in texts]
    if models != others or ids != other_ids or missing or not np.isin(correct, (0.0, 1.0)).all() or not _are_lengths(characters):
        raise ResponsesInvalid(
            f"{name}: correctness {correct.shape} and lengths {characters.shape} do not fit; {len(missing)} without text"
        )
    return Responses(models, _without_instructions([texts[one] for one in ids]), correct, characters)


def _are_lengths(characters: Array) -> bool:
    return bool(np.all(np.isfinite(characters) & (characters >= 0)))


def _without_instructions(texts: list[str]) -> tuple[str, ...]:
    """Returns what is left of texts without the beginning and the end that all of them share."""
    start = _shared_characters(texts)
    stop = _shared_characters([text[start:][::-1] for text in texts])
    return tuple(text[start : len(text) - stop] for text in texts)


def _shared_characters(texts: list[str]) -> int:
    """Returns how many characters all texts begin with."""
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*texts, strict=False)))
