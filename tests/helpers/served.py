"""The service as a process of its own, and sounds to send to it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import openai
import soundfile
from small_folder import write

from labsupport.checkpoints.config import Config
from labsupport.checkpoints.random_weights import random_tensors
from labsupport.checkpoints.resolve import find_checkpoint
from labsupport.serving.spool import LOCK, PREFIX
from labsupport.speech import audio

VOCABULARIES = {"tiny.en": 51864, "base": 51865}
LONGEST = 240.0  # seconds that anything may take on a busy machine
# One for all, for it reads the system's certificates, 20 ms of CPU; each request has a connection of its own.
HTTP = httpx.Client(timeout=LONGEST, limits=httpx.Limits(max_connections=None, max_keepalive_connections=0))


def openai_client(url: str, key: str = "none", retries: int = 0) -> openai.OpenAI:
    without_certificates = httpx.Client(verify=False, timeout=LONGEST)
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=retries, http_client=without_certificates)


def write_small_model(folder: Path, like: str = "tiny.en") -> Path:
    """A Whisper of random weights with another's tokenizer: what it says is of no use, but it says it quickly."""
    from safetensors.numpy import save_file

    config = Config(d_model=16, encoder_layers=1, decoder_layers=1, heads=2, vocab_size=VOCABULARIES[like],
                    audio_positions=1500, text_positions=10)  # fmt: skip
    folder.mkdir(parents=True)
    write(folder / "config.json", {"model_type": "whisper", **config.to_hf()})
    source = find_checkpoint(like).folder
    for name in ("tokenizer.json", "generation_config.json"):
        shutil.copy(source / name, folder / name)
    save_file(dict(random_tensors(config, 0)), folder / "model.safetensors")
    return folder


def wav(seconds: float, rate: int = 16_000, form: str = "WAV") -> bytes:
    """Noise that grows and shrinks, as a file."""
    random = np.random.default_rng(0)
    samples = 0.1 * random.standard_normal(round(seconds * rate)) * np.sin(np.arange(round(seconds * rate)) / rate)
    return encode(samples, rate, form)


def encode(samples: np.ndarray, rate: int = 16_000, form: str = "WAV") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=form, subtype="PCM_16")
    return file.getvalue()


def speech(start: float, end: float) -> bytes:
    """A part of jfk's sentence, as a file."""
    samples = audio.read(audio.clip("jfk").path)
    return encode(samples[round(start * 16_000) : round(end * 16_000)])


@dataclass
class Served:
    """A process with its log so far."""

    process: subprocess.Popen
    spool: Path
    lines: list[dict] = field(default_factory=list)
    raw: list[str] = field(default_factory=list)

    def read(self) -> None:
        for line in self.process.stderr:
            self.raw.append(line)
            with contextlib.suppress(ValueError):
                self.lines.append(json.loads(line))

    def wait_for(self, event: str) -> dict:
        """The first line of this event; AssertionError if the process ends, or it does not come."""
        limit = time.monotonic() + LONGEST
        while not (found := [line for line in self.lines if line.get("event") == event]):
            assert self.process.poll() is None, "".join(self.raw)
            assert time.monotonic() < limit, "".join(self.raw)
            time.sleep(0.02)
        return found[0]

    @property
    def url(self) -> str:
        return self.wait_for("listening")["url"]

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def requests(self, route: str = "/v1/audio/transcriptions") -> list[dict]:
        return [line for line in self.lines if line.get("event") == "request" and line["route"] == route]

    def uploads(self) -> list[Path]:
        """What lies in any spool, but for the locks."""
        return [path for path in self.spool.glob(f"{PREFIX}*/*") if path.name != LOCK]

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(LONGEST)


@contextlib.contextmanager
def serve(
    folder: Path, *options: str, model: str = "tiny.en", ready: bool = True, **environment: str
) -> Iterator[Served]:
    """`python -m labsupport serve` on a free port, its spool in `folder`; ended afterwards in any case."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "TMPDIR": str(folder), "OMP_NUM_THREADS": "1", **environment}
    environment = {name: value for name, value in environment.items() if value}
    command = [sys.executable, "-m", "labsupport", "serve", "--port", "0", "--model", model, *options]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    served = Served(process, folder)
    reader = threading.Thread(target=served.read, daemon=True)
    reader.start()
    try:
        served.wait_for("ready")
        yield served
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        reader.join()
        process.stderr.close()
