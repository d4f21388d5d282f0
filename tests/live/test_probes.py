"""Everything that gives a bundle's rows is judged by its probes: what runs a batch alone, and what runs batches beside each other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from attune.models.seam.bundle import Bundle, read_bundle
from attune.models.seam.families import Row
from attune.models.seam.padding import TokenRow
from attune.service.batching.batcher import Batcher
from attune.service.batching.session import CPU, Scorer, ScorerSession
from attune.service.errors import BundleRefused
from attune.service.live.opened_scorer import replay_probes
from tests.batching.serving import serving
from tests.tiny_bundle import write_tiny_bundle

TOLERANCE = 1e-4


class Off(Scorer[Row]):
    """A scorer whose rewards are higher by a tenth, or that fails."""

    def __init__(self, right: Scorer[Row], *, fails: bool = False) -> None:
        self._right = right
        self._fails = fails

    def run(self, items: Sequence[TokenRow], /) -> list[Row]:
        if self._fails:
            raise FloatingPointError("rewards have 3 NaN")
        return [{name: value + 0.1 for name, value in row.items()} for row in self._right.run(items)]


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return read_bundle(write_tiny_bundle(tmp_path))


@pytest.fixture
def session(bundle: Bundle) -> ScorerSession:
    return ScorerSession(bundle.path / "scorer.onnx", (CPU,), threads=1)


@pytest.fixture
async def batcher(session: ScorerSession) -> AsyncIterator[Batcher[Row]]:
    async with serving(session) as running:
        yield running


async def test_both_that_answer_alike_pass(bundle: Bundle, session: ScorerSession, batcher: Batcher[Row]) -> None:
    judged: list[Sequence[Row]] = []

    def read(rows: Sequence[Row]) -> Sequence[Row]:
        judged.append(rows)
        return rows

    for beside, times in ((session, 2), (None, 1)):
        judged.clear()
        await replay_probes(bundle, bundle.text_encoder(), batcher, beside, TOLERANCE, read)
        assert [len(rows) for rows in judged] == [len(bundle.probes.prompts)] * times


@pytest.mark.parametrize(
    ("fails", "told"),
    [(False, r"probe 0 differs by 0\.\d+ in \w+; the tolerance is 0\.0001"), (True, "run beside each other: rewards have 3 NaN")],
)
async def test_what_runs_batches_beside_each_other_is_judged_too(
    bundle: Bundle, session: ScorerSession, batcher: Batcher[Row], fails: bool, told: str
) -> None:
    with pytest.raises(BundleRefused, match=told):
        await replay_probes(bundle, bundle.text_encoder(), batcher, Off(session, fails=fails), TOLERANCE, lambda rows: rows)
