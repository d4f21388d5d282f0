"""What the scorer said of the texts that were read last: a conversation's turn, a retry, an answer that many people judged.

A row depends on the tokens that were read and on the bundle alone; each `Serving` has memories of its own, and no text is in them.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable

import numpy as np

from attune.models.seam.family import Row
from attune.models.seam.text import Encoded

MOST_PROMPTS = 1024
MOST_ANSWERS = 16_384
"""About a kilobyte each. A history's answers come back from other people, seldom one soon after the other."""


class RememberedRows:
    """The rows of the last prompts, or of the last answers.

    Args:
        most: rows that are remembered; the one that was asked for longest ago goes first.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._rows: OrderedDict[bytes, Row] = OrderedDict()

    def get(self, text: Encoded) -> Row | None:
        """Returns the row of a text, if it is remembered."""
        key = _key(text)
        row = self._rows.get(key)
        if row is not None:
            self._rows.move_to_end(key)
        return row

    def put(self, text: Encoded, row: Row, names: Iterable[str]) -> None:
        """Remembers these outputs of a row, copied: as it comes it is a view that would hold its whole batch."""
        key, kept = _key(text), {name: np.array(row[name]) for name in names if name in row}
        if not all(np.isfinite(values).all() for values in kept.values()):
            return  # a device that failed once is asked again
        self._rows[key] = kept
        self._rows.move_to_end(key)
        if len(self._rows) > self._most:
            self._rows.popitem(last=False)


def _key(text: Encoded) -> bytes:
    span = np.array([*text.input_ids, text.pool_start, text.pool_stop], dtype="<i8")
    return hashlib.blake2b(span.tobytes(), digest_size=16).digest()
