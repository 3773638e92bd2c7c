"""OpenAI's own client against the real process: every form of answer, streams, models, errors."""

from __future__ import annotations

import io
import itertools
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import openai
import pytest
from served import HTTP, encode, openai_client, serve, speech

from labsupport import whisper
from labsupport.base.paths import AUDIO
from labsupport.speech import audio

pytestmark = [pytest.mark.weights, pytest.mark.slow]
JFK = AUDIO / "jfk.flac"
TOKEN = "a-token-of-some-length"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with serve(tmp_path_factory.mktemp("served"), LAB_SERVE_TOKEN=TOKEN) as served:
        yield served


@pytest.fixture(scope="module")
def client(served):
    with openai_client(served.url, TOKEN) as client:
        yield client


@pytest.fixture(scope="module")
def plain():
    """The transcriber itself, in this process."""
    return whisper.load("tiny.en", engine="onnx")


def transcribe_plainly(plain, samples, **options):
    """In batched mode, as the service decodes."""
    return plain.transcribe(samples, timestamps=False, batch=8, vad=True, **options)


# --- forms ------------------------------------------------------------------------------------------------------------


def test_json_is_the_plain_transcribers_text(client, plain, jfk):
    with JFK.open("rb") as file:
        answer = client.audio.transcriptions.create(file=file, model="tiny.en")
    assert answer.text == transcribe_plainly(plain, jfk).text
    assert "ask not what your country can do for you" in answer.text.lower()
    assert (answer.usage.type, answer.usage.seconds) == ("duration", 11.0)


def test_requests_at_once_get_each_its_own_text(client, plain, jfk, narration):
    parts = [jfk, narration[: 16_000 * 40], jfk[: 16_000 * 4]]
    files = [encode(part) for part in parts]

    def ask(content):
        return client.audio.transcriptions.create(file=("a.wav", content), model="tiny.en", language="en").text

    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(ask, files))
    for text, content in zip(found, files, strict=True):
        samples = audio.read(io.BytesIO(content))
        assert text == transcribe_plainly(plain, samples).text


def test_verbose_json_has_segments_and_timed_words(client, plain, jfk):
    answer = client.audio.transcriptions.create(
        file=JFK, model="whisper-1", response_format="verbose_json", timestamp_granularities=["word", "segment"]
    )
    expected = transcribe_plainly(plain, jfk, word_timestamps=True)
    timed = [(word.text.strip(), word.start, word.end) for each in expected.segments for word in each.word_timings]
    assert [(each.word, each.start, each.end) for each in answer.words] == timed
    assert (answer.language, answer.duration, answer.text) == ("english", 11.0, expected.text)
    assert "".join(each.text for each in answer.segments).strip() == answer.text
    assert all(each.text.startswith(" ") for each in answer.segments)  # as OpenAI's, and whisper's
    assert all(first.end <= second.start for first, second in itertools.pairwise(answer.segments))
    assert all(0 <= each.start < each.end <= 11 for each in answer.segments)
    assert [each.id for each in answer.segments] == list(range(len(answer.segments)))
    assert all(plain.tokenizer.decode(each.tokens) == each.text for each in answer.segments)


@pytest.mark.parametrize(("granularities", "has"), [(["word"], (False, True)), (["segment"], (True, False))])
def test_verbose_json_has_what_is_asked_for(client, granularities, has):
    answer = client.audio.transcriptions.create(
        file=("a.wav", speech(0, 2.5)), model="tiny.en", response_format="verbose_json",
        timestamp_granularities=granularities,
    )  # fmt: skip
    assert (answer.segments is not None, answer.words is not None) == has


@pytest.mark.parametrize(
    ("form", "pattern"),
    [
        ("text", r"And so[^\n]*\n"),
        ("srt", r"1\n00:00:00,\d{3} --> 00:00:0\d,\d{3}\nAnd so[^\n]*\n\n"),
        ("vtt", r"WEBVTT\n\n00:00:00\.\d{3} --> 00:00:0\d\.\d{3}\nAnd so[^\n]*\n\n"),
    ],
)
def test_text_and_subtitles(client, form, pattern):
    answer = client.audio.transcriptions.create(file=("a.wav", speech(0, 2.5)), model="tiny.en", response_format=form)
    assert re.fullmatch(pattern, answer), answer


