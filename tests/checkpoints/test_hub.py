"""A model hub on this machine, and hubs that are not there: what is asked for, and how failure reads."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from safetensors.numpy import save

from labsupport.base.paths import ROOT
from labsupport.checkpoints import random_weights
from labsupport.checkpoints.config import Config

SMALL = Config(d_model=16, encoder_layers=1, decoder_layers=1, heads=2, vocab_size=99, audio_positions=30)
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.BaseHTTPRequestHandler):
    """What huggingface_hub asks for: a model's listing (since version 1 also as a tree), head and body of a file."""

    models: dict[str, dict[str, bytes]]  # id -> file -> content
    asked: list[str]

    def do_GET(self):
        self.asked.append(self.path)
        parts = self.path.strip("/").split("/")
        if parts[0] == "api":
            self.answer_listing("/".join(parts[2:4]), tree="tree" in parts)
        else:
            self.answer_file("/".join(parts[:2]), parts[-1])

    do_HEAD = do_GET

    def answer_listing(self, name: str, tree: bool):
        if name not in self.models:
            return self.reply(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        sizes = {file: len(body) for file, body in self.models[name].items()}
        siblings = [{"rfilename": file} for file in sizes]
        files = [{"type": "file", "path": file, "size": size, "oid": COMMIT} for file, size in sizes.items()]
        listing = files if tree else {"id": name, "sha": COMMIT, "siblings": siblings}
        return self.reply(200, json.dumps(listing).encode(), {})

    def answer_file(self, name: str, file: str):
        body = self.models[name][file]
        etag = hashlib.sha256(body).hexdigest()
        self.reply(200, body, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})

    def reply(self, status: int, body: bytes, headers: dict[str, str]):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_):
        """The test reads `asked` instead."""


@pytest.fixture
def hub():
    """A hub with one sound model, and one that has only pickle."""
    settings = json.dumps({"model_type": "whisper", **SMALL.to_hf()}).encode()
    weights = save(dict(random_weights.random_tensors(SMALL, 0)))
    sound = {"config.json": settings, "model.safetensors": weights, "model.fp32.safetensors": weights}
    handler = type("OwnHub", (Hub,), {"asked": []})
    handler.models = {
        "openai/whisper-small": sound | {"pytorch_model.bin": b"pickle", "README.md": b"card"},
        "someone/old": {"config.json": settings, "pytorch_model.bin": b"pickle"},
    }
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def resolve_elsewhere(name: str, home: Path, endpoint: str, offline: str = "0", seconds: float = 10) -> tuple[str, str]:
    """What a process with these settings gets: the class of the answer, and its text."""
    code = f"""
from labsupport.base import errors
from labsupport.checkpoints.resolve import HUB_SECONDS
from labsupport.checkpoints.resolve import find_checkpoint
HUB_SECONDS = {seconds}
try:
    found = find_checkpoint({name!r})
    print(type(found).__name__, len(list(found.tensors())), *sorted(p.name for p in found.folder.iterdir()))
except errors.LabError as error:
    print(type(error).__name__, error)
"""
    env = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": offline, "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    kind, _, text = done.stdout.partition(" ")
    return kind, text


def find_closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def test_size_comes_from_the_mirror_as_safetensors_and_stays_without_it(hub, tmp_path):
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    expected = ("Checkpoint", f"{len(dict(random_weights.tensor_shapes(SMALL)))} config.json model.safetensors\n")
    assert resolve_elsewhere("small", tmp_path, endpoint) == expected
    asked = hub.RequestHandlerClass.asked
    assert any(path.endswith("model.safetensors") for path in asked)
    assert not [path for path in asked if path.endswith((".bin", ".md", ".fp32.safetensors"))]
    gone = f"http://127.0.0.1:{find_closed_port()}"
    assert resolve_elsewhere("openai/whisper-small", tmp_path, gone) == expected
    assert resolve_elsewhere("openai/whisper-small", tmp_path, endpoint, offline="1") == expected


def test_pickle_on_the_hub_is_refused_before_any_file_is_fetched(hub, tmp_path):
    kind, text = resolve_elsewhere("someone/old", tmp_path, f"http://127.0.0.1:{hub.server_port}")
    assert kind == "CheckpointError"
    assert "pickled" in text
    assert all(path.startswith("/api/") for path in hub.RequestHandlerClass.asked)


def test_model_that_the_hub_does_not_have_is_unknown(hub, tmp_path):
    kind, text = resolve_elsewhere("someone/none", tmp_path, f"http://127.0.0.1:{hub.server_port}")
    assert kind == "CheckpointError"
    assert "someone/none" in text


def test_closed_hub_fails_at_once_and_says_what_was_tried_and_what_works(tmp_path):
    endpoint = f"http://127.0.0.1:{find_closed_port()}"
    start = time.monotonic()
    kind, text = resolve_elsewhere("openai/whisper-large-v3", tmp_path, endpoint)
    assert kind == "CheckpointError"
    for part in (endpoint, "openai/whisper-large-v3", "tiny.en", "local folder", "HF_ENDPOINT", "shape(size)"):
        assert part in text
    assert time.monotonic() - start < 20  # starting Python is most of it


def test_silent_hub_is_given_up(tmp_path):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        start = time.monotonic()
        kind, _ = resolve_elsewhere("small", tmp_path, f"http://127.0.0.1:{silent.getsockname()[1]}", seconds=0.5)
    assert kind == "CheckpointError"
    assert time.monotonic() - start < 20


def test_offline_mode_is_named(tmp_path):
    kind, text = resolve_elsewhere("openai/whisper-large-v3", tmp_path, "http://127.0.0.1:9", offline="1")
    assert kind == "CheckpointError"
    assert "HF_HUB_OFFLINE" in text
