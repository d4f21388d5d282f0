"""Metrics of what stands behind the service, the store and the members; `metrics.Metrics` adds its own to the same registry."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import TypeVar

from prometheus_client import Counter, Gauge, Histogram, Summary
from prometheus_client.registry import CollectorRegistry

M = TypeVar("M", Counter, Gauge, Histogram, Summary)

# From a Redis round trip on a socket (0.1 ms) to a generation on a CPU (minutes).
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
SHORT_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


def series_of(metric: M) -> Callable[..., M]:
    """Returns `metric.labels` with a memory: looking a series up takes the library a lock and a dozen calls, many times a request.

    For metrics that are never cleared: a series that was taken off is not shown again.
    """
    return cache(metric.labels)


class BehindMetrics:
    """The metrics of store and members.

    Args:
        registry: where they are registered.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._redis_seconds = series_of(
            self._seconds("attune_redis_operation_duration_seconds", "One operation of the store.", ["operation"])
        )
        self._redis_errors = series_of(self._count("attune_redis_errors", "Operations of the store that failed.", ["operation"]))
        self._store_memory = self._gauge(
            "attune_store_memory_bytes", "Memory of the store: what it holds, and its limit where it has one.", ["kind"]
        )
        self._member_requests = series_of(self._count("attune_member_requests", "Generations asked of a member.", ["member", "result"]))
        self._member_tokens = series_of(self._count("attune_member_tokens", "Tokens by member.", ["member", "kind"]))
        self._member_cost = series_of(
            self._count(
                "attune_member_cost",
                "Price of a member's tokens, in the currency of the roster's prices; of members with a price.",
                ["member"],
            )
        )
        self._first_token = series_of(
            self._seconds("attune_member_first_token_seconds", "From the request to a member's first token.", ["member"], buckets=SECONDS)
        )
        self._member_seconds = series_of(
            self._seconds("attune_member_duration_seconds", "From the request to a member's last token.", ["member"], buckets=SECONDS)
        )
        self._fallbacks = self._count("attune_fallbacks", "Decisions served by another member than the chosen one.", ["member"])
        self._breaker = self._gauge("attune_member_breaker_open", "1 while a member is passed over after failures.", ["member"])
        self._drift = self._gauge(
            "attune_member_drift",
            "Standard errors between a member's latest 100 to 200 answers and those of the month before, under the head with the greatest.",
            ["member"],
        )
        self._unscorable = self._count(
            "attune_member_answers_unscorable",
            "Answers of a member for which the scorer had no finite numbers; they are sent unscored.",
            ["member"],
        )

    def _count(self, name: str, text: str, labels: Iterable[str] = (), values: Iterable[str] = ()) -> Counter:
        counter = Counter(name, text, labels, registry=self.registry)
        for value in values:  # Prometheus sees no increase in a series that begins with its first event
            counter.labels(value)
        return counter

    def _gauge(self, name: str, text: str, labels: Iterable[str] = ()) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry)

    def _seconds(self, name: str, text: str, labels: Iterable[str] = (), buckets: Iterable[float] = SHORT_SECONDS) -> Histogram:
        return Histogram(name, text, labels, buckets=tuple(buckets), registry=self.registry)

    def store_ran(self, operation: str, seconds: float, ok: bool) -> None:  # noqa: FBT001  the callback of the store has this shape
        """Observes one operation of the store."""
        self._redis_seconds(operation).observe(seconds)
        errors = self._redis_errors(operation)
        if not ok:
            errors.inc()

    def store_holds(self, used_bytes: int | None, limit_bytes: int | None) -> None:
        """States the memory of the store; a number that nobody knows, or a limit that it does not have, has no series."""
        for kind, value in (("used", used_bytes), ("limit", limit_bytes)):
            if value is not None:
                self._store_memory.labels(kind).set(value)
            else:
                self._store_memory.remove(kind)

    def member_ran(
        self, member: str, result: str, seconds: float, first_token_s: float | None, prompt_tokens: int, new_tokens: int
    ) -> None:
        """Observes one generation.

        Args:
            member: its name in the portfolio.
            result: `ok`, or a reason from a closed set: timeout, refused, error, cancelled.
            seconds: to the last token, or to the failure.
            first_token_s: to the first token; None where none came.
            prompt_tokens: tokens read.
            new_tokens: tokens generated.
        """
        self._member_requests(member, result).inc()
        self._member_seconds(member).observe(seconds)
        if first_token_s is not None:
            self._first_token(member).observe(first_token_s)
        self._member_tokens(member, "prompt").inc(prompt_tokens)
        self._member_tokens(member, "completion").inc(new_tokens)

    def member_cost(self, member: str, cost: float) -> None:
        """Counts what the tokens of one generation cost."""
        self._member_cost(member).inc(cost)

    def has_members(self, members: Iterable[str], priced: Iterable[str] = ()) -> None:
        """Shows series for every member from the start, so that "no failure yet" is a zero and not a gap; drift told of others goes.

        Args:
            members: their names.
            priced: those with a price.
        """
        self._drift.clear()
        for member in members:
            self._drift.labels(member).set(0.0)
            self._breaker.labels(member)
            self._fallbacks.labels(member)
            self._member_requests(member, "ok")
        for member in priced:
            self._member_cost(member)

    def fell_back(self, member: str) -> None:
        """Counts one decision that was served by another member; `member` is the one that had been chosen."""
        self._fallbacks.labels(member).inc()

    def breaker_moved(self, member: str, *, is_open: bool) -> None:
        """States whether a member is passed over."""
        self._breaker.labels(member).set(float(is_open))

    def member_drifted(self, member: str, errors: float) -> None:
        """States by how many standard errors a member's latest answers differ from earlier ones; 0 where too little is known."""
        self._drift.labels(member).set(errors)

    def unscorable(self, member: str) -> None:
        """Counts an answer that could not be scored."""
        self._unscorable.labels(member).inc()
