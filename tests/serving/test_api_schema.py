"""schemathesis over the service's own OpenAPI: no request gets a 5xx, and each answer is one that is described."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from served import HTTP, serve, speech, wav, write_small_model

from labsupport import whisper
from labsupport.serving.exchange import AudioResponse
from labsupport.serving.server import running

pytestmark = [pytest.mark.weights, pytest.mark.slow]
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Of many languages: it translates."""
    return str(write_small_model(tmp_path_factory.mktemp("models") / "small", like="base"))


@pytest.fixture(scope="module")
def served(tmp_path_factory, model):
    with serve(tmp_path_factory.mktemp("served"), model=model) as served:
        yield served


AUDIO = ("/v1/audio/transcriptions", "/v1/audio/translations")
FORMS = ("json", "text", "srt", "verbose_json", "vtt")
LANGUAGES = ("en", "German", "")
SENTENCE = speech(0, 1)
ROUTES = [("GET", "/v1/models"), ("GET", "/v1/models/{model}"), ("GET", "/healthz"), ("GET", "/readyz"),
          ("GET", "/metrics")]  # fmt: skip


Amend = Callable[[dict, int], None]


def send_all(url: str, method: str, path: str, mode: GenerationMode, count: int, amend: Amend | None = None) -> list:
    """So many different requests of the route -> the form and the status of each. FailureGroup where a check fails.

    amend: changes a request's form, which it is given with the request's number.
    """
    operation = schemathesis.openapi.from_url(f"{url}/openapi.json")[path][method]
    found = []

    @settings(max_examples=count, suppress_health_check=list(HealthCheck), deadline=None, database=None)
    @given(case=operation.as_strategy(generation_mode=mode))
    def send(case):
        if amend:
            amend(case.body, len(found))
        answer = case.call_and_validate(checks=CHECKS, timeout=60)
        found.append((case.body, answer.status_code))

    send()
    return found


def complete(streams: bool, body: dict, number: int) -> None:
    """Makes three of four requests right in what no schema can say, so that they come to the model."""
    body["model"] = "small"
    if number % 4 == 0:
        return
    body["file"], body["response_format"] = wav(0.2) if number % 4 > 1 else SENTENCE, FORMS[number % len(FORMS)]
    if streams:
        body["stream"] = number % 3 == 0
    if "language" in body:
        body["language"] = LANGUAGES[number % len(LANGUAGES)]
    if body["response_format"] in ("srt", "vtt"):
        body.pop("stream", None)
    if body["response_format"] != "verbose_json":
        body.pop("timestamp_granularities[]", None)


@pytest.mark.parametrize("path", AUDIO)
def test_no_form_that_is_allowed_breaks_the_service(served, path):
    """All forms of answers come to be, and streams."""
    streams = path.endswith("transcriptions")
    found = send_all(served.url, "POST", path, GenerationMode.POSITIVE, 40, functools.partial(complete, streams))
    answered = [body for body, status in found if status == 200]
    assert {body.get("response_format", "json") for body in answered} == set(FORMS)
    assert any(line.get("windows") for line in served.requests(path))
    assert any(body.get("stream") for body in answered) == streams
    assert any(status >= 400 for _, status in found)


@pytest.mark.parametrize("path", AUDIO)
def test_no_form_that_is_not_allowed_breaks_the_service(served, path):
    found = send_all(served.url, "POST", path, GenerationMode.NEGATIVE, 50)
    assert {status for _, status in found} <= {400, 404, 415, 422}


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_no_request_without_a_form_breaks_the_service(served, method, path):
    assert send_all(served.url, method, path, GenerationMode.POSITIVE, 20)


def test_a_fault_in_one_form_of_answer_is_found(model, monkeypatch):
    whole = AudioResponse.whole

    def fail(self, form, collected, finished):
        if form.response_format == "vtt":
            raise KeyError("planted")
        return whole(self, form, collected, finished)

    monkeypatch.setattr(AudioResponse, "whole", fail)
    with running(lambda: whisper.load(model, engine="onnx")) as url, pytest.raises(FailureGroup, match="Server error"):
        send_all(url, "POST", AUDIO[1], GenerationMode.POSITIVE, 40, functools.partial(complete, False))


def test_all_routes_are_described_and_alive(served):
    paths = HTTP.get(f"{served.url}/openapi.json").json()["paths"]
    assert {(method.upper(), path) for path, methods in paths.items() for method in methods} == {
        *ROUTES,
        *(("POST", path) for path in AUDIO),
    }
    assert HTTP.get(f"{served.url}/healthz").status_code == 200
    assert not [line for line in served.lines if line["level"] != "info"]
