"""Ray itself: where its session listens, and a corpus on two workers, of which whoever is killed loses nothing."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from pathlib import Path

import corpus_workers
import pandas as pd
import psutil
import pyarrow.parquet as pq
import pytest
from corpus_workers import SETTINGS, CountingWorker, QuickWorker, Silent, write_sounds

from labsupport.base.errors import ScalingError
from labsupport.base.paths import AUDIO, ROOT, cache_dir
from labsupport.scaling import corpus
from labsupport.scaling.corpus import DIED, Pool, transcribe_corpus
from labsupport.scaling.ray_session import check_answer, ray_session
from labsupport.scaling.worker import Settings
from labsupport.speech.audio import clip

pytestmark = [pytest.mark.slow, pytest.mark.weights]  # the model's hash is part of what a row holds for
FILES = 24  # of a command that is killed
LEFT = 8  # seconds after which nothing of a killed command may be left
PLANTED = "planted_where_the_user_stands"


@pytest.fixture(scope="module", autouse=True)
def by_value():
    import ray.cloudpickle

    ray.cloudpickle.register_pickle_by_value(corpus_workers)
    yield
    ray.cloudpickle.unregister_pickle_by_value(corpus_workers)


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory):
    """Ray with two logical CPUs, started in a folder of somebody's modules; gives that folder.

    It takes some 15 s to start. It ends with this file: the environment that its processes inherit is also that of
    whatever test comes next.
    """
    hostile, before = tmp_path_factory.mktemp("hostile"), os.getcwd()
    for name in (PLANTED, "json", "labsupport"):
        (hostile / f"{name}.py").write_text("raise SystemExit('foreign code')")
    os.chdir(hostile)
    try:
        with ray_session(2):
            os.chdir(before)
            yield hostile
    finally:
        os.chdir(before)


def run(source, output, settings=SETTINGS, worker=QuickWorker):
    return transcribe_corpus(source, output, settings, Silent(), pool=Pool(2), worker=worker)


def rows_of(output):
    return {row["path"]: row for row in pq.read_table(output).to_pylist()}


def paths_of(output):
    return Counter(pd.read_parquet(output)["path"])


# --- the session -----------------------------------------------------------------------------------------------------


def find_places(names):
    """In a worker: where it stands, and what it gets for each name that it imports."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.import_module(name).__file__
        except ImportError:
            found[name] = None
    return os.getcwd(), dict(os.environ), found


def test_workers_import_this_checkout_and_nothing_from_where_the_user_stands(two_workers):
    import ray
    import ray.cloudpickle

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # it cannot be imported there
    place, env, found = ray.get(ray.remote(num_cpus=0.1)(find_places).remote(["labsupport", "json", PLANTED]))
    assert Path(found["labsupport"]) == ROOT / "labsupport" / "__init__.py"
    assert found[PLANTED] is None
    assert str(two_workers) not in found["json"]
    assert place != str(two_workers)
    assert env["RAY_USAGE_STATS_ENABLED"] == "0"
    assert env["LAB_CACHE"] == str(cache_dir())


def test_nothing_listens_but_on_the_loopback_address(two_workers):
    addresses = {
        connection.laddr.ip
        for process in psutil.Process().children(recursive=True)
        for connection in listening(process)
    }
    assert addresses <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert addresses


def listening(process):
    try:
        found = process.net_connections(kind="tcp")
    except psutil.Error:  # it has ended
        return []
    return [connection for connection in found if connection.status == psutil.CONN_LISTEN]


def test_a_session_inside_a_session_is_the_same_and_stays(two_workers):
    import ray

    with ray_session(1):
        assert ray.cluster_resources()["CPU"] == 2
    assert ray.is_initialized()


def test_the_port_of_ray_itself_passes(two_workers):
    import ray

    check_answer(ray.get_runtime_context().gcs_address)


# --- nothing lost, nothing doubled -----------------------------------------------------------------------------------


