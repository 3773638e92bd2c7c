"""Real models and real speech, loaded once for all tests."""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass

import hypothesis
import pytest
from stand_ins import lab  # noqa: F401 (a fixture of two files)

from labsupport.course.testing import backends_of

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may depend on a hub
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # tests start other processes
if shutil.which("nvidia-smi") is None:
    # Without a GPU our Triton kernel is interpreted. Triton decides so at its import, which may be any test's.
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Speed is measured in benchmarks: a busy machine fails no property.
hypothesis.settings.register_profile("lab", deadline=None)
hypothesis.settings.load_profile("lab")

# What nohup and a shell's background job ignore, the processes that tests start would ignore too.
for _number, _handler in (
    (signal.SIGINT, signal.default_int_handler),
    (getattr(signal, "SIGHUP", None), signal.SIG_DFL),
):
    if _number and signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)


def pytest_ignore_collect(collection_path) -> bool | None:
    """A process has one backend: leaves out the files, and the folders with their conftest, of tests for the other."""
    if not (collection_path.is_dir() or collection_path.match("test_*.py")):
        return None
    return os.environ.get("LAB_BACKEND", "torch") not in backends_of(str(collection_path)) or None


# Files that take a minute or more: they come first, so that no process waits for another at the end.
LONGEST = (
    "test_mindspore_model.py", "test_kv_cache_mindspore.py", "test_notebooks.py",
    "test_solutions.py", "test_runner.py", "test_kills.py", "test_transcribe.py", "test_fine_tuning.py",
)  # fmt: skip


SOAK = "it takes minutes; `./lab test --soak` runs it"
KILLS = (3, pytest.param(20, marks=pytest.mark.soak))  # how often a kill test ends what it tests: always, and in soak


def pytest_collection_modifyitems(config, items) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))
    if "soak" not in config.option.markexpr:
        for item in items:
            if item.get_closest_marker("soak"):
                item.add_marker(pytest.mark.skip(reason=SOAK))


def pytest_terminal_summary(terminalreporter) -> None:
    """Counts what was left out for its length; not what another reason skipped."""
    skipped = terminalreporter.stats.get("skipped", ())
    if count := sum(SOAK in str(report.longrepr) for report in skipped):
        terminalreporter.write_line(f"Left out: {count} soak tests, of minutes each; `./lab test --soak` runs them.")


@pytest.fixture
def chance() -> random.Random:
    """Random numbers; the seed is LAB_FUZZ_SEED, else drawn, and shown where the test fails."""
    seed = int(os.environ.get("LAB_FUZZ_SEED") or random.randrange(10**6))
    print(f"LAB_FUZZ_SEED={seed}")
    return random.Random(seed)


@pytest.fixture(params=KILLS, ids="{} kills".format)
def kill_times(request, chance) -> Callable[[float], list[float]]:
    """How long work may take, in seconds -> when to end it: a random time in each equal part, in random order."""

    def draw(seconds: float) -> list[float]:
        parts = chance.sample(range(request.param), request.param)
        return [seconds * (part + chance.random()) / request.param for part in parts]

    return draw


@pytest.fixture(autouse=True)
def own_lab_home(tmp_path_factory, monkeypatch):
    """Results and progress of tests never mix with a learner's."""
    monkeypatch.setenv("LAB_HOME", str(tmp_path_factory.mktemp("lab")))


@dataclass
class Pair:
    """The same weights twice: ours, and transformers' as the independent reference."""

    ours: object
    theirs: object
    processor: object


def load_pair(name: str) -> Pair:
    from transformers import WhisperForConditionalGeneration, WhisperProcessor

    from labsupport import whisper
    from labsupport.checkpoints.resolve import find_checkpoint

    folder = find_checkpoint(name).folder
    theirs = WhisperForConditionalGeneration.from_pretrained(folder).eval()
    return Pair(whisper.load(name, backend="torch"), theirs, WhisperProcessor.from_pretrained(folder))


@pytest.fixture(scope="session")
def tiny() -> Pair:
    return load_pair("tiny.en")


@pytest.fixture(scope="session")
def base() -> Pair:
    return load_pair("base")


@pytest.fixture(params=["tiny.en", "base"])
def pair(request) -> Pair:
    return request.getfixturevalue({"tiny.en": "tiny", "base": "base"}[request.param])


def read_clip(name: str):
    from labsupport.speech import audio

    return audio.read(audio.clip(name).path)


@pytest.fixture(scope="session")
def jfk():
    return read_clip("jfk")


@pytest.fixture(scope="session")
def narration():
    return read_clip("narration")
