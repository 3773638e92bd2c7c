"""Counters in Prometheus' form, each service's its own."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from labsupport.serving.metrics import Metrics


def test_they_are_rendered_for_prometheus():
    metrics = Metrics()
    metrics.requests.labels("GET /healthz", "200").inc()
    metrics.batch_windows.observe(8)
    metrics.watch("lab_inside", "Requests", lambda: 7)
    found = {each.name: each for each in text_string_to_metric_families(metrics.render().decode())}
    assert found["lab_requests"].samples[0].labels == {"route": "GET /healthz", "status": "200"}
    assert found["lab_inside"].samples[0].value == 7
    assert {each.labels.get("le"): each.value for each in found["lab_batch_windows"].samples}["8.0"] == 1


def test_two_services_count_apart():
    first, second = Metrics(), Metrics()
    first.windows.inc(3)
    assert b"lab_windows_total 3.0" in first.render()
    assert b"lab_windows_total 0.0" in second.render()
