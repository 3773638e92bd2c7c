"""The gate around a small application: who comes in, what is counted and logged, and answers that arrive."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from labsupport.base.errors import AudioError, LabError
from labsupport.serving.auth import Tokens
from labsupport.serving.gate import Gate, Passage, answer_http_error, answer_lab_error, is_protected
from labsupport.serving.logs import LOG
from labsupport.serving.problems import ClientGone
from labsupport.serving.service import Service
from labsupport.serving.settings import LOOPBACK_NAMES

TOKEN = "a-token-of-some-length"


async def say(request):
    kind = request.path_params["kind"]
    if kind == "error":
        raise KeyError("secret")
    if kind == "audio":
        raise AudioError("Cut.")
    if kind == "gone":
        raise ClientGone
    return PlainTextResponse("yes")


@pytest.fixture
def service(tmp_path):
    service = Service(load=lambda: None, tokens=Tokens([TOKEN]), hosts=LOOPBACK_NAMES, spool_parent=tmp_path)
    yield service
    service.stop()


@pytest.fixture
def client(service):
    app = Starlette(routes=[Route("/v1/{kind}", say), Route("/open/{kind}", say)])
    app.add_middleware(Gate, service=service)
    app.add_exception_handler(LabError, answer_lab_error)
    app.add_exception_handler(HTTPException, answer_http_error)
    return TestClient(app, base_url="http://127.0.0.1", headers={"authorization": f"Bearer {TOKEN}"})


@pytest.fixture
def lines(monkeypatch):
    found = []
    handler = logging.Handler()
    handler.emit = lambda record: found.append((record.msg, getattr(record, "fields", {})))
    LOG.addHandler(handler)
    LOG.setLevel(logging.INFO)
    yield found
    LOG.removeHandler(handler)


def test_a_token_opens_what_is_protected(client):
    assert client.get("/v1/yes").text == "yes"
    assert client.get("/v1/yes", headers={"authorization": "Bearer other"}).status_code == 401
    assert client.get("/open/yes", headers={"authorization": ""}).text == "yes"
    protected = ["/v1/models", "/v1/audio/transcriptions", "/metrics"]
    assert [path for path in [*protected, "/", "/healthz", "/readyz", "/docs"] if is_protected(path)] == protected


@pytest.mark.parametrize("headers", [{"host": "evil.example"}, {"origin": "https://evil.example"}])
def test_a_foreign_page_is_turned_away_even_with_a_token(client, headers):
    answer = client.get("/v1/yes", headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "foreign_origin")


@pytest.mark.parametrize(("kind", "status"), [("error", 500), ("audio", 422)])
def test_an_error_is_answered_in_openais_form(client, kind, status):
    answer = client.get(f"/v1/{kind}")
    assert answer.status_code == status
    assert "secret" not in answer.text
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_each_request_is_logged_and_counted_by_its_route(client, service, lines):
    client.get("/open/yes?token=secret")
    client.get("/nowhere/secret")
    client.request("SECRET", "/open/yes")
    assert [fields["status"] for event, fields in lines if event == "request"] == [200, 404, 405]
    assert "secret" not in json.dumps(lines).lower()
    text = service.metrics.render().decode()
    assert "secret" not in text.lower()
    assert 'status="404"' in text


def test_every_answer_has_a_number_of_its_own(client):
    numbers = {client.get("/open/yes", headers={"x-request-id": "mine"}).headers["x-request-id"] for _ in range(3)}
    assert len(numbers) == 3
    assert "mine" not in numbers


def send_through(body: list[dict], waits: bool = False, linger: float = 5.0) -> list[dict]:
    """What an answer's messages become on their way out, while these of the body still come."""
    sent = []

    async def receive():
        if not body:
            await asyncio.sleep(60)
        return body.pop(0)

    async def send(message):
        sent.append(message)

    async def run():
        passage = Passage(receive, send, linger, waits)
        await passage.send({"type": "http.response.start", "status": 413, "headers": []})
        await passage.send({"type": "http.response.body", "body": b"no"})

    asyncio.run(run())
    return sent


def test_an_early_answer_is_sent_and_then_the_rest_of_the_body_is_taken():
    body = [{"type": "http.request", "body": b"x", "more_body": True}] * 3 + [{"type": "http.request", "body": b""}]
    sent = send_through(body)
    assert body == []
    assert [(each.get("body"), each.get("more_body")) for each in sent[1:]] == [(b"no", True), (b"", None)]


def test_a_client_that_waits_or_is_slow_does_not_hold_the_answer_up():
    assert len(send_through([], waits=True)) == 2
    assert len(send_through([{"type": "http.request", "body": b"x", "more_body": True}], linger=0.05)) == 3
    assert len(send_through([{"type": "http.disconnect"}])) == 3
