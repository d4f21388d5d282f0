"""Every Prometheus metric of the service: those of edge, scorer and learning here, those of store and members in `behind_metrics`.

    batching, state, members ──plain callbacks──> Metrics ──render──> GET /metrics

Names carry the prefix `attune_` and base units. A label takes values from a closed set, from the bundle (families) or from the portfolio
(members) only: never a user, a key, a tenant, a path or an id, so the number of series is known. Values that something else owns (queue
depth, requests in flight) are read by a callback when Prometheus scrapes.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Iterable, Mapping
from typing import Literal, get_args

from prometheus_client import Histogram, PlatformCollector, ProcessCollector, Summary, disable_created_metrics
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import CollectorRegistry

from attune.service.observe.behind_metrics import SECONDS, SHORT_SECONDS, BehindMetrics, series_of
from attune.service.observe.timing import Stage

METHODS = frozenset({"GET", "POST", "DELETE", "PUT", "PATCH", "HEAD", "OPTIONS"})
UNMATCHED_ROUTE = "unmatched"

_SHARES = (0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5)
_ITEMS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_TOKENS = (32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072, 262144, 524288, 1048576)

FeedbackResult = Literal[
    "applied", "duplicate", "conflict", "unknown", "expired", "refused", "overloaded", "unavailable", "failed", "taken-back"
]
Personalization = Literal["applied", "prior", "unavailable"]
DropReason = Literal["abandoned", "expired", "failed", "refused"]
_OUR_FAILURES = ("overloaded", "deadline-exceeded", "internal", "member-failed", "members-busy", "scorer-failed", "store-unavailable")


class Metrics(BehindMetrics):
    """The metrics of one service, in a registry of its own.

    Args:
        registry: where they are registered; a fresh one where None, so that two services in one process do not meet.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        disable_created_metrics()  # a `_created` series for each of the others: twice the size, and Prometheus does not need them
        super().__init__(registry or CollectorRegistry(auto_describe=True))
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._declare_edge()
        self._declare_scoring()
        self._declare_learning()

    def _declare_edge(self) -> None:
        self._requests = series_of(self._count("attune_http_requests", "Requests answered.", ["route", "method", "status"]))
        self._request_seconds = series_of(
            self._seconds(
                "attune_http_request_duration_seconds",
                "From the first byte of a request to the last byte of its answer.",
                ["route"],
                buckets=SECONDS,
            )
        )
        self._in_flight = self._gauge("attune_http_requests_in_flight", "Requests admitted and not yet answered.")
        self._tasks = self._gauge("attune_asyncio_tasks", "Tasks of the event loop; what grows at rest is a leak.")
        self._connections = self._gauge("attune_connections", "Open connections.")
        self._connections_refused = self._count(
            "attune_connections_refused", "Connections and request heads refused before they were a request.", ["reason"]
        )
        self._errors = series_of(self._count("attune_errors", "Answers with a problem document, by its code.", ["code"], _OUR_FAILURES))
        self._stage_seconds = series_of(
            self._seconds(
                "attune_stage_duration_seconds", "Time of one request in a stage.", ["stage"], buckets=(*SHORT_SECONDS, 10.0, 60.0)
            )
        )
        self._ready = self._gauge("attune_ready", "1 while GET /readyz answers 200, else 0.")
        self._ready_part = self._gauge("attune_ready_part", "1 while this part is well, else 0; as GET /readyz says.", ["part"])
        self._loop_lag = self._seconds("attune_loop_lag_seconds", "By how much the event loop woke late.")
        self._gc_pause = series_of(self._seconds("attune_gc_pause_seconds", "Collections of garbage.", ["generation"]))
        self._frozen = self._gauge("attune_frozen_objects", "Objects of the heap that collections pass over.")
        self._build = self._gauge("attune_build_info", "1, with the versions that run.", ["version", "python", "provider"])
        self._bundle = self._gauge("attune_bundle_info", "1, with the bundle that serves.", ["bundle", "basis"])
        self._reloads = self._count("attune_bundle_reloads", "Attempts to load another bundle.", ["result"], ("loaded", "refused"))

    def _declare_scoring(self) -> None:
        self._batch_items = Histogram("attune_batch_texts", "Texts in a batch.", buckets=_ITEMS, registry=self.registry)
        self._batch_padded = Histogram(
            "attune_batch_padded_tokens", "Tokens computed for a batch.", buckets=_TOKENS, registry=self.registry
        )
        self._batch_tokens = series_of(self._count("attune_scorer_tokens", "Tokens through the scorer: real ones and padding.", ["kind"]))
        self._queue_wait = self._seconds("attune_queue_wait_seconds", "Wait of a submission's texts before a batch of theirs.")
        self._inference = self._seconds("attune_inference_seconds", "Time of the scorer on one batch.")
        self._busy = self._count("attune_scorer_busy_seconds", "Time in which the scorer computed: that of batches side by side once.")
        self._dropped = self._count("attune_texts_dropped", "Texts that got no score.", ["reason"], get_args(DropReason))
        self._queue_items = self._gauge("attune_queue_texts", "Texts that wait for the scorer.")
        self._queue_tokens = self._gauge("attune_queue_tokens", "Tokens that wait for the scorer.")
        self._budget = self._gauge("attune_batch_budget_tokens", "Padded tokens that a batch may have.")

    def _declare_learning(self) -> None:
        outcomes = get_args(Personalization)
        self._scored = series_of(self._count("attune_personalizations", "Answers by what was known of the user.", ["outcome"], outcomes))
        self._nobody = self._count("attune_requests_without_user", "Compatible requests that named no user, so that nothing was personal.")
        self._decisions = series_of(self._count("attune_decisions", "Members chosen.", ["policy", "member"]))
        self._later = series_of(
            self._count("attune_answers_scored_later", "Decisions whose answers were to be scored after they were sent.", ["result"])
        )
        self._decision_gap = Histogram(
            "attune_decision_gap_ratio",
            "Share of the best possible reward that is not proved of the portfolio for the user, decision by decision.",
            buckets=_SHARES,
            registry=self.registry,
        )
        self._user_gap = self._gauge("attune_portfolio_gap_ratio", "Mean of that share over users routed of late, each once.")
        self._recent_users = self._gauge("attune_portfolio_recent_users", "Users routed of late.")
        self._feedback = series_of(self._count("attune_feedback", "Comparisons received.", ["result"], get_args(FeedbackResult)))
        self._agreement = series_of(
            self._count("attune_prequential_comparisons", "Comparisons predicted before they were learned.", ["family", "agreed"])
        )
        self._log_loss = series_of(
            Summary("attune_prequential_log_loss_nats", "Log-loss of the prediction before learning.", ["family"], registry=self.registry)
        )

    # --- the edge -------------------------------------------------------------------------------------------------

    def answered(self, route: str | None, method: str, status: int, seconds: float) -> None:
        """Counts one answered request.

        Args:
            route: the template (`/users/{user}`), never the path; None where no route matched.
            method: as sent; unknown ones are counted as `other`.
            status: three digits.
            seconds: duration of the request.
        """
        template = route or UNMATCHED_ROUTE
        self._requests(template, method if method in METHODS else "other", str(status)).inc()
        self._request_seconds(template).observe(seconds)

    def refused(self, code: str) -> None:
        """Counts one problem document; `code` is that of an error class."""
        self._errors(code).inc()

    def took(self, seconds: Mapping[Stage, float]) -> None:
        """Observes the stages of one request, as `Timings.seconds` has them."""
        for stage, value in seconds.items():
            self._stage_seconds(stage).observe(value)

    def watch_in_flight(self, count: Callable[[], float]) -> None:
        """Reads the number of admitted requests from a callback at each scrape."""
        self._in_flight.set_function(count)

    def watch_tasks(self, count: Callable[[], float]) -> None:
        """Reads the number of the loop's tasks from a callback at each scrape."""
        self._tasks.set_function(count)

    def watch_connections(self, count: Callable[[], float]) -> None:
        """Reads the number of open connections from a callback at each scrape."""
        self._connections.set_function(count)

    def connection_refused(self, reason: str) -> None:
        """Counts one connection or head that was refused; `reason` is of `http.connections.Refused`."""
        self._connections_refused.labels(reason).inc()

    def watch_ready(self, is_ready: Callable[[], bool], parts: Mapping[str, Callable[[], bool]]) -> None:
        """Reads readiness, whole and by part, from callbacks at each scrape."""
        self._ready.set_function(lambda: float(is_ready()))
        for part, is_well in parts.items():
            self._ready_part.labels(part).set_function(is_well)

    def loop_lagged(self, seconds: float) -> None:
        """Observes by how much the event loop woke late."""
        self._loop_lag.observe(seconds)

    def gc_paused(self, generation: int, seconds: float) -> None:
        """Observes one collection."""
        self._gc_pause(str(generation)).observe(seconds)

    def settled(self, frozen: int) -> None:
        """States how many objects collections pass over from now on."""
        self._frozen.set(frozen)

    def built(self, version: str, provider: str) -> None:
        """States what runs: Attune's version and the execution provider of the scorer."""
        self._build.clear()
        self._build.labels(version, platform.python_version(), provider).set(1)

    def serves(self, bundle: str, basis: str) -> None:
        """States which bundle serves; the one before is forgotten."""
        self._bundle.clear()
        self._bundle.labels(bundle, basis).set(1)

    def reloaded(self, result: Literal["loaded", "refused"]) -> None:
        """Counts one attempt to load another bundle."""
        self._reloads.labels(result).inc()

    # --- scoring --------------------------------------------------------------------------------------------------

    def batch_ran(
        self, *, items: int, padded_tokens: int, real_tokens: int, inference_s: float, busy_s: float, queue_s: Iterable[float]
    ) -> None:
        """Observes one batch of the scorer.

        Args:
            items: its texts.
            padded_tokens: computed for it.
            real_tokens: asked for.
            inference_s: its time.
            busy_s: time that it adds to that in which any batch ran.
            queue_s: wait of each submission that has texts in it.
        """
        self._batch_items.observe(items)
        self._batch_padded.observe(padded_tokens)
        self._batch_tokens("real").inc(real_tokens)
        self._batch_tokens("padding").inc(max(0, padded_tokens - real_tokens))
        self._inference.observe(inference_s)
        self._busy.inc(busy_s)
        for wait_s in queue_s:
            self._queue_wait.observe(wait_s)

    def text_dropped(self, reason: DropReason, count: int = 1) -> None:
        """Counts texts that got no score: refused at the queue, left by their caller, past their deadline, or failed in the scorer."""
        self._dropped.labels(reason).inc(count)

    def watch_queue(self, items: Callable[[], float], tokens: Callable[[], float]) -> None:
        """Reads the depth of the queue from callbacks at each scrape."""
        self._queue_items.set_function(items)
        self._queue_tokens.set_function(tokens)

    def budget_is(self, tokens: int) -> None:
        """States the calibrated budget of a batch."""
        self._budget.set(tokens)

    # --- decisions and learning -------------------------------------------------------------------------------------

    def personalized(self, outcome: Personalization) -> None:
        """Counts one scored or routed request by what was known of its user."""
        self._scored(outcome).inc()

    def named_nobody(self) -> None:
        """Counts one compatible request that named no user."""
        self._nobody.inc()

    def decided(self, policy: str, member: str) -> None:
        """Counts one member chosen; `policy` is one of sample, best, uniform, forced."""
        self._decisions(policy, member).inc()

    def certified(self, gap: float) -> None:
        """Observes one decision for whose user the portfolio has a certificate; `gap` is 1 less the certified ratio."""
        self._decision_gap.observe(gap)

    def watch_users(self, gap: Callable[[], float], users: Callable[[], float]) -> None:
        """Reads the mean gap and the number of the users routed of late from callbacks at each scrape."""
        self._user_gap.set_function(gap)
        self._recent_users.set_function(users)

    def scored_later(self, result: str) -> None:
        """Counts one decision whose answers were sent unscored; `result` is scored, dropped or failed."""
        self._later(result).inc()

    def compared(self, result: FeedbackResult) -> None:
        """Counts one comparison by what became of it."""
        self._feedback(result).inc()

    def predicted(self, family: str, *, agreed: bool, log_loss_nats: float) -> None:
        """Observes a prediction made before its comparison was learned; ties are not counted, nobody can agree with one."""
        self._agreement(family, "yes" if agreed else "no").inc()
        if math.isfinite(log_loss_nats):  # an overflowing margin must not turn the sum into NaN for good
            self._log_loss(family).observe(log_loss_nats)

    # --- GET /metrics -----------------------------------------------------------------------------------------------

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """Returns the exposition and its content type, in the format that the `Accept` header asks for."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type
