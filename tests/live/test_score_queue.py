"""The queue of answers that are scored later: together, bounded, and without losing the next when one fails."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from attune.models.seam.family import Row
from attune.models.seam.text import Encoded
from attune.service.batching.submission import Submitted
from attune.service.errors import NotReady, ScorerFailed
from attune.service.live.leases import Leases
from attune.service.live.remembered_rows import RememberedRows
from attune.service.live.score_queue import GATHER_S, TOGETHER, Later, ScoringLater
from tests.batching.serving import until


@dataclass
class Scorer:
    """Says of each text its first token; fails where a text begins with 0."""

    submitted: list[int] = field(default_factory=list)
    spare: list[bool] = field(default_factory=list)
    hurried: int = 0
    away: int = 0

    alive = True
    waiting_items = waiting_tokens = 0
    drain_tokens_per_s = 1.0

    async def submit(self, items: Sequence[Encoded], deadline_s: float, *, spare: bool = False) -> Submitted:
        self.spare.append(spare)
        await asyncio.sleep(0)
        self.submitted.append(len(items))
        if self.away:
            self.away -= 1
            raise NotReady("the scorer is being started again")
        if any(item.input_ids[0] == 0 for item in items):
            raise ScorerFailed("a text begins with 0")
        return Submitted([{"first": np.array([item.input_ids[0]], dtype=np.float32)} for item in items], 0.0, 0.0)

    def hurry(self) -> None:
        self.hurried += 1

    async def canary(self, deadline_s: float) -> float:
        return deadline_s

    async def aclose(self) -> None:
        """Has nothing to give back."""


class Decisions:
    """Puts decisions into a queue and notes what became of them."""

    def __init__(self, most_waiting: int = 100, gather_s: float = GATHER_S, **waits: float) -> None:
        self.outcomes: Counter[str] = Counter()
        self.queue = ScoringLater(self._count, most_waiting, gather_s, **waits)
        self.scorer = Scorer()
        self.leases = Leases()
        self.kept: dict[str, list[float]] = {}

    def _count(self, outcome: str) -> None:
        self.outcomes[outcome] += 1

    def put(self, name: str, *firsts: int) -> bool:
        async def read() -> list[Encoded]:
            return [Encoded((first,), 0, 1) for first in firsts]

        async def keep(rows: Sequence[Row]) -> None:
            self.kept[name] = [float(row["first"][0]) for row in rows]

        return self.queue.put(Later(name, self.scorer, self.leases, read, keep))


async def test_decisions_are_scored_together_and_each_gets_its_own_rows():
    decisions = Decisions()
    for number in range(1, TOGETHER + 3):
        assert decisions.put(f"d{number}", number, 100 + number)
    await decisions.queue.idle()
    assert decisions.kept == {f"d{number}": [number, 100 + number] for number in range(1, TOGETHER + 3)}
    assert decisions.scorer.submitted == [2 * TOGETHER, 4]
    assert decisions.leases.count == 0


async def test_where_there_is_no_room_the_next_is_dropped_and_counted():
    decisions = Decisions(most_waiting=2)
    assert [decisions.put(name, 1) for name in ("a", "b", "c")] == [True, True, False]
    await decisions.queue.idle()
    assert decisions.outcomes == {"scored": 2, "dropped": 1}


async def test_a_failure_is_counted_and_the_next_are_scored():
    decisions = Decisions()
    decisions.put("bad", 0)
    await decisions.queue.idle()
    decisions.put("good", 1)
    await decisions.queue.idle()
    assert decisions.outcomes == {"failed": 1, "scored": 1}
    assert decisions.leases.count == 0


async def test_while_the_scorer_is_away_answers_go_on_waiting_and_whoever_needs_one_still_has_it_first():
    decisions = Decisions(gather_s=3600.0, retry_s=0.01)
    decisions.scorer.away = 3
    for number in range(TOGETHER + 1):
        decisions.put(f"d{number}", 1 + number)
    await decisions.queue.settled([f"d{TOGETHER}"], 60.0)
    assert f"d{TOGETHER}" in decisions.kept
    await decisions.queue.idle()
    assert decisions.outcomes == {"scored": TOGETHER + 1}
    assert decisions.leases.count == 0


async def test_a_scorer_that_stays_away_has_answers_wait_for_so_long_only():
    decisions = Decisions(retry_s=0.01, limit_s=0.05)
    decisions.scorer.away = 1_000_000
    decisions.put("a", 1)
    await decisions.queue.idle()
    assert decisions.outcomes == {"failed": 1}
    assert decisions.queue.gave_up("a")


async def test_the_end_of_the_process_waits_for_no_scorer_that_is_away():
    decisions = Decisions(gather_s=0.0)
    decisions.scorer.away = 1_000_000
    decisions.put("a", 1)
    decisions.queue.hurry()
    async with asyncio.timeout(60.0):
        await decisions.leases.idle()
    assert decisions.outcomes == {"failed": 1}


async def test_what_waits_for_a_scorer_that_is_away_is_dropped_at_the_end():
    decisions = Decisions(gather_s=0.0)
    decisions.scorer.away = 1
    decisions.put("a", 1)
    await until(lambda: not decisions.scorer.away and bool(decisions.queue.waiting))
    await decisions.queue.aclose()
    assert decisions.outcomes == {"dropped": 1}
    assert decisions.leases.count == 0


async def test_who_needs_a_decision_has_it_scored_at_once():
    decisions = Decisions()
    decisions.put("a", 7)
    await decisions.queue.settled(["a", "unknown"], 5.0)
    assert decisions.kept == {"a": [7.0]}


async def test_a_full_batch_is_scored_without_waiting_for_more_and_a_part_of_one_waits():
    decisions = Decisions(gather_s=3600.0)
    for number in range(TOGETHER + 1):
        decisions.put(f"d{number}", 1 + number)
    for _ in range(100):
        await asyncio.sleep(0)
    assert (decisions.scorer.submitted, decisions.queue.waiting) == ([TOGETHER], 1)
    await decisions.queue.aclose()


async def test_who_needs_one_that_is_behind_a_full_batch_does_not_wait_for_others():
    decisions = Decisions(gather_s=3600.0)
    for number in range(TOGETHER + 2):
        decisions.put(f"d{number}", 1 + number)
    await decisions.queue.settled([f"d{TOGETHER + 1}"], 5.0)
    decisions.put("later", 1)
    for _ in range(20):
        await asyncio.sleep(0)
    assert (decisions.scorer.submitted, decisions.scorer.spare) == ([TOGETHER], [False])
    assert decisions.queue.waiting == 3  # nobody waits for these
    await decisions.queue.aclose()


async def test_who_needs_one_behind_many_waits_for_one_submission_and_the_rest_stays_spare():
    decisions = Decisions(gather_s=3600.0)
    for number in range(5 * TOGETHER):
        decisions.put(f"d{number}", 1 + number)
    await until(lambda: bool(decisions.scorer.spare))
    await decisions.queue.settled([f"d{5 * TOGETHER - 1}", "d1"], 60.0)
    assert len(decisions.scorer.submitted) == 2
    await until(lambda: not decisions.queue.waiting)
    assert decisions.scorer.spare == [True, False, True, True, True]
    await decisions.queue.idle()
    assert decisions.outcomes == {"scored": 5 * TOGETHER}


async def test_at_the_end_what_waits_is_scored_without_waiting_for_more_and_so_is_what_still_comes():
    decisions = Decisions(gather_s=3600.0)
    decisions.put("a", 7)
    decisions.queue.hurry()
    async with asyncio.timeout(60.0):
        await decisions.leases.idle()
        decisions.put("b", 8)
        await decisions.leases.idle()
    assert decisions.kept == {"a": [7.0], "b": [8.0]}


async def test_what_waits_holds_its_bundle_until_it_is_scored_or_dropped():
    decisions = Decisions()
    decisions.put("a", 1)
    assert decisions.leases.count == 1
    await decisions.queue.aclose()
    assert decisions.leases.count == 0
    assert decisions.outcomes == {"dropped": 1}


def test_the_prompt_that_was_asked_for_longest_ago_is_forgotten_first():
    rows, prompts = RememberedRows(most=2), [Encoded((number,), 0, 1) for number in range(3)]
    row = {"pooled": np.ones(2, dtype=np.float32), "other": np.ones(1, dtype=np.float32)}
    rows.put(prompts[0], row, ["pooled"])
    rows.put(prompts[1], row, ["pooled"])
    assert set(rows.get(prompts[0]) or {}) == {"pooled"}
    rows.put(prompts[2], row, ["pooled"])
    assert [rows.get(prompt) is None for prompt in prompts] == [False, True, False]


def test_a_row_that_is_not_finite_is_not_remembered():
    rows, text = RememberedRows(most=2), Encoded((1,), 0, 1)
    rows.put(text, {"first": np.array([np.nan], dtype=np.float32)}, ["first"])
    assert rows.get(text) is None


async def test_a_tenant_of_much_traffic_leaves_another_its_own_share():
    queue = ScoringLater(lambda _outcome: None, per_s=1e-6)
    assert [queue.spare("much") for _ in range(TOGETHER + 1)] == [True] * TOGETHER + [False]
    assert queue.spare("little")


async def test_what_nobody_needs_is_scored_in_spare_time_and_what_somebody_comes_to_need_is_not():
    decisions = Decisions(gather_s=3600.0)
    for number in range(TOGETHER):
        decisions.put(f"d{number}", 1 + number)
    await until(lambda: bool(decisions.scorer.spare))
    await decisions.queue.settled(["d3"], 5.0)
    assert (decisions.scorer.spare, decisions.scorer.hurried) == ([True], 1)
    decisions.put("needed", 5)
    await decisions.queue.settled(["needed"], 5.0)
    assert decisions.scorer.spare == [True, False]
    await decisions.queue.aclose()
