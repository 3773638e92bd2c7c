"""One request against the real process: bad input of every kind, a full queue, clients that are slow or leave."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
import json
import socket
import struct
import time
import wave
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
from served import HTTP, encode, openai_client, serve, wav, write_small_model

from labsupport import whisper
from labsupport.serving.answers import Collected
from labsupport.serving.exchange import AudioResponse, Sender, attended
from labsupport.serving.jobs import Ask, Finished, Job, Piece
from labsupport.serving.problems import ClientGone
from labsupport.serving.schemas import TranscriptionForm
from labsupport.serving.server import running
from labsupport.serving.settings import Settings
from labsupport.serving.watching import WatchedModel
from labsupport.speech import audio

pytestmark = [pytest.mark.weights, pytest.mark.slow]
ROUTE = "/v1/audio/transcriptions"
MEGABYTE = 2**20


@pytest.fixture(scope="module")
def small_model(tmp_path_factory):
    return write_small_model(tmp_path_factory.mktemp("models") / "small")


@pytest.fixture(scope="module")
def served(tmp_path_factory, small_model):
    options = ("--max-megabytes", "20", "--max-minutes", "15", "--batch", "2", "--queue", "2")
    with serve(tmp_path_factory.mktemp("served"), *options, model=str(small_model)) as served:
        yield served


@pytest.fixture(autouse=True)
def nothing_is_left(served):
    """After each test the service lives, and no upload lies in the spool."""
    yield
    wait_until(lambda: gauge(served, "lab_requests_inside") == 0)
    assert HTTP.get(f"{served.url}/healthz").status_code == 200
    assert served.uploads() == []


def wait_until(true) -> None:
    limit = time.monotonic() + 120
    while not true():
        assert time.monotonic() < limit
        time.sleep(0.05)


def gauge(served, name: str) -> float:
    lines = HTTP.get(f"{served.url}/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


def post(served, content: bytes | None, **fields) -> httpx.Response:
    files = {} if content is None else {"file": ("a.wav", content)}
    return HTTP.post(served.url + ROUTE, files=files, data={"model": "small", **fields})


@functools.cache
def long_speech() -> bytes:
    """Six minutes, in which a voice detector finds more than 12 windows."""
    samples = audio.read(audio.clip("narration").path)
    return encode(np.tile(samples, 4), form="FLAC")


def error_of(answer: httpx.Response) -> tuple[int, str, str | None]:
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return answer.status_code, error["code"], error["param"]


# --- the sound --------------------------------------------------------------------------------------------------------


def claim(hours: float) -> bytes:
    """A FLAC of this length, all of it silence: small, and true."""
    return encode(np.zeros(round(hours * 3600 * 8000), np.float32), 8000, "FLAC")


def lie(hours: float) -> bytes:
    """A wav whose header claims so many hours, and that holds none."""
    size = round(hours * 3600 * 32_000)
    return b"RIFF" + struct.pack("<I", size + 36) + wav(0.5)[8:40] + struct.pack("<I", size) + bytes(1000)


def empty_wav() -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setparams((1, 2, 16_000, 0, "NONE", ""))
    return file.getvalue()


def video_without_sound() -> bytes:
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 32
        for packet in stream.encode(av.VideoFrame(32, 32, "yuv420p")):
            container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"", 422, "invalid_audio"),
        (b"no sound at all " * 100, 415, "unsupported_audio"),
        (bytes(5000), 415, "unsupported_audio"),
        (b"%PDF-1.7\n" + bytes(range(256)) * 20, 415, "unsupported_audio"),
        (b"#EXTM3U\nhttp://127.0.0.1/secret\n", 415, "unsupported_audio"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", 415, "unsupported_audio"),
        (video_without_sound(), 415, "unsupported_audio"),
        (wav(5, form="FLAC")[:-4000], 422, "invalid_audio"),
        (wav(5, form="FLAC")[:60], 422, "invalid_audio"),
        (wav(1)[:44], 422, "invalid_audio"),
        (empty_wav(), 422, "invalid_audio"),
        (lie(3), 422, "invalid_audio"),
        (claim(3), 413, "audio_too_large"),
    ],
    ids=["empty", "text", "zeros", "pdf", "playlist", "concat", "video", "cut", "cut head", "cut wav", "0 s", "lie",
         "3 hours"],
)  # fmt: skip
@pytest.mark.parametrize("stream", ["false", "true"])
def test_what_is_no_good_sound_is_refused(served, content, status, code, stream):
    assert error_of(post(served, content, stream=stream)) == (status, code, "file")


def test_what_is_too_large_is_refused_with_and_without_a_stated_length(served):
    body = whole_form(bytes(21 * MEGABYTE), model="small")
    kind = {"content-type": "multipart/form-data; boundary=b"}
    for content in (body, iter([body[:MEGABYTE], body[MEGABYTE:]])):  # the second is sent in chunks
        answer = HTTP.post(served.url + ROUTE, content=content, headers=kind)
        assert error_of(answer) == (413, "upload_too_large", "file")


def test_the_smallest_sound_and_the_longest_are_taken(served):
    for seconds in (1 / 16_000, 0.01, 65):
        assert post(served, wav(seconds)).status_code == 200


def test_silence_has_no_text(served):
    content = encode(np.zeros(16_000 * 3, np.float32))
    answer = post(served, content, response_format="verbose_json").json()
    assert (answer["text"], answer["segments"], answer["duration"]) == ("", [], 3.0)
    assert post(served, content, response_format="srt").text == ""


# --- the form ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "fields", "expected"),
    [
        (None, {}, (415, "unsupported_media_type", None)),
        (b"x", {"model": ""}, (422, "missing_parameter", "model")),
        (b"x", {"sound": "x"}, (422, "unknown_parameter", "sound")),
        (b"x", {"prompt": "x" * 70_000}, (413, "field_too_large", "prompt")),
        (b"x", {"prompt": "x" * 20_000}, (422, "invalid_value", "prompt")),
        (b"x", {"temperature": "nan"}, (422, "invalid_value", "temperature")),
        (b"x", {"temperature": ["0", "1"]}, (422, "repeated_parameter", "temperature")),
        (b"x", {"stream": "perhaps"}, (422, "invalid_value", "stream")),
        (b"x", {str(number): "x" for number in range(70)}, (422, "too_many_fields", None)),
    ],
)
def test_a_wrong_field_is_named(served, content, fields, expected):
    assert error_of(post(served, content, **fields)) == expected


@pytest.mark.parametrize("name", ["sound", "audio", "File", ""])
def test_a_file_in_another_field_is_refused(served, name):
    answer = HTTP.post(served.url + ROUTE, files={name: ("a.wav", wav(1))}, data={"model": "small"})
    assert error_of(answer) == (422, "unknown_parameter", name)


def test_a_form_without_a_file_or_with_two_is_refused(served):
    none = HTTP.post(served.url + ROUTE, files={"model": (None, "small")})
    two = HTTP.post(served.url + ROUTE, files=[("file", ("a", wav(1))), ("file", ("b", wav(1)))])
    assert error_of(none) == (422, "missing_parameter", "file")
    assert error_of(two) == (422, "repeated_parameter", "file")


HEAD = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("application/json", b"{}", 415),
        ("multipart/form-data", b"x", 415),
        ("multipart/form-data; boundary=", b"x", 415),
        ("multipart/form-data; boundary=b", b"", 400),
        ("multipart/form-data; boundary=b", b"nothing of a form", 400),
        ("multipart/form-data; boundary=b", HEAD + wav(0.1), 400),
        ("multipart/form-data; boundary=b", HEAD[:30], 400),
        ("multipart/form-data; boundary=b", b"--b\r\nX: y\r\n\r\nz\r\n--b--\r\n", 400),
        ("multipart/form-data; boundary=b", b"--b\r\n" + b"X: y\r\n" * 500 + b"\r\nz\r\n--b--\r\n", 400),
        ("multipart/form-data; boundary=" + "b" * 5000, b"x", 400),
        ("multipart/form-data; boundary=b", HEAD.replace(b'"file"', b'"\xff"') + b"x\r\n--b--\r\n", 422),
    ],
)
def test_a_damaged_form_is_refused(served, kind, body, status):
    answer = HTTP.post(served.url + ROUTE, content=body, headers={"content-type": kind})
    assert answer.status_code == status
    assert answer.json()["error"]["type"] == "invalid_request_error"


# --- too many, too slow, gone -----------------------------------------------------------------------------------------


def test_more_than_fit_are_told_when_to_come_back(served):
    content = wav(40)
    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(lambda _: post(served, content), range(12)))
    refused = [answer for answer in found if answer.status_code == 429]
    assert {answer.status_code for answer in found} == {200, 429}
    assert len(found) - len(refused) >= 4
    for answer in refused:
        assert error_of(answer) == (429, "queue_full", None)
        assert 1 <= int(answer.headers["retry-after"]) <= 60


def test_openais_client_comes_back_until_it_is_let_in(served):
    content = wav(20)

    def ask(_):
        with openai_client(served.url, retries=30) as client:
            return client.audio.transcriptions.create(file=("a.wav", content), model="small").usage.seconds

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(8))) == [20.0] * 8


def head_of(length: int, kind: str = "multipart/form-data; boundary=b") -> bytes:
    return (
        f"POST {ROUTE} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


def whole_form(content: bytes, **fields: str) -> bytes:
    parts = [f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n' for name, text in fields.items()]
    return "".join(parts).encode() + HEAD + content + b"\r\n--b--\r\n"


def connect(served) -> socket.socket:
    return socket.create_connection(("127.0.0.1", served.port), timeout=240)


def count_left(served) -> int:
    return sum(line["status"] == 499 for line in served.requests())


def test_a_client_that_leaves_frees_its_place(served):
    before = count_left(served)
    body = whole_form(wav(100), model="small")
    for sent in (body[:1000], body[:200_000], body):
        with connect(served) as client:
            client.sendall(head_of(len(body)) + sent)
            wait_until(lambda: gauge(served, "lab_requests_inside") == 1)
        wait_until(lambda: gauge(served, "lab_requests_inside") == 0)
    wait_until(lambda: count_left(served) == before + 3)


def test_a_client_that_leaves_in_a_stream_frees_its_place(served):
    before = count_left(served)
    body = whole_form(long_speech(), model="small", stream="true")
    with connect(served) as client:
        client.sendall(head_of(len(body)) + body)
        assert client.recv(15) == b"HTTP/1.1 200 OK"
    wait_until(lambda: count_left(served) == before + 1)


def test_a_client_that_leaves_before_the_last_event_is_seen_to_leave():
    """Though all events are there, and sending them waits for nothing."""
    form, sent = TranscriptionForm(model="small", stream=True), []

    async def receive():
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    async def answer():
        job, sender = Job(Ask(), Path("none"), limit=60), Sender({}, receive, send)
        for event in (Piece(" One."), Piece(" Two."), Finished("en", 2.0, 2)):
            job.put(event)
        async with attended(job, receive):
            await AudioResponse.stream(None, job, form, Collected(), sender)
        assert (type(job.reason), sender.ended) == (ClientGone, False)

    asyncio.run(answer())
    assert len(sent) < 4


def test_work_stops_when_the_client_leaves(served):
    """The model's time stands still soon after, though most of the sound is left."""
    windows = gauge(served, "lab_batch_windows_sum")
    body = whole_form(long_speech(), model="small", temperature="1")
    with connect(served) as client:
        client.sendall(head_of(len(body)) + body)
        wait_until(lambda: gauge(served, "lab_batch_windows_sum") > windows)
    wait_until(lambda: gauge(served, "lab_requests_inside") == 0)
    time.sleep(1)
    stopped = gauge(served, "lab_batch_windows_sum")
    assert stopped - windows < 12
    time.sleep(1)
    assert gauge(served, "lab_batch_windows_sum") == stopped


