"""Clients under locust, in a process of their own: how many there are at once, what they send, and when they leave."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from labsupport.benchmarks import serving

pytestmark = pytest.mark.slow
CLIENTS, EACH = 4, 3


@pytest.fixture
def crowd():
    """A server that answers when as many as there are clients wait at once; bodies are what they sent."""
    barrier, bodies = threading.Barrier(CLIENTS, timeout=60), []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            bodies.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
            barrier.wait()
            content = b'{"text": "so"}'
            self.send_response(200)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", bodies
    server.shutdown()
    thread.join()
    server.server_close()


def test_all_clients_come_at_once_and_leave_after_their_requests(crowd, tmp_path):
    url, bodies = crowd
    sound = tmp_path / "clip"
    sound.write_bytes(b"some sound")
    answers = serving.load(serving.Target(url, "/a", {"model": "m"}, 0), sound, CLIENTS, EACH)
    assert len(answers) == len(bodies) == CLIENTS * EACH
    assert {(each.status, each.text) for each in answers} == {(200, "so")}
    assert all(each.seconds > 0 for each in answers)
    for path, body in bodies:
        assert path == "/a"
        assert b'name="file"' in body
        assert b"some sound" in body
        assert b'name="model"\r\n\r\nm' in body
