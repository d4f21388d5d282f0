"""Threads of a runtime give way to those that answer, and nothing else does."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence

import pytest

from attune.models.seam.families import Row
from attune.models.seam.padding import TokenRow
from attune.service.batching.session import ScorerSession
from attune.service.batching.yielding import STEP, give_way, threads_here
from tests.batching.scorers import texts
from tests.batching.serving import LONG_S, serving

needs_linux = pytest.mark.skipif(not threads_here(), reason="this system does not tell a process's threads")


def priorities() -> dict[int, int]:
    return {thread: os.getpriority(os.PRIO_PROCESS, thread) for thread in threads_here()}


@needs_linux
def test_the_threads_that_a_session_starts_are_lowered_and_those_that_were_there_are_not(toy):
    before = priorities()
    session = ScorerSession(toy, threads=3)
    after = priorities()
    kept = before.keys() & after.keys()
    assert {thread: after[thread] for thread in kept} == {thread: before[thread] for thread in kept}
    started = [priority for thread, priority in after.items() if thread not in before]
    own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    assert len(started) >= 2
    assert set(started) == {min(19, own + STEP)}
    assert session.provider == "CPUExecutionProvider"


class Priorities:
    """Says under which priority it is run."""

    def __init__(self) -> None:
        self.found: list[int] = []

    def run(self, items: Sequence[TokenRow]) -> list[Row]:
        self.found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        return [{} for _ in items]


@needs_linux
async def test_the_threads_that_compute_batches_by_themselves_are_lowered_and_those_that_hand_them_over_are_not():
    own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    handing, computing = Priorities(), Priorities()
    async with serving(handing) as batcher:
        await batcher.submit(texts(3), LONG_S)
    async with serving(computing, beside=computing, at_once=2) as batcher:
        await batcher.submit(texts(3), LONG_S)
    assert (handing.found, computing.found) == ([own], [min(19, own + STEP)])


@needs_linux
def test_a_thread_that_has_ended_is_passed_over():
    ended = threading.Thread(target=lambda: None)
    ended.start()
    ended.join()
    give_way([ended.native_id or 0])


def test_a_system_that_does_not_tell_has_no_threads_to_lower(tmp_path):
    assert threads_here(tmp_path / "absent") == set()
