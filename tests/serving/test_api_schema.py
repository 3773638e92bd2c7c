"""schemathesis over the service's own OpenAPI: no request gets a 5xx, and each answer is one that is described."""

from __future__ import annotations

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from served import serve, wav, write_small_model

pytestmark = [pytest.mark.weights, pytest.mark.slow]
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    model = write_small_model(tmp_path_factory.mktemp("models") / "small")
    with serve(tmp_path_factory.mktemp("served"), model=str(model)) as served:
        yield served


AUDIO = ("/v1/audio/transcriptions", "/v1/audio/translations")
ROUTES = [("POST", path, 50) for path in AUDIO] + [
    ("GET", "/v1/models", 5), ("GET", "/v1/models/{model}", 40), ("GET", "/healthz", 5), ("GET", "/readyz", 5),
    ("GET", "/metrics", 5),
]  # fmt: skip
ALLOWED = [(*route, GenerationMode.POSITIVE) for route in ROUTES]
OTHERS = [("POST", path, 50, GenerationMode.NEGATIVE) for path in AUDIO]  # the other routes take nothing


@pytest.mark.parametrize(("method", "path", "count", "mode"), ALLOWED + OTHERS)
def test_no_request_breaks_the_service(served, method, path, count, mode):
    """Of requests as the description allows them, and of others."""
    operation = schemathesis.openapi.from_url(f"{served.url}/openapi.json")[path][method]
    sent = 0

    @settings(max_examples=count, suppress_health_check=list(HealthCheck), deadline=None, database=None)
    @given(case=operation.as_strategy(generation_mode=mode))
    def send(case):
        nonlocal sent
        sent += 1
        if mode is GenerationMode.POSITIVE and isinstance(case.body, dict):  # past the first checks, to the sound
            case.body["model"] = "small"
            case.body["file"] = (b"", wav(0.2), case.body["file"])[sent % 3]
        case.call_and_validate(checks=CHECKS, timeout=60)

    send()
    assert sent >= 1


def test_all_routes_are_described_and_alive(served):
    paths = httpx.get(f"{served.url}/openapi.json").json()["paths"]
    assert {(method.upper(), path) for path, methods in paths.items() for method in methods} == {
        (method, path) for method, path, _ in ROUTES
    }
    assert httpx.get(f"{served.url}/healthz").status_code == 200
    assert not [line for line in served.lines if line["level"] != "info"]