def test_times_are_those_of_the_recording_after_a_pause(client, jfk):
    silence = np.zeros(16_000 * 10, np.float32)
    content = encode(np.concatenate([silence, jfk[: 16_000 * 3], silence, jfk[16_000 * 8 :]]))
    answer = client.audio.transcriptions.create(
        file=("a.wav", content), model="tiny.en", response_format="verbose_json"
    )
    assert len(answer.segments) >= 2
    assert 9.5 < answer.segments[0].start < 11
    assert 22.5 < answer.segments[-1].start < 25
    assert answer.segments[-1].end <= 26.1


def test_a_stream_gives_the_text_in_pieces(client, plain, narration):
    content = encode(narration[: 16_000 * 40])
    with client.audio.transcriptions.create(file=("a.wav", content), model="tiny.en", stream=True) as stream:
        *deltas, done = list(stream)
    assert {each.type for each in deltas} == {"transcript.text.delta"}
    assert len(deltas) == 2
    assert (done.type, done.duration) == ("transcript.text.done", 40.0)
    assert "".join(each.delta for each in deltas) == done.text
    assert done.text == transcribe_plainly(plain, audio.read(io.BytesIO(content))).text


def test_a_verbose_stream_gives_segments_with_timed_words(client):
    with client.audio.transcriptions.create(
        file=("a.wav", speech(0, 2.5)), model="tiny.en", stream=True, response_format="verbose_json",
        timestamp_granularities=["word"],
    ) as stream:  # fmt: skip
        events = list(stream)
    assert [each.type for each in events] == [f"transcript.text.{kind}" for kind in ("delta", "segment", "done")]
    assert events[1].text == events[2].text
    assert [each["word"] for each in events[1].words] == events[2].text.split()


def test_a_prompt_is_given_to_every_window_and_a_temperature_draws(client, plain, jfk):
    ask = lambda **options: client.audio.transcriptions.create(file=JFK, model="tiny.en", **options).text  # noqa: E731
    prompt = "Speeches of presidents, in capitals: AMERICANS, COUNTRY."
    assert ask(prompt=prompt) == transcribe_plainly(plain, jfk, initial_prompt=prompt).text
    drawn = replace(whisper.transcribe.GUARDS, temperatures=(1.0,))
    assert ask(temperature=1.0) == transcribe_plainly(plain, jfk, guards=drawn).text


# --- models and errors ------------------------------------------------------------------------------------------------


def test_the_models_are_listed(client):
    assert [each.id for each in client.models.list()] == ["tiny.en", "whisper-1"]
    assert client.models.retrieve("tiny.en").object == "model"
    with pytest.raises(openai.NotFoundError, match="There is no model"):
        client.models.retrieve("large/v9")