@pytest.mark.parametrize("retries", [0, pytest.param(corpus.RETRIES, marks=pytest.mark.soak)])
def test_workers_that_are_killed_lose_and_double_nothing(two_workers, tmp_path, capsys, monkeypatch, retries):
    """One is killed at its first try of a file; another file kills whoever tries it, in each round."""
    monkeypatch.setattr(corpus, "RETRIES", retries)  # each takes a worker's start: seconds
    source = write_sounds(tmp_path / "in", 10, killer="once", poison="always")
    summary = run(source, tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    assert (source / ".killer.wav.died").exists()
    names = [f"{n:02}.wav" for n in range(10)] + ["killer.wav", "poison.wav"]
    assert paths_of(tmp_path / "out") == dict.fromkeys(names, 1)
    assert (summary.done, summary.failed, summary.waiting) == (12, 1, 0)
    died = rows.pop("poison.wav")
    assert {name: row["text"] for name, row in rows.items()} == {name: (source / name).read_text() for name in rows}
    assert len({row["worker"] for row in rows.values()}) >= 2
    assert died["error_kind"] == DIED
    assert f"in {corpus.ROUNDS} rounds" in died["error"]
    assert capsys.readouterr().out == ""


class Command:
    """A corpus in a process of its own; all that it starts carries a mark."""

    def __init__(self, source: Path, output: Path):
        self.mark = uuid.uuid4().hex
        self.process = subprocess.Popen(
            [sys.executable, corpus_workers.__file__, source, output], start_new_session=True,
            env=os.environ | {"LAB_TEST_MARK": self.mark, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        self.output = output

    def started(self) -> list[psutil.Process]:
        return [process for process in psutil.process_iter() if self.is_ours(process)]

    def is_ours(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get("LAB_TEST_MARK") == self.mark and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False

    def wait_for_parts(self, count: int) -> None:
        end = time.monotonic() + 300
        while len(list(self.output.glob("part-*.parquet"))) < count:
            assert self.process.poll() is None, "it ended by itself"
            assert time.monotonic() < end, "it wrote no part"
            time.sleep(0.05)

    def end(self, number: int) -> tuple[int, list[psutil.Process]]:
        """The exit code, and what is left of it."""
        assert len(self.started()) > 3  # a planted end that finds nothing would prove nothing
        self.process.send_signal(number)
        code = self.process.wait(60)
        end = time.monotonic() + LEFT
        while (left := self.started()) and time.monotonic() < end:
            time.sleep(0.1)
        return code, left


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGKILL, -signal.SIGKILL),
        pytest.param(signal.SIGTERM, 128 + signal.SIGTERM, marks=pytest.mark.soak),
        pytest.param(signal.SIGINT, 128 + signal.SIGINT, marks=pytest.mark.soak),
    ],
    ids=["SIGKILL", "SIGTERM", "SIGINT"],
)
def test_a_killed_command_ends_all_of_ray_and_the_next_one_goes_on(two_workers, tmp_path, number, code):
    source, output = write_sounds(tmp_path / "in", FILES), tmp_path / "out"
    command = Command(source, output)
    command.wait_for_parts(3)
    assert command.end(number) == (code, [])
    written = paths_of(output)
    assert 3 <= len(written) < FILES
    summary = transcribe_corpus(source, output, SETTINGS, Silent(), pool=Pool(1), worker=QuickWorker)
    assert (summary.before, summary.done) == (len(written), FILES - len(written))
    assert paths_of(output) == dict.fromkeys([f"{n:02}.wav" for n in range(FILES)], 1)
    assert not list(output.glob(".*.part"))


def test_gpus_that_nobody_has_are_an_error_and_no_wait(two_workers, tmp_path):
    source = write_sounds(tmp_path / "in", 1)
    with pytest.raises(ScalingError, match="asks for 1e\\+06 GPUs"):
        transcribe_corpus(source, tmp_path / "out", SETTINGS, Silent(), pool=Pool(1, gpus=10**6), worker=QuickWorker)


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """The address of a cluster of this machine alone, with a token of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in {"MODE": "token", "TOKEN": uuid.uuid4().hex}.items():
        monkeypatch.setenv(f"RAY_AUTH_{name}", value)
    log, folder = tmp_path / "cluster.log", tempfile.mkdtemp(prefix="cluster-", dir="/tmp")
    with log.open("w") as file:
        head = subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--include-dashboard=false",
             f"--port={port}", "--num-cpus=2", f"--temp-dir={folder}", "--disable-usage-stats",
             "--object-store-memory=200000000"], stdout=file, stderr=subprocess.STDOUT,
        )  # fmt: skip
    end = time.monotonic() + 120
    try:
        while "will now block" not in log.read_text():
            assert head.poll() is None, log.read_text()
            assert time.monotonic() < end
            time.sleep(0.2)
        # beside `two_workers` it is the loopback address, and Ray then prints none to connect to
        yield f"{re.search(r'Local node IP: (.+)', log.read_text())[1]}:{port}"
    finally:
        for process in [psutil.Process(head.pid), *psutil.Process(head.pid).children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.soak
@pytest.mark.skipif(os.name == "nt", reason="Ray makes no clusters of Windows")
def test_a_cluster_does_it_with_this_checkout_s_code(cluster, tmp_path):
    source = write_sounds(tmp_path / "in", 6, killer="once")
    subprocess.run([sys.executable, corpus_workers.__file__, source, tmp_path / "out", cluster], check=True)
    assert paths_of(tmp_path / "out") == dict.fromkeys([f"{n:02}.wav" for n in range(6)] + ["killer.wav"], 1)


# --- the real worker -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Speech, silence by its absence, and files that cannot be read; a table with one reference."""
    folder = tmp_path_factory.mktemp("mixed")
    shutil.copy(AUDIO / "jfk.flac", folder / "jfk.flac")
    shutil.copy(AUDIO / "jfk.flac", folder / "again ü.flac")
    (folder / "bad.wav").write_bytes(b"no sound")
    (folder / "cut.flac").write_bytes((AUDIO / "jfk.flac").read_bytes()[:9000])
    names = ["jfk.flac", "again ü.flac", "bad.wav", "cut.flac", "missing.wav"]
    lines = [{"path": name} for name in names]
    lines[0]["reference"] = clip("jfk").text
    (folder / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "m.jsonl"


def test_the_texts_are_those_of_lab_transcribe_and_a_bad_file_is_a_row(two_workers, mixed, tmp_path):
    settings, log = Settings("tiny.en", engine="torch"), tmp_path / "loads"

    class Counting(CountingWorker):
        def __init__(self, settings):
            super().__init__(settings, str(log))

    summary = run(mixed, tmp_path / "out", settings, worker=Counting)
    rows = rows_of(tmp_path / "out")
    loads = log.read_text().split()
    assert len(loads) == len(set(loads)) <= 2  # the model once in each worker
    assert (summary.files, summary.done, summary.failed) == (5, 5, 3)
    assert {name: row["error_kind"] for name, row in rows.items() if row["error"]} == {
        "bad.wav": "NoAudio", "cut.flac": "AudioError", "missing.wav": "AudioError"
    }  # fmt: skip
    files = [str(mixed.parent / name) for name in ("jfk.flac", "again ü.flac")]
    plain = subprocess.run(
        [sys.executable, "-m", "labsupport", "transcribe", *files, "--format", "json", "--model", "tiny.en",
         "--engine", "torch"], cwd=ROOT, capture_output=True, check=True,
    )  # fmt: skip
    for document in json.loads(plain.stdout):
        row = rows[Path(document["file"]).name]
        assert row["text"] == document["text"]
        assert [(s["start"], s["end"], s["text"]) for s in row["segments"]] == [
            (s["start"], s["end"], s["text"]) for s in document["segments"]
        ]
        assert row["duration"] == document["duration"]
    assert rows["jfk.flac"]["wer"] == 0
    assert rows["jfk.flac"]["seconds"] > 0
