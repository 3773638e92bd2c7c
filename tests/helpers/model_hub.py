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
        """Tests read `asked` instead."""


@contextlib.contextmanager
def serve_hub() -> Iterator[http.server.ThreadingHTTPServer]:
    """A hub with one whole model, and one that has only pickled weights."""
    settings = json.dumps({"model_type": "whisper", **SMALL.to_hf()}).encode()
    weights = save(dict(random_weights.random_tensors(SMALL, 0)))
    whole = {"config.json": settings, "model.safetensors": weights, "model.fp32.safetensors": weights}
    handler = type("OwnHub", (Hub,), {"asked": []})
    handler.models = {
        "openai/whisper-small": whole | {"pytorch_model.bin": b"pickle", "README.md": b"card"},
        "someone/old": {"config.json": settings, "pytorch_model.bin": b"pickle"},
    }
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


FIND = """
import json, sys
from labsupport.base.errors import LabError
from labsupport.checkpoints import resolve
resolve.HUB_SECONDS = float(sys.argv[1])
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
    command = [sys.executable, "-c", FIND, str(seconds), *names]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
