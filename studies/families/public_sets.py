"""Real people's preferences from public sets on disk, as comparisons: Jester 5k (jokes) and UKPConvArg1 (arguments).

Neither set is distributed with this project; a folder that holds it is an argument. Both are for evaluation alone.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from attune.models.data.preferences import Comparison, Comparisons

JESTER_PROMPT = "Tell me a joke."


class DataSetInvalid(ValueError):
    """A file of a data set is damaged; the message names the file and the line."""


def read_jester(folder: Path, *, per_user: int, users: int | None = None, least_gap: float = 1.0, seed: int = 0) -> Comparisons:
    """Returns comparisons of jokes drawn from ratings in [-10, 10] (Goldberg et al. 2001).

    Args:
        folder: with `jokes.json` and `ratings.npz` (columns `user`, `joke`, `rating`).
        per_user: comparisons drawn per user, all different pairs.
        users: how many users, drawn at random; None takes all.
        least_gap: pairs whose ratings differ by no more are left out.
        seed: draws users and pairs.

    Raises:
        DataSetInvalid: a rating names a joke that is not there.
        FileNotFoundError: a file is absent.
    """
    jokes = [str(joke).strip() for joke in json.loads((folder / "jokes.json").read_text(encoding="utf-8"))]
    with np.load(folder / "ratings.npz", allow_pickle=False) as table:
        user, joke, rating = (table[name] for name in ("user", "joke", "rating"))
    if joke.min() < 0 or joke.max() >= len(jokes):
        raise DataSetInvalid(f"ratings.npz rates jokes {joke.min()}..{joke.max()}; jokes.json has {len(jokes)}")
    rng = np.random.default_rng(seed)
    everybody = rng.permutation(np.unique(user))[:users]

    def records() -> Iterator[Comparison]:
        for one in everybody:
            mine = np.flatnonzero(user == one)
            first, second = np.triu_indices(len(mine), k=1)
            gaps = rating[mine[first]] - rating[mine[second]]
            told = rng.permutation(np.flatnonzero(np.abs(gaps) > least_gap))[:per_user]
            for pair in told:
                better, worse = (first[pair], second[pair]) if gaps[pair] > 0 else (second[pair], first[pair])
                yield Comparison(f"jester-{one}", JESTER_PROMPT, jokes[joke[mine[better]]], jokes[joke[mine[worse]]])

    return Comparisons.from_records(records())


def read_ukpconvarg(folder: Path, *, least_decided: int = 25) -> Comparisons:
    """Returns who found which argument more convincing (Habernal and Gurevych 2016); "equal" is a tie.

    Args:
        folder: with `arguments.jsonl.gz` and `judgments.csv.gz`.
        least_decided: users with fewer decided choices are left out.

    Raises:
        DataSetInvalid: a judgment names an argument that is not there, or a choice that is unknown.
        FileNotFoundError: a file is absent.
    """
    texts: dict[tuple[str, str], str] = {}
    with gzip.open(folder / "arguments.jsonl.gz", "rt", encoding="utf-8") as stream:
        for line in stream:
            entry = json.loads(line)
            texts[entry["topic"], entry["arg"]] = entry["text"].strip()
    by_user: dict[str, list[Comparison]] = {}
    with gzip.open(folder / "judgments.csv.gz", "rt", encoding="utf-8", newline="") as stream:
        for number, row in enumerate(csv.DictReader(stream), start=2):
            try:
                first, second = (texts[row["topic"], row[side]] for side in ("arg1", "arg2"))
                chosen, rejected = {"a1": (first, second), "a2": (second, first), "equal": (first, second)}[row["choice"]]
            except KeyError as error:
                raise DataSetInvalid(f"judgments.csv.gz line {number}: {error} is unknown") from error
            if first != second:
                prompt = row["topic"].split("_", maxsplit=1)[0].replace("-", " ")
                record = Comparison(f"ukp-{row['user']}", prompt, chosen, rejected, tie=row["choice"] == "equal")
                by_user.setdefault(row["user"], []).append(record)
    kept = [mine for mine in by_user.values() if sum(not record.tie for record in mine) >= least_decided]
    return Comparisons.from_records(record for mine in kept for record in mine)
