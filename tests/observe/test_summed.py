"""Expositions of several processes as one: what is counted is added, what is a state is not."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from attune.service.observe.metrics import Metrics
from attune.service.observe.summed import ADDED_GAUGES, summed


def exposition(route: str, count: int, seconds: float, *, ready: float, memory: float, gap: float) -> str:
    registry = CollectorRegistry()
    Counter("attune_requests", "Requests.", ["route"], registry=registry).labels(route).inc(count)
    Histogram("attune_seconds", "Time.", buckets=(1.0, 2.0), registry=registry).observe(seconds)
    Gauge("attune_ready", "Ready.", registry=registry).set(ready)
    Gauge("process_resident_memory_bytes", "Memory.", registry=registry).set(memory)
    Gauge("attune_gap", "Gap.", registry=registry).set(gap)
    return generate_latest(registry).decode()


def samples(text: bytes) -> dict[tuple[str, str], float]:
    families = text_string_to_metric_families(text.decode())
    return {(sample.name, next(iter(sample.labels.values()), "")): sample.value for family in families for sample in family.samples}


def test_counters_and_histograms_add_states_take_the_greatest_and_memory_adds() -> None:
    one = exposition("/score", 3, 0.5, ready=1.0, memory=100.0, gap=float("nan"))
    two = exposition("/score", 4, 1.5, ready=0.0, memory=50.0, gap=0.25)
    other = exposition("/route", 1, 9.0, ready=1.0, memory=1.0, gap=0.125)
    found = samples(summed([one, two, other]))
    assert found["attune_requests_total", "/score"] == 7.0
    assert found["attune_requests_total", "/route"] == 1.0
    assert (found["attune_seconds_bucket", "1.0"], found["attune_seconds_bucket", "2.0"], found["attune_seconds_bucket", "+Inf"]) == (
        1,
        2,
        3,
    )
    assert (found["attune_seconds_count", ""], found["attune_seconds_sum", ""]) == (3.0, 11.0)
    assert found["attune_ready", ""] == 1.0
    assert found["process_resident_memory_bytes", ""] == 151.0
    assert found["attune_gap", ""] == 0.25


def test_processes_of_one_store_tell_its_memory_once_and_their_connections_together() -> None:
    texts = []
    for used_bytes, connections in ((1000, 3), (1010, 4)):
        metrics = Metrics()
        metrics.store_holds(used_bytes, 4000)
        metrics.watch_connections(lambda connections=connections: connections)
        metrics.member_cost("concise", 0.25)
        texts.append(metrics.render()[0].decode())
    found = samples(summed(texts))
    assert found["attune_store_memory_bytes", "used"] == 1010
    assert found["attune_store_memory_bytes", "limit"] == 4000
    assert found["attune_connections", ""] == 7
    assert found["attune_member_cost_total", "concise"] == 0.5


def test_every_gauge_that_is_added_exists() -> None:
    gauges = {family.name for family in Metrics().registry.collect() if family.type == "gauge"}
    assert {name for name in ADDED_GAUGES if name.startswith("attune_")} <= gauges


def test_one_exposition_stays_as_it_is_and_none_is_empty() -> None:
    one = exposition("/score", 3, 0.5, ready=1.0, memory=100.0, gap=1.0)
    assert samples(summed([one])) == samples(one.encode())
    assert summed([]) == b""
