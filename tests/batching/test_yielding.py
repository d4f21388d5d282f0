"""Threads of a runtime give way to those that answer, and nothing else does."""

from __future__ import annotations

import os
import threading

import pytest

from attune.service.batching.session import ScorerSession
from attune.service.batching.yielding import STEP, give_way, threads_here

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


@needs_linux
def test_a_thread_that_has_ended_is_passed_over():
    ended = threading.Thread(target=lambda: None)
    ended.start()
    ended.join()
    done, known = threading.Event(), threading.Event()
    living = threading.Thread(target=lambda: known.set() or done.wait())
    living.start()
    known.wait()
    before = priorities()[living.native_id or 0]
    give_way([ended.native_id or 0, living.native_id or 0])
    after = priorities()[living.native_id or 0]
    done.set()
    living.join()
    assert after == min(19, before + STEP)


def test_a_system_that_does_not_tell_has_no_threads_to_lower(tmp_path):
    assert threads_here(tmp_path / "absent") == set()
