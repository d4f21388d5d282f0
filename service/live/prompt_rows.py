"""What the scorer said of the prompts that were read last, so that a conversation's turn and a retry are not read twice.

A row depends on the tokens that were read and on the bundle alone; each `Serving` has a memory of its own, and no text is in it.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable

import numpy as np

from attune.models.seam.family import Row
from attune.models.seam.text import Encoded

MOST_ROWS = 1024


class PromptRows:
    """The rows of the last prompts.

    Args:
        most: rows that are remembered; the one that was asked for longest ago goes first.
    """

    def __init__(self, most: int = MOST_ROWS) -> None:
        self._most = most
        self._rows: OrderedDict[bytes, Row] = OrderedDict()

    def get(self, prompt: Encoded) -> Row | None:
        """Returns the row of a prompt, if it is remembered."""
        key = _key(prompt)
        row = self._rows.get(key)
        if row is not None:
            self._rows.move_to_end(key)
        return row

    def put(self, prompt: Encoded, row: Row, names: Iterable[str]) -> None:
        """Remembers these outputs of a row, copied: as it comes it is a view that would hold its whole batch."""
        key = _key(prompt)
        self._rows[key] = {name: np.array(row[name]) for name in names if name in row}
        self._rows.move_to_end(key)
        if len(self._rows) > self._most:
            self._rows.popitem(last=False)


def _key(prompt: Encoded) -> bytes:
    span = np.array([*prompt.input_ids, prompt.pool_start, prompt.pool_stop], dtype="<i8")
    return hashlib.blake2b(span.tobytes(), digest_size=16).digest()