def test_slow_clients_are_ended(served):
    """A silent connection, a head byte by byte, a body that stops, one that crawls: all at the same time."""
    body = whole_form(wav(1), model="small")

    def answer(first: bytes, then: bytes = b"", pause: float = 1.0) -> bytes:
        with connect(served) as client:
            client.sendall(first)
            client.settimeout(pause)
            limit, found = time.monotonic() + 120, b""
            while time.monotonic() < limit:
                with contextlib.suppress(TimeoutError):
                    data = client.recv(4096)
                    if not data:
                        return found
                    found += data
                    continue
                if then and not found:
                    with contextlib.suppress(OSError):
                        client.sendall(then)
        raise AssertionError("it hangs")

    with ThreadPoolExecutor(4) as pool:
        silent = pool.submit(answer, b"")
        head = pool.submit(answer, b"GET / HTTP/1.1\r\n", b"X-A: b\r\n")
        stopped = pool.submit(answer, head_of(len(body)) + body[:-5])
        crawling = pool.submit(answer, head_of(len(body) + 10**6) + body[:500], b"x")
    assert silent.result().startswith(b"HTTP/1.1 408 ")
    assert head.result().startswith(b"HTTP/1.1 408 ")
    for each in (stopped, crawling):
        assert each.result().startswith(b"HTTP/1.1 408 ")
        assert json.loads(each.result().partition(b"\r\n\r\n")[2])["error"]["code"] == "slow_upload"


