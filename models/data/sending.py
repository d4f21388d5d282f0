"""Sending a history to a running server: comparisons in batches of `POST /feedback/batch`, each once, however often it is broken off.

    comparisons ─> bodies, event ids made of what they say ─> batches ─> server ─> counts, and what was refused

What the server had no time for is sent again, and so is everything that it did not acknowledge before it went away for a while; what it
knows already is counted and changes nothing.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from attune.client import AttuneFailed, AttuneUnreachable, Client
from attune.models.data.preferences import Comparison
from attune.models.seam.weighted import IMPLICIT

LINES = 100
"""Lines of one batch: a few seconds of a small server, within the deadline of a request."""

BYTES = 1_000_000
"""Of one batch, unless one line alone has more; servers take two million as they come."""

TOO_LARGE = 413
LATER = frozenset({429, 503, 504})
TRIES, PAUSE_S, LONGEST_PAUSE_S = 10, 1.0, 30.0
"""Pauses double up to the longest: two and a half minutes in all, in which a server starts again also on a busy machine."""


@dataclass(slots=True)
class Sent:
    """What became of a history so far.

    Attributes:
        refused: number, status and detail of what a server will never take.
        waiting: why the server is waited for; empty where it is not.
    """

    total: int
    applied: int = 0
    duplicate: int = 0
    refused: list[tuple[int, int, str]] = field(default_factory=list)
    waiting: str = ""

    @property
    def done(self) -> int:
        """How many have an outcome."""
        return self.applied + self.duplicate + len(self.refused)


def bodies_of(records: Sequence[Comparison], events: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Returns a body of `POST /feedback` for each record.

    `events` are the ids under which a deployment learned the records, which are kept: sent back to it, they count no second time. Where
    there is none, the event id is a hash of what the record says, and of how many equal ones stand before it: the same file gives the
    same events, and a choice that was made twice counts twice.

    A record with one of the weights of `IMPLICIT` is what a user kept; others are sent as whole comparisons.
    """
    seen: Counter[str] = Counter()
    bodies = []
    for one, event in zip(records, events or [""] * len(records), strict=True):
        observed = None if one.time_s is None else datetime.fromtimestamp(one.time_s, UTC).isoformat()
        how = next((name for name, weight in IMPLICIT.items() if weight == one.weight), None)
        if how is None:
            said: dict[str, Any] = {"chosen_text": one.chosen, "rejected_text": one.rejected, "tie": one.tie}
        else:
            said = {"kept": one.chosen, "over": one.rejected, "how": how}
        body = {"user": one.user, "prompt": one.prompt, **said, "context": one.context, "observed_at": observed}
        words = json.dumps(body, sort_keys=True)
        seen[words] += 1
        digest = hashlib.blake2b(f"{seen[words]} {words}".encode(), digest_size=16).hexdigest()
        bodies.append(body | {"event_id": event or f"import-{digest}"})
    return bodies


def send(client: Client, bodies: Sequence[Mapping[str, Any]], tell: Callable[[Sent], None] = lambda _: None) -> Sent:
    """Returns what became of the bodies; `tell` is told after each batch, and when the server is waited for.

    A batch that is too large for the server is sent in halves; what is too large alone is refused, as any other line is. A server that has
    taken a batch and then goes away is waited for until all tries are used.

    Raises:
        AttuneFailed: the server refuses batches as such, or has no time for one even after waiting; sending all again goes on.
        AttuneUnreachable: it cannot be reached, or went away for longer; likewise.
    """
    sent = Sent(len(bodies))
    batches = deque(_batches(bodies))
    while batches:
        waiting = batches.popleft()
        for attempt in range(TRIES):
            try:
                answers = client.feedback_batch([bodies[number] for number in waiting])
            except (AttuneFailed, AttuneUnreachable) as error:
                if isinstance(error, AttuneFailed) and error.status == TOO_LARGE:
                    batches.extendleft(reversed(_halves(sent, waiting, error)))
                    break
                refuses = isinstance(error, AttuneFailed) and error.status not in LATER
                if refuses or sent.done == 0 or attempt == TRIES - 1:
                    raise
                sent.waiting = str(error)
                tell(sent)
            else:
                sent.waiting = ""
                waiting = _taken(sent, waiting, answers, last=attempt == TRIES - 1)
                if not waiting:
                    break
            _pause(attempt)
        tell(sent)
    return sent


def _halves(sent: Sent, batch: list[int], error: AttuneFailed) -> list[list[int]]:
    """Returns a batch that is too large in halves, since one text is not to be that for its neighbours; one line alone is refused."""
    if len(batch) == 1:
        sent.refused.append((batch[0], error.status, error.detail))
        return []
    middle = len(batch) // 2
    return [batch[:middle], batch[middle:]]


def _taken(sent: Sent, batch: Sequence[int], answers: Sequence[Mapping[str, Any]], *, last: bool) -> list[int]:
    """Counts what became of each line of a batch; returns those that are to be sent again, none the last time."""
    again = []
    for number, answer in zip(batch, answers, strict=True):
        if "result" in answer:
            sent.applied += answer["result"] == "applied"
            sent.duplicate += answer["result"] == "duplicate"
        elif answer["code"] == "event-conflict":
            # Ids that are hashes have no other body: this one is a deployment's own, which it learned by the ids of its answers.
            sent.duplicate += 1
        elif answer["status"] in LATER and not last:
            again.append(number)
        else:
            sent.refused.append((number, answer["status"], answer["detail"]))
    return again


def _pause(attempt: int) -> None:
    time.sleep(min(LONGEST_PAUSE_S, PAUSE_S * 2**attempt))


def _batches(bodies: Sequence[Mapping[str, Any]]) -> Iterator[list[int]]:
    batch: list[int] = []
    size = 0
    for number, body in enumerate(bodies):
        length = len(json.dumps(body, ensure_ascii=False).encode()) + 1
        if batch and (len(batch) == LINES or size + length > BYTES):
            yield batch
            batch, size = [], 0
        batch.append(number)
        size += length
    if batch:
        yield batch
