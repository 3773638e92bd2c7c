"""Raw bytes on the wire: heads that are too large, no HTTP, or come twice; each gets an answer or an end."""

from __future__ import annotations

import json
import socket

import pytest
from fake_transcriber import FakeTranscriber

from labsupport.serving.server import running
from labsupport.serving.settings import Settings

HOST = b"Host: 127.0.0.1\r\nConnection: close\r\n"


class Labelled(FakeTranscriber):
    """Enough of a transcriber for a service that is asked for no text."""

    label = "fake"

    def __init__(self):
        super().__init__()
        self.model.backend = "none"


@pytest.fixture(scope="module")
def address():
    import dataclasses

    @dataclasses.dataclass
    class Fake(Labelled):
        model: object = None

        def __post_init__(self):
            Labelled.__init__(self)

    with running(Fake, Settings(header_seconds=1.0, idle_seconds=1.0, linger_seconds=1.0)) as url:
        yield ("127.0.0.1", int(url.rpartition(":")[2]))


def exchange(address, data: bytes) -> bytes:
    """All that comes back until the service closes."""
    found = b""
    with socket.create_connection(address, timeout=60) as client:
        client.sendall(data)
        while part := client.recv(65_536):
            found += part
    return found


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 40_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + HOST + b"X: a\r\n" * 10_000 + b"\r\n", 431),
        (b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 431),
        (b"\x16\x03\x01\x02\x00\x01" + bytes(100) + b"\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"Bad header\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: x\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip\r\n\r\n", 501),
        (b"GET / HTTP/1.1\r\n" + HOST, 408),
        (b"", 408),
    ],
)
def test_a_bad_head_gets_an_answer_in_our_form(address, data, status):
    answer = exchange(address, data)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode()), answer
    assert json.loads(body)["error"]["code"] == "invalid_http"


@pytest.mark.parametrize(("path", "status"), [("/healthz", 200), ("/", 200), ("/none", 404)])
def test_head_gets_the_head_of_get(address, path, status):
    """As of monitors and proxies, which RFC 9110 lets rely on it."""
    answers = [
        exchange(address, f"{method} {path} HTTP/1.1\r\n".encode() + HOST + b"\r\n") for method in ("GET", "HEAD")
    ]
    (head, _, body), (only_head, _, nothing) = (answer.partition(b"\r\n\r\n") for answer in answers)
    assert only_head.startswith(f"HTTP/1.1 {status} ".encode())
    assert f"content-length: {len(body)}".encode() in only_head
    assert [line.split(b":")[0] for line in only_head.split(b"\r\n")] == [
        line.split(b":")[0] for line in head.split(b"\r\n")
    ]
    assert (nothing, bool(body)) == (b"", True)


def test_a_second_request_on_a_connection_has_its_own_time(address):
    whole = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with socket.create_connection(address, timeout=60) as client:
        for _ in range(2):
            client.sendall(whole)
            answer = b""
            while not answer.endswith(b"}"):
                answer += client.recv(65_536)
            assert answer.startswith(b"HTTP/1.1 200 ")
        client.sendall(whole[:20])
        assert client.recv(65_536).startswith(b"HTTP/1.1 408 ")


def test_a_large_head_in_pieces_is_refused_before_it_ends(address):
    with socket.create_connection(address, timeout=60) as client:
        client.sendall(b"GET / HTTP/1.1\r\n")
        for _ in range(40):
            client.sendall(b"X: " + b"a" * 1000 + b"\r\n")
        assert client.recv(65_536).startswith(b"HTTP/1.1 431 ")


def test_a_broken_body_ends_the_connection(address):
    head = b"POST /v1/audio/transcriptions HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n"
    answer = exchange(address, head + b"Content-Type: multipart/form-data; boundary=b\r\n\r\nzz\r\nno chunk")
    assert answer.startswith(b"HTTP/1.1 400 ")


def test_an_early_answer_arrives_before_the_body_has(address):
    """A client that waits for leave to send its body is told no, and sends none."""
    head = b"POST /v1/audio/transcriptions HTTP/1.1\r\n" + HOST + b"Content-Length: 999999999999\r\n"
    answer = exchange(address, head + b"Content-Type: multipart/form-data; boundary=b\r\nExpect: 100-continue\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"100 Continue" not in answer
