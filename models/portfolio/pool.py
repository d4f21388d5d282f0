"""A pool: some answers of every member to some prompts, from which values are measured and users are simulated.

A pool is sampled from the members themselves or written by something that stands for them; everything after it cannot tell.
Axis letters: `P` prompts, `M` members, `G` answers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from attune.models.data.preferences import Texts


class PoolInvalid(ValueError):
    """A pool's file is damaged, or a member has too few answers; the message names the line."""


@dataclass(frozen=True, slots=True)
class Pool:
    """Answers `answers[p][m][g]` of `members` to `prompts`, equally many for each.

    `source` tells two pools apart that were asked the same: what wrote it, or a hash of the model that was sampled.
    """

    members: tuple[str, ...]
    prompts: tuple[str, ...]
    answers: tuple[tuple[tuple[str, ...], ...], ...]
    source: str = "grammar"

    def texts(self) -> Texts:
        """Returns the pool as a table of texts: candidates in the order of the axes, so that rows reshape to `[P, M, G, ...]`."""
        candidates = tuple(
            (prompt, text) for prompt, members in zip(self.prompts, self.answers, strict=True) for texts in members for text in texts
        )
        return Texts(tuple((prompt, None) for prompt in self.prompts), candidates)

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(P, M, G)`."""
        return len(self.prompts), len(self.members), len(self.answers[0][0])

    def part(self, chosen: Sequence[int]) -> Pool:
        """Returns the pool of the prompts at the positions `chosen`."""
        return Pool(
            self.members, tuple(self.prompts[index] for index in chosen), tuple(self.answers[index] for index in chosen), self.source
        )


def write_pool(pool: Pool, path: Path) -> None:
    """Writes one JSON line per prompt: `{"source": ..., "prompt": ..., "answers": {member: [...]}}`."""
    lines = [
        json.dumps({"source": pool.source, "prompt": prompt, "answers": dict(zip(pool.members, members, strict=True))}, ensure_ascii=False)
        for prompt, members in zip(pool.prompts, pool.answers, strict=True)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_pool(path: Path) -> Pool:
    """Returns the pool that `write_pool` wrote.

    Raises:
        PoolInvalid: a line is not JSON, has other members than the first, or another number of answers.
    """
    prompts: list[str] = []
    answers: list[tuple[tuple[str, ...], ...]] = []
    members: tuple[str, ...] = ()
    source = ""
    for number, line in enumerate(path.read_text(encoding="utf-8").removesuffix("\n").split("\n"), start=1):
        try:
            entry = json.loads(line)
            named = {member: tuple(map(str, texts)) for member, texts in entry["answers"].items()}
            prompts.append(str(entry["prompt"]))
            source = source or str(entry["source"])
            mixed = entry["source"] != source
        except (ValueError, KeyError, RecursionError, TypeError, AttributeError) as error:
            raise PoolInvalid(f"{path.name} line {number} is not a line of a pool: {error}") from error
        members = members or tuple(named)
        counts = {len(texts) for texts in named.values()}
        if mixed or tuple(named) != members or len(counts) != 1 or (answers and counts != {len(answers[0][0])}):
            found = f"members {tuple(named)} with {counts} answers from {entry['source']!r}"
            raise PoolInvalid(f"{path.name} line {number} has {found}; the first line has {members} from {source!r}")
        answers.append(tuple(named.values()))
    if not answers or not answers[0] or not answers[0][0]:
        raise PoolInvalid(f"{path.name} holds no answers")
    return Pool(members, tuple(prompts), tuple(answers), source)
