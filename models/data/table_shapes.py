"""The shapes that a table may have, the columns of each, and what a person says of a table that calls things otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from attune.models.data.tables import TableInvalid, some
from attune.models.seam.counts import counted

Shape = Literal["pairs", "votes", "ratings", "scores"]

OPTIONAL: Mapping[Shape, tuple[str, ...]] = {
    "pairs": ("prompt", "user", "tie", "context", "weight", "time_s"),
    "votes": ("prompt", "user", "context", "weight", "time_s"),
    "ratings": ("prompt", "time_s"),
    "scores": ("user",),
}
REQUIRED: Mapping[Shape, tuple[str, ...]] = {
    "pairs": ("chosen", "rejected"),
    "votes": ("response_a", "response_b", "winner"),
    "ratings": ("user", "response", "rating"),
    "scores": ("prompt", "response"),
}


@dataclass(frozen=True, slots=True)
class Reading:
    """How a table is to be read.

    Attributes:
        shape: see the module; found from the columns if None.
        columns: our name -> the table's, for tables that call things otherwise; `meta.user.id` is inside of the column `meta`.
        ignore: columns that nothing should read.
        attributes: the score columns of `scores`; all numeric columns that are left if empty.
        least_gap: scores or ratings that differ by no more make no comparison.
        most_pairs: comparisons that one user (or attribute) makes of one prompt's responses; where more are possible, a sample.
        seed: of such samples.
        shown: bad rows that an error names; the others are counted.
    """

    shape: Shape | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    ignore: frozenset[str] = frozenset()
    attributes: tuple[str, ...] = ()
    least_gap: float = 0.0
    most_pairs: int = 200
    seed: int = 0
    shown: int = 10

    @classmethod
    def from_words(
        cls, shape: str, columns: Sequence[str], ignore: Sequence[str], *, least_gap: float = 0.0, most_pairs: int = 200, shown: int = 10
    ) -> Reading:
        """Returns what a command line says: `shape` or nothing, columns as `OURS=THEIRS`, and columns to ignore.

        Raises:
            TableInvalid: an unknown shape, or a column without `=` or with a name that no shape reads, or words that contradict each other.
        """
        if shape and shape not in get_args(Shape):
            raise TableInvalid(f"shape {shape!r} is not one of {', '.join(get_args(Shape))}")
        named = dict(word.partition("=")[::2] for word in columns)
        known = {name for part in (*REQUIRED.values(), *OPTIONAL.values()) for name in part}
        wrong = [ours for ours, theirs in named.items() if ours not in known or not theirs]
        if wrong:
            raise TableInvalid(f"columns are given as OURS=THEIRS; {', '.join(wrong)} is not. Ours are {', '.join(sorted(known))}")
        if len(named) < len({*columns}):
            given = [word.partition("=")[0] for word in dict.fromkeys(columns)]
            raise TableInvalid(f"--column says of {max(given, key=given.count)} more than once which column it is")
        if both := sorted({*named.values()} & {*ignore}):
            raise TableInvalid(f"--column reads {', '.join(both)} and --ignore has it read by nothing; say one of the two")
        found = next((one for one in get_args(Shape) if one == shape), None)
        return cls(found, named, frozenset(ignore), least_gap=least_gap, most_pairs=most_pairs, shown=shown)


def shape_of(columns: Iterable[str]) -> Shape:
    """Returns the shape that a table with `columns` (by our names) has.

    Raises:
        TableInvalid: it has none of them; the message says what each needs. Or it has ratings and nobody whose they are.
    """
    present = set(columns)
    shapes: tuple[Shape, ...] = get_args(Shape)
    for shape in shapes:
        if present.issuperset(REQUIRED[shape]):
            if shape == "scores" and "rating" in present and "user" not in present:  # all who rated would be one person
                raise TableInvalid(
                    "there are ratings, and no column says whose; --column user=THEIRS names the one that does, and "
                    "--shape scores reads every column of numbers as an attribute that everybody sees alike"
                )
            return shape
    found = some(sorted(present)) or "(none)"
    needs = "; ".join(f"{shape}: {', '.join(REQUIRED[shape])}" for shape in get_args(Shape))
    raise TableInvalid(f"the columns {found} make no known shape. Needed: {needs}. --column OURS=THEIRS says what the table calls one")


def unread_of(values: Mapping[str, Any], shape: Shape, reading: Reading, numeric: tuple[str, ...]) -> list[str]:
    """Returns the columns of a row that a shape does not read and nobody ignores; `numeric` are read as well."""
    known = {outermost(reading.columns.get(name, name), values) for name in (*REQUIRED[shape], *OPTIONAL[shape])}
    return [name for name in values if name not in known and name not in reading.ignore and name not in numeric]


def outermost(column: str, values: Mapping[str, Any]) -> str:
    """Returns the column of the table that holds `column`, which may be inside of it."""
    return column if column in values else column.partition(".")[0]


def said_alone(shape: Shape, alone: int) -> str:
    """Returns, for a sentence, that so many ratings or scores have nothing to be compared with."""
    whose = "user" if shape == "ratings" else "attribute"
    return f"{counted(alone, f'{shape[:-1]} is', f'{shape} are')} the only one of {'its' if alone == 1 else 'their'} {whose} for a prompt"
