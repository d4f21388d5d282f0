"""Metrics: what is exposed parses, keeps to the naming rules, and says what happened."""

from __future__ import annotations

import math
import re

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families

from attune.service.observe.metrics import Metrics


def exposition(metrics: Metrics) -> str:
    return metrics.render()[0].decode()


def sample(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


@pytest.fixture
def metrics() -> Metrics:
    """Returns metrics on which everything has happened once."""
    metrics = Metrics()
    metrics.answered("/score", "POST", 200, 0.02)
    metrics.refused("overloaded")
    metrics.took({"tokenize": 0.001, "inference": 0.01})
    metrics.watch_in_flight(lambda: 3)
    metrics.watch_ready(lambda: True, {"scorer": lambda: True})
    metrics.built("0.1.0", "CPUExecutionProvider")
    metrics.serves("bundle-demo-0123456789ab", "basis-1")
    metrics.reloaded("loaded")
    metrics.batch_ran(items=3, padded_tokens=96, real_tokens=80, inference_s=0.01, busy_s=0.004, queue_s=(0.001, 0.002, 0.003))
    metrics.text_dropped("expired", 2)
    metrics.watch_queue(lambda: 7, lambda: 210)
    metrics.budget_is(512)
    metrics.personalized("prior")
    metrics.decided("sample", "concise")
    metrics.fell_back("concise")
    metrics.compared("applied")
    metrics.predicted("vrf", agreed=True, log_loss_nats=0.3)
    metrics.store_ran("add_comparison", 0.0004, ok=True)
    metrics.member_ran("concise", "ok", 1.5, 0.2, 20, 64)
    metrics.breaker_moved("concise", is_open=True)
    return metrics


def test_the_text_format_parses_and_every_family_has_a_help(metrics):
    families = list(text_string_to_metric_families(exposition(metrics)))
    assert len([family for family in families if family.name.startswith("attune_")]) >= 30
    assert [family.name for family in families if not family.documentation] == []


def test_openmetrics_is_given_to_whoever_asks_for_it(metrics):
    body, content_type = metrics.render("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert list(openmetrics_families(body.decode()))
    assert metrics.render()[1].startswith("text/plain")


def test_names_carry_the_prefix_and_base_units(metrics):
    ours = [family for family in metrics.registry.collect() if not re.match(r"process_|python_", family.name)]
    for family in ours:
        assert family.name.startswith("attune_")
        assert not re.search(r"_(ms|milliseconds|minutes|kb|mb|percent)(_|$)", family.name)
        assert family.type not in {"histogram", "summary"} or re.search(r"_(seconds|tokens|texts|nats|ratio)$", family.name), family.name


def test_no_label_could_hold_a_person_a_path_or_an_id(metrics):
    allowed = {
        "route", "method", "status", "code", "stage", "version", "python", "provider", "bundle", "basis", "result", "kind", "reason",
        "outcome", "policy", "member", "family", "agreed", "operation", "le", "part", "generation",
    }  # fmt: skip
    used = {
        label
        for family in metrics.registry.collect()
        if family.name.startswith("attune_")
        for row in family.samples
        for label in row.labels
    }
    assert used <= allowed


def test_a_request_is_counted_by_template_method_and_status(metrics):
    metrics.answered("/users/{user}", "GET", 404, 0.001)
    assert sample(metrics, "attune_http_requests_total", route="/users/{user}", method="GET", status="404") == 1
    assert sample(metrics, "attune_http_request_duration_seconds_count", route="/users/{user}") == 1


def test_paths_and_methods_that_a_client_makes_up_share_one_series(metrics):
    metrics.answered(None, "BREW", 404, 0.001)
    metrics.answered(None, "WHEN", 404, 0.001)
    assert sample(metrics, "attune_http_requests_total", route="unmatched", method="other", status="404") == 2


def test_padding_is_counted_apart_from_real_tokens(metrics):
    assert sample(metrics, "attune_scorer_tokens_total", kind="real") == 80
    assert sample(metrics, "attune_scorer_tokens_total", kind="padding") == 16
    assert sample(metrics, "attune_scorer_busy_seconds_total") == 0.004
    assert sample(metrics, "attune_queue_wait_seconds_count") == 3


def test_gauges_of_others_are_read_when_prometheus_asks():
    metrics, depth = Metrics(), [0]
    metrics.watch_queue(lambda: depth[0], lambda: depth[0] * 10)
    depth[0] = 5
    assert sample(metrics, "attune_queue_texts") == 5
    assert sample(metrics, "attune_queue_tokens") == 50


def test_a_reloaded_bundle_replaces_the_one_before(metrics):
    metrics.serves("bundle-demo-ba9876543210", "basis-2")
    assert sample(metrics, "attune_bundle_info", bundle="bundle-demo-ba9876543210", basis="basis-2") == 1
    assert sample(metrics, "attune_bundle_info", bundle="bundle-demo-0123456789ab", basis="basis-1") is None


def test_one_overflowing_prediction_does_not_spoil_the_log_loss_for_good(metrics):
    metrics.predicted("vrf", agreed=False, log_loss_nats=math.inf)
    metrics.predicted("vrf", agreed=False, log_loss_nats=math.nan)
    assert sample(metrics, "attune_prequential_log_loss_nats_sum", family="vrf") == pytest.approx(0.3)
    assert sample(metrics, "attune_prequential_comparisons_total", family="vrf", agreed="no") == 2


def test_only_a_failed_operation_counts_as_an_error(metrics):
    assert sample(metrics, "attune_redis_errors_total", operation="add_comparison") == 0
    metrics.store_ran("add_comparison", 1.0, ok=False)
    assert sample(metrics, "attune_redis_errors_total", operation="add_comparison") == 1
    assert sample(metrics, "attune_redis_operation_duration_seconds_count", operation="add_comparison") == 2


def test_a_member_that_gave_no_token_has_no_time_to_first_token(metrics):
    metrics.member_ran("bold", "timeout", 30.0, None, 0, 0)
    assert sample(metrics, "attune_member_requests_total", member="bold", result="timeout") == 1
    assert sample(metrics, "attune_member_first_token_seconds_count", member="bold") is None


def test_two_services_in_one_process_count_apart():
    first, second = Metrics(), Metrics()
    first.refused("overloaded")
    assert sample(second, "attune_errors_total", code="overloaded") == 0


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("attune_bundle_reloads_total", {"result": "refused"}),
        ("attune_errors_total", {"code": "overloaded"}),
        ("attune_errors_total", {"code": "internal"}),
        ("attune_feedback_total", {"result": "failed"}),
        ("attune_feedback_total", {"result": "unavailable"}),
        ("attune_personalizations_total", {"outcome": "unavailable"}),
        ("attune_texts_dropped_total", {"reason": "expired"}),
    ],
)
def test_what_has_not_happened_yet_is_a_zero_so_that_its_first_time_is_an_increase(name, labels):
    assert sample(Metrics(), name, **labels) == 0


def test_members_that_were_not_asked_yet_have_requests_of_zero():
    metrics = Metrics()
    metrics.has_members(["bold"])
    assert sample(metrics, "attune_member_requests_total", member="bold", result="ok") == 0
