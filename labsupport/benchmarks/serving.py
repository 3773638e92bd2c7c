"""The service under load: eight clients at once, against the article's shape mended so that it runs; then a crowd.

    ./lab bench serving --model tiny.en --runs 5 --clip jfk

Each service has a process of its own; they are loaded in turns (A B A B) by locust, which needs the tests' packages.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from labsupport.base.errors import BenchError
from labsupport.base.records import from_fields
from labsupport.base.tables import text_table
from labsupport.benchmarks.recording import Recording
from labsupport.machine import children
from labsupport.results.timing import Comparison, Measurement
from labsupport.speech import audio

CLIENTS, EACH = 8, 3  # at once; requests of each in a round
CROWD = 200  # clients at once
PERCENTILES = (50, 95, 99)
STARTING_SECONDS = 300.0
ARTICLE, OURS = "one after the other", "batched"


@dataclass(frozen=True)
class Load:
    """What the clients do: each sends `sound` to `route` so many times; answers are lines of the file `answers`."""

    sound: str
    route: str
    fields: dict[str, str]
    clients: int
    each: int
    answers: str
    timeout: float = 600.0


@dataclass(frozen=True)
class Answer:
    """One request: seconds on the clients' clock, the HTTP status (0: none came), and the text."""

    began: float
    ended: float
    status: int
    text: str

    @property
    def seconds(self) -> float:
        return self.ended - self.began


@dataclass(frozen=True)
class Target:
    """A service that runs."""

    url: str
    route: str
    fields: dict[str, str]


def run(model: str, runs: int, clip: str) -> None:
    """Records throughput, percentiles and the crowd's answers.

    Raises:
        BenchError: locust is not installed; a service ended, or answered another text.
    """
    require_locust()
    recording, sound = Recording("serving", model, clip), audio.clip(clip).path
    with contextlib.ExitStack() as stack:
        targets = {ARTICLE: stack.enter_context(start_article(model)), OURS: stack.enter_context(start_ours(model))}
        for target in targets.values():
            load(target, sound, clients=1, each=1)  # the warm-up
        rounds = [{name: load(each, sound, CLIENTS, EACH) for name, each in targets.items()} for _ in range(runs)]
        crowd = load(targets[OURS], sound, CROWD, 1)
    record_rounds(recording, rounds)
    record_crowd(recording, crowd)


def require_locust() -> None:
    if importlib.util.find_spec("locust") is None:
        raise BenchError("locust is not installed.", hint="./lab test --quick installs what tests need, locust too.")


# --- the services -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def start_article(model: str) -> Iterator[Target]:
    command = children.python_module("labsupport.benchmarks.serving_article", model)
    with started(command, lambda line: line.strip() if line.startswith("http") else None) as url:
        yield Target(url, "/transcribe", {})


@contextlib.contextmanager
def start_ours(model: str) -> Iterator[Target]:
    command = children.python_module("labsupport", "serve", "--port", "0", "--model", model)
    with started(command, find_event("listening")) as url, contextlib.closing(Readiness(url)) as ready:
        ready.wait()
        yield Target(url, "/v1/audio/transcriptions", {"model": "whisper-1"})
