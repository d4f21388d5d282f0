"""Threads that compute for long give way to those that answer: a lower priority, which costs nothing while a core is free.

    threads_here() before and after a runtime is opened ─> its own threads ─> give_way

On a machine whose cores are all busy the system otherwise shares them evenly, and an answer that needs a millisecond waits behind a batch
that needs a hundred. Between processes of other services nothing changes where each has a control group of its own, as in containers. The
thread that hands batches over keeps its priority: it holds Python's lock at times, and whoever waits for that would wait for it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

STEP = 10
"""Added to the niceness; 10 is a tenth of the weight of a thread beside it."""


def threads_here(told: Path = Path("/proc/self/task")) -> set[int]:
    """Returns the system's numbers of all threads of this process; none where the system does not tell them in this folder."""
    try:
        return {int(thread.name) for thread in told.iterdir()}
    except OSError:
        return set()


def give_way(threads: Iterable[int]) -> None:
    """Lowers the priority of threads; those that have ended, or may not be changed, are left as they are."""
    for thread in threads:
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread, min(19, os.getpriority(os.PRIO_PROCESS, thread) + STEP))
