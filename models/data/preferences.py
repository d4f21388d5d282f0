"""Comparisons: one record type for every data set, and the columns that training reads.

A data set becomes `Comparison` records; `Comparisons` keeps each text once and points at it, so that a text is embedded
once however many comparisons it is in. Axis letters: `C` comparisons. This module does not know vectors or splits.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attune.models.seam.counts import all_counted, counted

Ints = NDArray[np.int64]


ANONYMOUS = "anonymous:"
"""What users of rows without a user are called, each with a number of its own: nobody knows which of them are one person."""


MOST_WEIGHT = 1e6
"""A record that counts for more than a million others is a mistake, and one of 1e300 leaves no training with a finite number."""

COLUMNS = ("user", "prompt", "chosen", "rejected", "tie", "weight", "time_s")
"""What `Comparisons` has `[C]` of."""


class ComparisonInvalid(ValueError):
    """A record cannot be learned from; the message carries its position and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One user preferred `chosen` to `rejected` as an answer to `prompt`.

    Attributes:
        user: whose choice it was.
        tie: the user could not tell; the order of the two answers then means nothing.
        context: what this user said they want, read by context-aware routers (SCIENCE §2).
        weight: how much the record counts in training losses, above 0.
        time_s: when it was observed, Unix seconds, or None.
    """

    user: str
    prompt: str
    chosen: str
    rejected: str
    tie: bool = False
    context: str | None = None
    weight: float = 1.0
    time_s: float | None = None


@dataclass(frozen=True, slots=True)
class Texts:
    """The texts that comparisons point at, each once.

    Attributes:
        prompts: `(prompt, context)` of each prompt row.
        candidates: `(prompt, response)` of each candidate row.
    """

    prompts: tuple[tuple[str, str | None], ...]
    candidates: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Comparisons:
    """Comparisons as columns over a table of texts.

    Attributes:
        texts: shared by all subsets of one data set.
        users: names; `user` points into it.
        user, prompt, chosen, rejected: `[C]` indices into `users`, `texts.prompts` and `texts.candidates` (twice).
        tie: `[C]` bool.
        weight: `[C]` positive.
        time_s: `[C]`, NaN where unknown.
    """

    texts: Texts
    users: tuple[str, ...]
    user: Ints
    prompt: Ints
    chosen: Ints
    rejected: Ints
    tie: NDArray[np.bool_]
    weight: NDArray[np.float64]
    time_s: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.user)

    @classmethod
    def from_records(cls, records: Iterable[Comparison]) -> Comparisons:
        """Returns the columns of `records`, in their order.

        Raises:
            ComparisonInvalid: there is no record, a text is blank, the two answers are equal, or the weight is not above 0.
        """
        prompts: dict[tuple[str, str | None], int] = {}
        candidates: dict[tuple[str, str], int] = {}
        users: dict[str, int] = {}
        # Packed as they come: a million rows as tuples would take as much as their texts.
        user, prompt, chosen, rejected, tie = (array("q") for _ in range(5))
        weight, time_s = array("d"), array("d")
        for position, record in enumerate(records):
            _check(position, record)
            user.append(users.setdefault(record.user, len(users)))
            prompt.append(prompts.setdefault((record.prompt, record.context), len(prompts)))
            chosen.append(candidates.setdefault((record.prompt, record.chosen), len(candidates)))
            rejected.append(candidates.setdefault((record.prompt, record.rejected), len(candidates)))
            tie.append(record.tie)
            weight.append(record.weight)
            time_s.append(np.nan if record.time_s is None else record.time_s)
        if not user:
            raise ComparisonInvalid("there are no comparisons")
        return cls(
            Texts(tuple(prompts), tuple(candidates)),
            tuple(users),
            np.array(user, dtype=np.int64),
            np.array(prompt, dtype=np.int64),
            np.array(chosen, dtype=np.int64),
            np.array(rejected, dtype=np.int64),
            np.array(tie, dtype=np.bool_),
            np.array(weight, dtype=np.float64),
            np.array(time_s, dtype=np.float64),
        )

    @property
    def anonymous(self) -> NDArray[np.bool_]:
        """`[C]` True where nobody knows whose the comparison is: it tells what everybody likes, and nothing of a person."""
        return np.array([name.startswith(ANONYMOUS) for name in self.users], dtype=np.bool_)[self.user]

    def expect_decided(self) -> None:
        """Returns if there is something to learn.

        Raises:
            ComparisonInvalid: there are no rows, or ties alone.
        """
        if self.tie.all():
            raise ComparisonInvalid(f"{all_counted(len(self), 'comparison is a tie', 'comparisons are ties')}: there is nothing to learn")

    def records(self) -> Iterator[Comparison]:
        """Yields the records that the columns stand for, in order."""
        for row in range(len(self)):
            prompt, context = self.texts.prompts[self.prompt[row]]
            time_s = float(self.time_s[row])
            yield Comparison(
                self.users[self.user[row]],
                prompt,
                self.texts.candidates[self.chosen[row]][1],
                self.texts.candidates[self.rejected[row]][1],
                tie=bool(self.tie[row]),
                context=context,
                weight=float(self.weight[row]),
                time_s=None if np.isnan(time_s) else time_s,
            )

    def join(self, other: Comparisons) -> Comparisons:
        """Returns the comparisons of two parts of one set, one after the other."""
        assert self.texts is other.texts, "parts of one set share its texts"
        columns: dict[str, Any] = {name: np.concatenate([getattr(self, name), getattr(other, name)]) for name in COLUMNS}
        return replace(self, **columns)

    def take(self, rows: Ints | NDArray[np.bool_]) -> Comparisons:
        """Returns the comparisons at `rows` (indices or a mask), over the same texts and users."""
        columns: dict[str, Any] = {name: getattr(self, name)[rows] for name in COLUMNS}
        return replace(self, **columns)

    def rows_of_users(self) -> dict[int, Ints]:
        """Returns the rows of every user who has any, in order: user index -> `[C_u]`."""
        if not len(self):
            return {}
        order = np.argsort(self.user, kind="stable")
        present, starts = np.unique(self.user[order], return_index=True)
        return dict(zip(present.tolist(), np.split(order, starts[1:]), strict=True))

    def sha256(self) -> str:
        """Returns a hash of the records: equal records in equal order, equal hash."""
        digest = hashlib.sha256()
        for record in self.records():
            fields = [record.user, record.prompt, record.chosen, record.rejected, record.tie, record.context, record.weight, record.time_s]
            digest.update(json.dumps(fields, ensure_ascii=True).encode() + b"\n")
        return digest.hexdigest()


def together(first: Comparisons, second: Comparisons) -> Comparisons:
    """Returns the comparisons of both, the users of `second` after those of `first`.

    Raises:
        ComparisonInvalid: they are over different tables of texts, or share a user's name.
    """
    if first.texts is not second.texts and first.texts != second.texts:
        raise ComparisonInvalid("comparisons can be put together over one table of texts")
    both = set(first.users) & set(second.users)
    if both:
        raise ComparisonInvalid(f"{counted(len(both), 'user is', 'users are')} in both parts, such as {min(both)!r}")
    columns: dict[str, Any] = {name: np.concatenate([getattr(first, name), getattr(second, name)]) for name in COLUMNS}
    columns["user"] = np.concatenate([first.user, second.user + len(first.users)])
    return Comparisons(first.texts, (*first.users, *second.users), **columns)


def _check(position: int, record: Comparison) -> None:
    blank = [name for name in ("user", "prompt", "chosen", "rejected") if not getattr(record, name).strip()]
    if blank:
        raise ComparisonInvalid(f"comparison {position}: {' and '.join(blank)} must not be blank")
    if record.chosen == record.rejected:
        raise ComparisonInvalid(f"comparison {position}: chosen and rejected are the same text ({record.chosen[:40]!r})")
    if not 0 < record.weight <= MOST_WEIGHT:  # NaN as well
        raise ComparisonInvalid(f"comparison {position}: weight is {record.weight}; it must be above 0 and at most {MOST_WEIGHT:,.0f}")
