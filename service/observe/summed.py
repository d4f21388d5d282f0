"""One exposition of several processes' metrics: counters and histograms added, gauges added or the greatest, by what they measure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from prometheus_client import Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

ADDED_GAUGES = (
    "attune_http_requests_in_flight",
    "attune_connections",
    "attune_portfolio_recent_users",
    "process_resident_memory_bytes",
    "process_virtual_memory_bytes",
    "process_open_fds",
    "process_max_fds",
)
"""What several processes have together; every other gauge is a state or a constant, and the greatest is told."""


def summed(texts: Sequence[str], *, added: Sequence[str] = ADDED_GAUGES) -> bytes:
    """Returns one exposition for those of several processes, in Prometheus' text format.

    Args:
        texts: expositions, in the text format.
        added: gauges that are added up.
    """
    families: dict[str, Metric] = {}
    for text in texts:
        for family in text_string_to_metric_families(text):
            known = families.get(family.name)
            if known is None:
                families[family.name] = family
            else:
                known.samples = _together(known.samples, family.samples, add=family.type != "gauge" or family.name in added)
    return generate_latest(_Given(list(families.values())))


def _together(left: Sequence[Sample], right: Sequence[Sample], *, add: bool) -> list[Sample]:
    values: dict[tuple[str, tuple[tuple[str, str], ...]], Sample] = {}
    for sample in (*left, *right):
        key = sample.name, tuple(sorted(sample.labels.items()))
        before = values.get(key)
        if before is not None and not math.isnan(before.value):
            value = before.value if math.isnan(sample.value) else before.value + sample.value if add else max(before.value, sample.value)
            sample = sample._replace(value=value)  # noqa: PLW2901 - the sample with what was known before
        values[key] = sample
    return list(values.values())


class _Given(Collector):
    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Sequence[Metric]:
        return self._families
