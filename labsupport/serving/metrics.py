"""What the service counts, in Prometheus' form: never what was said, and no label that a client can make up."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
WINDOWS = (1, 2, 3, 4, 6, 8, 12, 16, 32)


class Metrics:
    """One service's counters, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = self.count("lab_requests", "Answered requests", "route", "status")
        self.request_seconds = Histogram(
            "lab_request_seconds", "From head to answer", ["route"], buckets=SECONDS, registry=self.registry
        )
        self.left = self.count("lab_clients_left", "Requests whose client left before the answer")
        self.audio_seconds = self.count("lab_audio_seconds", "Seconds of sound that were transcribed")
        self.upload_bytes = self.count("lab_upload_bytes", "Bytes of uploads")
        self.windows = self.count("lab_windows", "Windows of 30 s that were decoded")
        self.batch_windows = Histogram(
            "lab_batch_windows", "Windows of a batch", buckets=WINDOWS, registry=self.registry
        )
        self.model_seconds = self.count("lab_model_seconds", "Seconds that the model computed")

    def count(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def watch(self, name: str, text: str, read: Callable[[], float]) -> None:
        """A gauge that is read when the metrics are."""
        Gauge(name, text, registry=self.registry).set_function(read)

    def render(self) -> bytes:
        return generate_latest(self.registry)
