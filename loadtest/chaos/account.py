"""What was sent, what was acknowledged and what is there in the end: feedback that is repeated, reordered and sent again until it is taken.

client ─> a new event, or one that was not acknowledged yet, sometimes twice at once ─> /feedback ─> Account
at the end ─> everything once more until it is acknowledged ─> export of every user ─> lost, twice, of nobody
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field

import aiohttp

USERS = 64
WORDS = ("tea", "egg", "boil", "water", "friend", "yes", "no", "travel", "lovely", "put", "six", "minutes")
ANSWER_S = 20.0
PAUSE_S = 0.02
AWAY_PAUSE_S = 1.0
"""Before a server is asked again that did not answer at all: connections that are refused at full speed would take the processor from
the server that starts."""
MOST_OPEN = 32
"""So many events wait for an acknowledgement before no new ones are made, however long a server is away."""

Event = tuple[str, str]
"""User and event id."""


@dataclass
class Account:
    """What clients know.

    Attributes:
        sent: every event that was ever sent, with its body.
        acknowledged: those of them that were answered with 200.
        applied: how often each was answered with `applied`; a second time would be counted twice.
        statuses: of all answers; `none` where the connection broke or no answer came in time.
        slowest_s: of all answers.
    """

    url: str
    seed: int = 0
    sent: dict[Event, dict[str, object]] = field(default_factory=dict)
    acknowledged: set[Event] = field(default_factory=set)
    applied: Counter[Event] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0

    def __post_init__(self) -> None:
        self._draw = random.Random(self.seed)
        self._open: list[Event] = []

    def _next(self) -> Event:
        """Returns a new event, or an older one that nobody has acknowledged: so they arrive in any order."""
        if self._open and (len(self._open) >= MOST_OPEN or self._draw.random() < 0.5):
            return self._open.pop(self._draw.randrange(len(self._open)))
        user, event = f"chaos-{self._draw.randrange(USERS)}", f"{self.seed}-{len(self.sent)}"
        chosen, rejected = (" ".join(self._draw.choices(WORDS, k=6)) for _ in range(2))
        body: dict[str, object] = {
            "user": user,
            "event_id": event,
            "prompt": "tell me about tea",
            "chosen_text": chosen,
            "rejected_text": f"{rejected} .",
        }
        self.sent[user, event] = body
        return user, event

    async def send(self, session: aiohttp.ClientSession, event: Event) -> str:
        """Sends an event once; returns the status."""
        began_s = time.perf_counter()
        try:
            async with session.post(f"{self.url}/feedback", json=self.sent[event]) as answer:
                found: dict[str, object] = await answer.json(content_type=None)
                status = str(answer.status)
        except (aiohttp.ClientError, TimeoutError, OSError):
            status, found = "none", {}
        self.slowest_s = max(self.slowest_s, time.perf_counter() - began_s)
        self.statuses[status] += 1
        if status == "200":
            self.acknowledged.add(event)
            self.applied[event] += found.get("result") == "applied"
        return status

    async def client(self, session: aiohttp.ClientSession, stop: asyncio.Event) -> None:
        """Sends until told to stop; waits a little after each refusal, and longer while nobody answers."""
        while not stop.is_set():
            event = self._next()
            times = 2 if self._draw.random() < 0.3 else 1
            statuses = await asyncio.gather(*(self.send(session, event) for _ in range(times)))
            if "200" not in statuses:
                self._open.append(event)
                await asyncio.sleep(AWAY_PAUSE_S if set(statuses) == {"none"} else PAUSE_S)

    async def settle(self, session: aiohttp.ClientSession, within_s: float) -> None:
        """Sends what is open until all of it is acknowledged, and everything else of the last hundred once more.

        Raises:
            TimeoutError: it is not, within the time.
        """
        repeats = self._draw.sample(sorted(self.acknowledged), min(100, len(self.acknowledged)))
        async with asyncio.timeout(within_s):
            for event in repeats:
                await self.send(session, event)
            while waiting := sorted(set(self.sent) - self.acknowledged):
                statuses = await asyncio.gather(*(self.send(session, event) for event in waiting[:MOST_OPEN]))
                if "200" not in statuses:
                    await asyncio.sleep(PAUSE_S * 10)

    async def compare(self, session: aiohttp.ClientSession) -> dict[str, int]:
        """Returns how many acknowledged events are not there, how many count twice, and how many nobody sent."""
        stored: Counter[Event] = Counter()
        counted = 0
        for user in sorted({user for user, _ in self.sent}):
            async with session.get(f"{self.url}/users/{user}/export") as answer:
                lines = [json.loads(line) for line in (await answer.text()).splitlines()]
            stored.update((user, line["event_id"]) for line in lines if line["type"] == "comparison")
            async with session.get(f"{self.url}/users/{user}") as answer:
                counted += (await answer.json())["user"]["comparisons"]
        return {
            "lost": len(self.acknowledged - set(stored)),
            "twice": counted - len(stored) + sum(times - 1 for times in (*stored.values(), *self.applied.values()) if times > 1),
            "of nobody": len(set(stored) - set(self.sent)),
        }


def session() -> aiohttp.ClientSession:
    """Returns a client whose requests end in bounded time."""
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER_S), connector=aiohttp.TCPConnector(limit=0))