def test_what_takes_too_long_is_ended(tmp_path, small_model):
    """Before the answer has begun by a status that is not tried again, in a stream by an event."""
    with serve(tmp_path, "--timeout", "1", "--batch", "1", model=str(small_model)) as short:
        answer = post(short, long_speech())
        assert error_of(answer) == (504, "timeout", None)
        assert answer.headers["x-should-retry"] == "false"
        wait_until(lambda: gauge(short, "lab_requests_inside") == 0)
        assert short.uploads() == []
        assert post(short, wav(0.1)).status_code == 200


class SlowModel(WatchedModel):
    """Takes three seconds for each batch of windows, on any machine."""

    def __init__(self, model):
        super().__init__(model, lambda: None)

    def encode(self, mel):
        time.sleep(3)
        return super().encode(mel)


def test_a_stream_that_takes_too_long_ends_with_the_error(small_model):
    def load():
        loaded = whisper.load(str(small_model), engine="onnx")
        return replace(loaded, model=SlowModel(loaded.model))

    with running(load, Settings(request_seconds=5, batch=1)) as url:
        client = openai_client(url)
        content = encode(np.tile(audio.read(audio.clip("jfk").path), 9), form="FLAC")
        with client, pytest.raises(openai.APIError, match="longer than the 5 s"):
            list(client.audio.transcriptions.create(file=("a.flac", content), model="small", stream=True))