@pytest.mark.parametrize(
    ("options", "error", "code", "param"),
    [
        ({"model": "large"}, openai.NotFoundError, "model_not_found", "model"),
        ({"language": "xx"}, openai.UnprocessableEntityError, "unsupported_language", "language"),
        ({"language": "de"}, openai.UnprocessableEntityError, "unsupported_language", "language"),
        ({"temperature": 2}, openai.UnprocessableEntityError, "invalid_value", "temperature"),
        ({"response_format": "xml"}, openai.UnprocessableEntityError, "invalid_value", "response_format"),
        ({"stream": True, "response_format": "srt"}, openai.UnprocessableEntityError, "invalid_value", "stream"),
        ({"timestamp_granularities": ["word"]}, openai.UnprocessableEntityError, "invalid_value",
         "timestamp_granularities[]"),
        ({"include": ["logprobs"]}, openai.UnprocessableEntityError, "unknown_parameter", "include[]"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_openais_form(client, options, error, code, param):
    with pytest.raises(error) as caught:
        client.audio.transcriptions.create(**{"file": ("a.wav", speech(0, 1)), "model": "tiny.en", **options})
    assert (caught.value.code, caught.value.param, caught.value.type) == (code, param, "invalid_request_error")


def test_an_english_model_does_not_translate(client):
    with pytest.warns(DeprecationWarning, match="deprecated"), pytest.raises(openai.UnprocessableEntityError) as caught:
        client.audio.translations.create(file=("a.wav", speech(0, 1)), model="tiny.en")
    assert caught.value.code == "unsupported_task"


@pytest.mark.parametrize("token", ["", "another-token-of-that-length", TOKEN[:-1], TOKEN + "x", "tökén-of-some-length"])
def test_a_wrong_token_opens_nothing(served, token):
    headers = {"authorization": f"Bearer {token}".encode()} if token else {}
    for method, path in (("GET", "/v1/models"), ("POST", "/v1/audio/transcriptions"), ("GET", "/metrics")):
        answer = HTTP.request(method, served.url + path, headers=headers, content=b"x" * (method == "POST"))
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")


def test_a_large_upload_without_a_token_is_told_so_before_it_has_arrived(served):
    stranger = openai_client(served.url, "wrong")
    with stranger, pytest.raises(openai.AuthenticationError):
        stranger.audio.transcriptions.create(file=("a.wav", bytes(30 * 2**20)), model="tiny.en")


def test_health_needs_no_token(served):
    assert HTTP.get(f"{served.url}/healthz").json() == {"status": "ok"}
    assert HTTP.get(f"{served.url}/readyz").status_code == 200
    assert HTTP.get(f"{served.url}/docs").status_code == 200


def test_metrics_count_what_was_done(served, client):
    before = read_metrics(served)
    client.audio.transcriptions.create(file=("a.wav", speech(0, 2.5)), model="tiny.en")
    after = read_metrics(served)
    assert after["lab_audio_seconds_total"] - before["lab_audio_seconds_total"] == pytest.approx(2.5)
    assert after["lab_windows_total"] - before["lab_windows_total"] == 1
    assert after["lab_requests_inside"] == after["lab_spool_bytes"] == 0


def read_metrics(served) -> dict[str, float]:
    text = HTTP.get(f"{served.url}/metrics", headers={"authorization": f"Bearer {TOKEN}"}).text
    return {name: float(value) for name, value in re.findall(r"(?m)^(\w+) (\S+)$", text)}


def test_the_log_is_json_without_text_names_or_tokens(served, client):
    client.audio.transcriptions.create(file=("secret-name.wav", speech(0, 2.5)), model="tiny.en", prompt="Zanzibar")
    HTTP.get(f"{served.url}/secret-path?api_key={TOKEN}", headers={"authorization": f"Bearer {TOKEN}"})
    assert len(served.lines) == len(served.raw)
    log = "".join(served.raw)
    for secret in ("secret", TOKEN, "Zanzibar", "fellow", "Americans", "country"):
        assert secret not in log
    assert served.requests()[-1].keys() == {
        "time", "level", "event", "id", "method", "route", "status", "seconds", "audio_seconds", "windows"
    }  # fmt: skip


def test_nothing_is_left_in_the_spool(served):
    assert served.uploads() == []


# --- a model of many languages ----------------------------------------------------------------------------------------


def test_a_multilingual_model_detects_the_language_and_translates(tmp_path):
    content = speech(0, 4)
    with serve(tmp_path, model="base") as served, openai_client(served.url) as client:
        options = {"file": ("a.wav", content), "model": "base", "response_format": "verbose_json"}
        found = client.audio.transcriptions.create(**options)
        forced = client.audio.transcriptions.create(**options, language="German")
        with pytest.warns(DeprecationWarning, match="deprecated"):  # OpenAI will end translations
            english = client.audio.translations.create(**options)
    plain, samples = whisper.load("base", engine="onnx"), audio.read(io.BytesIO(content))
    assert found.language == english.language == "english"
    assert "fellow Americans" in found.text
    assert (forced.language, forced.text) == ("german", transcribe_plainly(plain, samples, language="de").text)
    assert forced.text != found.text
    assert (english.task, english.text) == ("translate", found.text)  # it is English already
