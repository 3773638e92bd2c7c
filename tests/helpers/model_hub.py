"""A model hub on this machine, and what another process gets from it."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from safetensors.numpy import save

from labsupport.base.paths import ROOT
from labsupport.checkpoints import random_weights
from labsupport.checkpoints.config import Config

SMALL = Config(d_model=16, encoder_layers=1, decoder_layers=2, heads=2, vocab_size=99, audio_positions=30)
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.BaseHTTPRequestHandler):
    """A model's listing, with sizes and hashes, and its files, from any byte on.

    misbehave: (handler, file or "listing", its body) -> whether it has answered already, in its own way.
    """

    models: dict[str, dict[str, bytes]]  # id -> file -> content
    asked: list[str]
    misbehave = staticmethod(lambda handler, what, body: False)

    def do_GET(self):
        self.asked.append(self.path)
        parts = self.path.partition("?")[0].strip("/").split("/")
        if parts[0] == "api":
            self.answer_listing("/".join(parts[2:4]))
        else:
            self.answer_file("/".join(parts[:2]), parts[-1])

    def answer_listing(self, name: str):
        if name not in self.models:
            return self.reply(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        siblings = [describe(file, body) for file, body in self.models[name].items()]
        body = json.dumps({"id": name, "sha": COMMIT, "siblings": siblings}).encode()
        return self.misbehave(self, "listing", body) or self.reply(200, body, {"Content-Type": "application/json"})

    def answer_file(self, name: str, file: str):
        body = self.models[name][file]
        if self.misbehave(self, file, body):
            return
        start = int(self.headers.get("Range", "bytes=0-")[6:-1])
        part = {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"} if start else {}
        self.reply(206 if start else 200, body[start:], part)

    def reply(self, status: int, body: bytes, headers: dict[str, str]):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Tests read `asked` instead."""


def describe(file: str, body: bytes) -> dict:
    """A file in the listing: large ones with their sha256, the others with git's hash."""
    entry = {"rfilename": file, "size": len(body), "blobId": hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()}
    if file.endswith(".safetensors"):
        entry["lfs"] = {"sha256": hashlib.sha256(body).hexdigest(), "size": len(body)}
    return entry


@contextlib.contextmanager
def serve_hub() -> Iterator[http.server.ThreadingHTTPServer]:
    """A hub with one whole model, and one that has only pickled weights."""
    settings = json.dumps({"model_type": "whisper", **SMALL.to_hf()}).encode()
    weights = save(dict(random_weights.random_tensors(SMALL, 0)))
    whole = {"config.json": settings, "model.safetensors": weights, "model.fp32.safetensors": weights}
    handler = type("OwnHub", (Hub,), {"asked": []})
    handler.models = {
        "someone/small": whole | {"pytorch_model.bin": b"pickle", "README.md": b"card"},
        "someone/old": {"config.json": settings, "pytorch_model.bin": b"pickle"},
    }
    handler.models["openai/whisper-small"] = handler.models["someone/small"]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


FIND = """
import json, sys
from labsupport.base.errors import LabError
from labsupport.checkpoints import hub, resolve
hub.HUB_SECONDS = float(sys.argv[1])
answers = {}
for name in sys.argv[2:]:
    try:
        found = resolve.find_checkpoint(name)
        answers[name] = f"{len(list(found.tensors()))} " + " ".join(sorted(p.name for p in found.folder.iterdir()))
    except LabError as error:
        answers[name] = f"{type(error).__name__} {error}"
print(json.dumps(answers))
"""


def find_elsewhere(names: list[str], home: Path, endpoint: str, offline: str = "0", seconds: float = 10) -> dict:
    """Name -> what a process with these settings finds: the number of tensors and the files, or the error."""
    env = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": offline, "NO_PROXY": "127.0.0.1"}
    env["LAB_CACHE"] = str(home / "cache")
    command = [sys.executable, "-c", FIND, str(seconds), *names]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
