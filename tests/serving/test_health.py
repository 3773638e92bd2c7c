"""The image's health check, as it is called there."""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading

import pytest

from labsupport.base.paths import ROOT
from labsupport.serving.health import answers


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/good" else 503)
        self.end_headers()

    def log_message(self, *args):
        pass


@pytest.fixture
def url():
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def check(*urls: str) -> int:
    return subprocess.run([sys.executable, "-m", "labsupport.serving.health", *urls], check=False).returncode


def test_one_that_answers_is_enough(url):
    assert check("http://127.0.0.1:1/", f"{url}/good") == 0
    assert check("http://127.0.0.1:1/", f"{url}/bad") == 1
    assert check() == 1


def test_what_is_no_http_is_no_answer(url):
    assert answers(f"{url}/good")
    assert not answers("http://127.0.0.1:1/")
    assert not answers("http://no-such-host.invalid/")


def test_the_image_asks_the_addresses_that_it_serves_on():
    text = (ROOT / "Dockerfile.cuda").read_text(encoding="utf-8")
    command = json.loads(text.partition("HEALTHCHECK")[2].partition("CMD ")[2].splitlines()[0])
    assert command[1:3] == ["-m", "labsupport.serving.health"]
    exposed = text.partition("EXPOSE ")[2].splitlines()[0].split()
    assert [each.split(":")[2].split("/")[0] for each in command[3:]] == exposed
