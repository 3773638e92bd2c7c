"""The process itself: how it starts, refuses to start, stops gracefully, is killed, and holds many clients at once."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import openai
import psutil
import pytest
from fresh_process import run_python
from served import HTTP, LONGEST, encode, openai_client, serve, speech, wav, write_small_model

from labsupport import whisper
from labsupport.base.errors import CheckpointError, ServingError
from labsupport.serving.server import address_of, allowed_hosts, bind, running
from labsupport.serving.settings import Settings
from labsupport.serving.spool import PREFIX, Spool
from labsupport.speech import audio

pytestmark = [pytest.mark.weights, pytest.mark.slow]


@pytest.fixture(scope="module")
def small_model(tmp_path_factory):
    return str(write_small_model(tmp_path_factory.mktemp("models") / "small"))


def ask(url: str, content: bytes, retries: int = 0) -> int:
    """The status; 0 where the connection broke."""
    try:
        with openai_client(url, retries=retries) as client:
            client.audio.transcriptions.create(file=("a.wav", content), model="small")
    except openai.APIStatusError as error:
        return error.status_code
    except openai.APIConnectionError:
        return 0
    return 200


def start_asking(pool: ThreadPoolExecutor, url: str, count: int, content: bytes, retries: int = 0) -> list:
    return [pool.submit(ask, url, content, retries) for _ in range(count)]


def wait_until(true) -> None:
    limit = time.monotonic() + LONGEST
    while not true():
        assert time.monotonic() < limit
        time.sleep(0.01)


# --- starting ---------------------------------------------------------------------------------------------------------


def refuse(*options: str) -> str:
    """What the command says when it does not start."""
    command = [sys.executable, "-m", "labsupport", "serve", *options]
    environment = {name: value for name, value in os.environ.items() if name != "LAB_SERVE_TOKEN"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=LONGEST)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr


def test_it_does_not_let_others_in_without_a_token():
    assert "everybody who reaches this machine could use the service" in refuse("--host", "0.0.0.0", "--port", "0")


def test_a_taken_port_a_wrong_address_and_a_missing_model_are_named(tmp_path):
    with bind("127.0.0.1", 0) as taken:
        taken.listen()
        assert "The port cannot be had" in refuse("--port", str(taken.getsockname()[1]))
    assert "missing-model" in refuse("--port", "0", "--model", str(tmp_path / "missing-model"))
    with pytest.raises(ServingError, match="There is no such address"):
        bind("no-such-host.invalid", 0)


def test_others_are_let_in_with_a_token_or_if_told(tmp_path, small_model):
    tokens = tmp_path / "tokens"
    tokens.write_text("# of the desk\nfirst-token-of-the-file\n\nsecond-token-of-the-file\n")
    tokens.chmod(0o600)
    with serve(tmp_path / "a", "--host", "0.0.0.0", "--token-file", str(tokens), model=small_model) as served:
        address = f"http://127.0.0.1:{served.port}/v1/models"
        for token, status in (("second-token-of-the-file", 200), ("first-token-of-the-file", 200), ("none", 401)):
            headers = {"authorization": f"Bearer {token}", "host": "speech.example:80"}
            assert HTTP.get(address, headers=headers).status_code == status
    with serve(tmp_path / "b", "--host", "0.0.0.0", "--insecure", model=small_model) as served:
        assert HTTP.get(f"http://127.0.0.1:{served.port}/v1/models").status_code == 200


def test_it_runs_inside_a_process_too(small_model):
    with running(lambda: whisper.load(small_model, engine="onnx"), Settings(batch=2)) as url:
        assert ask(url, wav(1)) == 200
    assert ask(url, wav(1)) == 0


def test_a_model_that_cannot_be_loaded_is_told_inside_a_process_too(tmp_path):
    with pytest.raises(CheckpointError), running(lambda: whisper.load(str(tmp_path / "none"), engine="onnx")):
        pass


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_an_address_of_ipv6_may_have_brackets(host):
    with contextlib.closing(bind(host, 0)) as bound:
        assert address_of(bound).startswith("http://[::1]:")


LIMITED = """
import resource
from labsupport.serving import server
_, allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (100, allowed))
server.OPEN_FILES = min(allowed, 200) if allowed > 0 else 200
server.allow_connections()
assert resource.getrlimit(resource.RLIMIT_NOFILE) == (server.OPEN_FILES, allowed)
"""


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such limit")
def test_it_takes_as_many_connections_as_the_system_allows():
    run_python(LIMITED)


def test_only_names_of_this_machine_are_taken_on_loopback():
    assert allowed_hosts("127.0.0.1") == {"localhost", "127.0.0.1", "::1"}
    assert allowed_hosts("0.0.0.0") is None
    with pytest.raises(ServingError, match="cannot be had"):
        bind("192.0.2.1", 0)  # an address for examples: no machine has it


# --- stopping ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.soak)])
def test_what_was_accepted_is_answered_before_it_stops(tmp_path, small_model, number):
    with serve(tmp_path, "--batch", "2", model=small_model) as served, ThreadPoolExecutor(6) as pool:
        pending = start_asking(pool, served.url, 6, encode_speech(35))
        wait_until(lambda: len(served.uploads()) == 6)
        served.process.send_signal(number)
        served.wait_for("stopping")
        assert [each.result() for each in pending] == [200] * 6
        assert served.process.wait(LONGEST) == 0
        assert ask(served.url, wav(1)) == 0
    assert list(tmp_path.glob(f"{PREFIX}*")) == []


def test_a_second_signal_ends_it_at_once(tmp_path, small_model):
    with serve(tmp_path, "--batch", "1", model=small_model) as served, ThreadPoolExecutor(8) as pool:
        pending = start_asking(pool, served.url, 8, encode_speech(300))
        wait_until(lambda: len(served.uploads()) == 8)
        served.process.send_signal(signal.SIGTERM)
        served.wait_for("stopping")
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(LONGEST) == 0
        assert any(each.result() != 200 for each in pending)
    assert list(tmp_path.glob(f"{PREFIX}*")) == []


def encode_speech(seconds: int) -> bytes:
    """The same sentence again and again: a voice detector finds it."""
    samples = audio.read(audio.clip("jfk").path)
    return encode(np.tile(samples, -(-seconds // 11))[: seconds * 16_000], form="FLAC")


# --- killed -----------------------------------------------------------------------------------------------------------


def test_killed_and_started_again_it_answers_clients_that_come_back(tmp_path, small_model, chance):
    """kill -9 under load, on the same port: each client gets its answer, and no upload of the dead process is left."""
    with serve(tmp_path, model=small_model) as first, ThreadPoolExecutor(6) as pool:
        port, url = first.port, first.url
        pending = start_asking(pool, url, 6, encode_speech(40), retries=200)
        wait_until(first.uploads)
        time.sleep(chance.random())
        first.process.kill()
        first.process.wait()
        left = list(tmp_path.glob(f"{PREFIX}*"))
        assert len(left) == 1
        with serve(tmp_path, "--port", str(port), model=small_model) as second:
            assert [each.result() for each in pending] == [200] * 6
            assert second.wait_for("listening")["stale_spools"] == 1
            assert not left[0].exists()
            assert second.stop() == 0
    assert list(tmp_path.glob(f"{PREFIX}*")) == []


def test_two_services_leave_each_others_uploads_alone(tmp_path, small_model):
    with contextlib.closing(Spool(1000, tmp_path)) as first, first.open() as upload:
        with serve(tmp_path, model=small_model) as second:
            assert second.wait_for("listening")["stale_spools"] == 0
            assert second.stop() == 0
        assert upload.path.exists()


# --- many -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [40, pytest.param(200, marks=pytest.mark.soak)])
def test_of_many_at_once_each_is_answered_or_told_to_come_back(tmp_path, small_model, count):
    content = speech(0, 3)
    with serve(tmp_path, "--queue", "16", model=small_model) as served, ThreadPoolExecutor(count) as pool:
        together = threading.Barrier(count)

        def ask_together(_: int) -> int:
            together.wait()
            answer = HTTP.post(
                f"{served.url}/v1/audio/transcriptions", files={"file": ("a.wav", content)}, data={"model": "small"},
                timeout=LONGEST,
            )  # fmt: skip
            return answer.status_code

        found = list(pool.map(ask_together, range(count)))
        assert set(found) <= {200, 429}
        assert found.count(200) >= 16
        assert served.uploads() == []
        assert ask(served.url, content) == 200


@pytest.mark.soak
def test_a_storm_of_good_and_bad_clients_leaves_nothing(tmp_path, small_model, chance):
    """Minutes of clients that come back, leave, and send what is no sound: memory and files stay bounded."""
    good, bad = speech(0, 3), random.Random(0).randbytes(50_000)
    with serve(tmp_path, model=small_model) as served, ThreadPoolExecutor(16) as pool:

        def act(number: int) -> int:
            if number % 7 == 0:
                try:
                    HTTP.post(f"{served.url}/v1/audio/transcriptions", files={"file": good}, timeout=0.05)
                except httpx.HTTPError:
                    return 0
            return ask(served.url, bad if number % 3 == 0 else good, retries=50)

        process = psutil.Process(served.process.pid)
        assert set(pool.map(act, range(300))) <= {0, 200, 415, 422}
        before, files = process.memory_info().rss, process.num_fds()
        assert set(pool.map(act, range(1500))) <= {0, 200, 415, 422}
        assert process.memory_info().rss < before * 1.05
        assert process.num_fds() <= files + 4
        assert served.uploads() == []
