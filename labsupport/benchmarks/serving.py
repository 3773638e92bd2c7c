"""The service under load: eight clients at once, against the article's shape mended so that it runs; then a crowd.

    ./lab bench serving --model tiny.en --runs 5 --clip jfk

Each service has a process of its own; they are loaded in turns (A B A B) by locust, which needs the tests' packages.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil

from labsupport.base.errors import BenchError, printable
from labsupport.base.records import from_fields
from labsupport.machine import children
from labsupport.results.recording import Recording
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
    """A service that runs, and its process."""

    url: str
    route: str
    fields: dict[str, str]
    pid: int


@dataclass(frozen=True)
class Round:
    """What all clients were answered, and the CPU seconds that the service took for it."""

    answers: list[Answer]
    cpu: float

    @property
    def seconds(self) -> float:
        """From the first request to the last answer."""
        return max(each.ended for each in self.answers) - min(each.began for each in self.answers)


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
        rounds = [{name: load_round(each, sound) for name, each in targets.items()} for _ in range(runs)]
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
    with started(command, lambda line: line.strip() if line.startswith("http") else None) as (url, pid):
        yield Target(url, "/transcribe", {}, pid)


@contextlib.contextmanager
def start_ours(model: str) -> Iterator[Target]:
    """Its queue is as long as by default; a request that finds no place is told to come back."""
    command = children.python_module("labsupport", "serve", "--port", "0", "--model", model)
    with started(command, find_ready) as (url, pid):
        yield Target(url, "/v1/audio/transcriptions", {"model": "whisper-1"}, pid)


def find_ready(log: str) -> str | None:
    """The address in the service's log, once its model is loaded."""
    events = [json.loads(line) for line in log.splitlines() if line.startswith("{") and line.endswith("}")]
    by_name = {event["event"]: event for event in events}
    return by_name["listening"]["url"] if {"listening", "ready"} <= by_name.keys() else None


@contextlib.contextmanager
def started(command: Sequence[str], find_url: Callable[[str], str | None]) -> Iterator[tuple[str, int]]:
    """A service in a process of its own until the end of the block; gives its address, found in what it writes.

    Beside it, the process's number.

    Raises:
        BenchError: it ends, or is not ready in time.
    """
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("w+", encoding="utf-8") as log:
        process = subprocess.Popen(children.guarded(command), stdout=log, stderr=log, env=children.environment())
        try:
            yield wait_for(process, Path(folder) / "log", find_url), process.pid
        finally:
            process.kill()
            process.wait()


def wait_for(process: subprocess.Popen, log: Path, find_url: Callable[[str], str | None]) -> str:
    limit = time.monotonic() + STARTING_SECONDS
    while True:
        text = log.read_text(encoding="utf-8", errors="replace")
        if url := find_url(text):
            return url
        if process.poll() is not None or time.monotonic() > limit:
            raise BenchError("The service does not start.", where=printable(text.strip()[-300:]))
        time.sleep(0.05)


# --- the clients ------------------------------------------------------------------------------------------------------


def load_round(target: Target, sound: Path) -> Round:
    process = psutil.Process(target.pid)
    before = process.cpu_times()
    answers = load(target, sound, CLIENTS, EACH)
    after = process.cpu_times()
    return Round(answers, after.user + after.system - before.user - before.system)


def load(target: Target, sound: Path, clients: int, each: int) -> list[Answer]:
    """So many clients at once, each with so many requests one after the other.

    Raises:
        BenchError: not every request has an end.
    """
    with tempfile.TemporaryDirectory() as folder:
        answers = Path(folder) / "answers.jsonl"
        order = Load(str(sound), target.route, target.fields, clients, each, str(answers))
        users = ["--headless", "--users", str(clients), "--spawn-rate", str(clients), "--host", target.url]
        command = children.python_module(
            "locust", "--locustfile", serving_clients_file(), *users, "--loglevel", "ERROR"
        )
        environment = children.environment(LAB_LOAD=json.dumps(asdict(order)))
        done = subprocess.run(children.guarded(command), env=environment, capture_output=True, text=True, check=False)
        found = read_answers(answers)
    if len(found) != clients * each:
        where = printable(done.stderr.strip()[-300:])
        raise BenchError(f"Of {clients * each} requests {len(found)} came to an end.", where=where)
    return found


def serving_clients_file() -> str:
    return str(Path(__file__).with_name("serving_clients.py"))


def read_answers(path: Path) -> list[Answer]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [from_fields(Answer, json.loads(line)) for line in lines]


# --- what it comes to -------------------------------------------------------------------------------------------------


def compare(rounds: Sequence[dict[str, Round]]) -> Comparison:
    """The rounds' durations, in pairs.

    Raises:
        BenchError: a request was refused, or one service answers with several texts.
    """
    for name in rounds[0]:
        answers = [answer for each in rounds for answer in each[name].answers]
        if odd := {answer.status for answer in answers} - {200}:
            raise BenchError(f"The service {name} refused requests.", where=sorted(odd))
        if len({answer.text for answer in answers}) != 1:
            raise BenchError(f"The service {name} gave the same sound several texts.")
    return Comparison({name: measure(name, [each[name] for each in rounds]) for name in rounds[0]})


def measure(name: str, rounds: Sequence[Round]) -> Measurement:
    walls, cpus = tuple(each.seconds for each in rounds), tuple(each.cpu for each in rounds)
    return Measurement(name, walls, cpus, None, items=len(rounds[0].answers))


def percentiles(answers: Sequence[Answer]) -> dict[int, float]:
    """Seconds within which so many of a hundred were answered: values that were measured, none between two."""
    seconds = [answer.seconds for answer in answers]
    values = np.percentile(seconds, PERCENTILES, method="inverted_cdf")
    return {percent: float(value) for percent, value in zip(PERCENTILES, values, strict=True)}


def record_rounds(recording: Recording, rounds: Sequence[dict[str, Round]]) -> None:
    timed = compare(rounds)
    recording.comparison(f"{CLIENTS} clients, {CLIENTS * EACH} requests", timed)
    for name in rounds[0]:
        answers = [answer for each in rounds for answer in each[name].answers]
        for percent, seconds in percentiles(answers).items():
            recording.value(f"{CLIENTS} clients, p{percent}: {name}", seconds, "s", runs=len(answers))
        rate = timed[name].throughput
        recording.value(f"{CLIENTS} clients, throughput: {name}", rate or 0.0, "requests/s", runs=len(rounds))


def record_crowd(recording: Recording, answers: Sequence[Answer]) -> None:
    """Raises BenchError where one was neither answered nor told to come back."""
    counts = {status: sum(answer.status == status for answer in answers) for status in (200, 429)}
    if sum(counts.values()) != len(answers):
        raise BenchError("Some of the crowd got another answer.", where=sorted({each.status for each in answers}))
    slowest = max(answer.seconds for answer in answers)
    recording.value(f"{len(answers)} clients at once: answered", counts[200], "requests", runs=1)
    recording.value(f"{len(answers)} clients at once: told to come back", counts[429], "requests", runs=1)
    recording.value(f"{len(answers)} clients at once: the slowest answer", slowest, "s", runs=1)
