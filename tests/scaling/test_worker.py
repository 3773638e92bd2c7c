"""A worker, called in this process: the rows that it makes, and what makes two settings the same."""

from __future__ import annotations

import dataclasses
import json
import os

import pytest
from fake_transcriber import FakeTranscriber

from labsupport.base.cached_folder import hash_file
from labsupport.base.errors import CheckpointError
from labsupport.base.paths import AUDIO
from labsupport.scaling import parts, worker
from labsupport.scaling.worker import Settings, Worker

JFK = AUDIO / "jfk.flac"
SETTINGS = Settings("tiny.en", threads=1)


@pytest.fixture
def model(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # which a worker sets in its own process
    monkeypatch.setenv("MKL_NUM_THREADS", "1")
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    fake = FakeTranscriber()
    monkeypatch.setattr("labsupport.engine.choosing.load_for_command", lambda name, backend, engine: fake)
    return fake


def call(settings, file, number=3):
    answer = Worker(settings)({"number": number, "file": os.fsencode(file)})
    assert answer["number"] == number
    return json.loads(answer["row"])


def test_a_row_has_every_column_but_those_that_the_corpus_knows(model):
    row = call(SETTINGS, JFK)
    assert set(row) == set(parts.schema().names) - {"path", "reference", "wer"}
    assert (row["text"], row["language"], row["duration"], row["error"]) == ("One. Two.", "en", 3.0, None)
    assert [(s["start"], s["end"], s["text"]) for s in row["segments"]] == [(0.0, 1.5, "One."), (1.5, 3.0, "Two.")]
    assert (row["sha256"], row["bytes"]) == (hash_file(JFK), JFK.stat().st_size)
    assert row["worker"].endswith(f":{os.getpid()}")
    assert row["seconds"] > 0


def test_a_file_that_cannot_be_read_is_a_row_with_its_error_and_the_next_one_is_clean(model, tmp_path):
    (tmp_path / "bad.wav").write_bytes(b"no sound")
    one = Worker(SETTINGS)
    rows = [one.make_row(str(file)) for file in (tmp_path / "bad.wav", JFK, tmp_path / "missing.wav")]
    assert [row["error_kind"] for row in rows] == ["NoAudio", None, "AudioError"]
    assert [row["text"] for row in rows] == [None, "One. Two.", None]
    assert "no audio" in rows[0]["error"]
    assert (rows[2]["bytes"], rows[2]["sha256"]) == (None, None)


def test_an_error_of_the_lab_or_of_memory_is_a_row_too(monkeypatch, model):
    model.results = [ZeroDivisionError("a fault"), MemoryError()]
    one = Worker(SETTINGS)
    first, second = one.make_row(str(JFK)), one.make_row(str(JFK))
    assert "a fault" in first["error"]
    assert "too little memory" in second["error"]
    assert not {first["error_kind"], second["error_kind"]} & parts.PERMANENT  # another time it may go well


def test_options_reach_the_model(model):
    settings = Settings("tiny.en", language="en", beams=2, batch=3, vad=False, word_timestamps=True, hotwords="Ray",
                        initial_prompt="Before.", task="transcribe")  # fmt: skip
    call(settings, JFK)
    assert {name: model.options[name] for name in settings.decoding} == settings.decoding


def test_what_is_wrong_with_the_model_is_fatal(monkeypatch, model):
    def refuse(name, backend, engine):
        raise CheckpointError("It is damaged.", where="there", hint="Fetch it again.")

    monkeypatch.setattr("labsupport.engine.choosing.load_for_command", refuse)
    assert call(SETTINGS, JFK) == {"fatal": {"what": "It is damaged.", "where": "there", "hint": "Fetch it again."}}


@pytest.mark.parametrize("first", ["missing.wav", JFK], ids=["unreadable", "readable"])
def test_no_file_gets_a_row_with_options_that_the_model_refuses(model, tmp_path, first):
    model.model.config.multilingual = False
    one = Worker(Settings("tiny.en", language="de"))
    rows = [one.make_row(str(file)) for file in (first, JFK, JFK)]
    assert [set(row) for row in rows] == [{"fatal"}] * 3
    assert "English alone" in rows[0]["fatal"]["what"]


def test_a_file_that_changes_while_it_is_transcribed_has_no_hash(model, tmp_path, monkeypatch):
    file = tmp_path / "a.flac"
    file.write_bytes(JFK.read_bytes())
    transcribe = model.transcribe

    def change_meanwhile(samples, on_progress, **options):
        transcript = transcribe(samples, on_progress, **options)
        file.write_bytes(b"another sound")
        return transcript

    monkeypatch.setattr(model, "transcribe", change_meanwhile)
    row = call(SETTINGS, file)
    assert (row["text"], row["sha256"], row["bytes"]) == ("One. Two.", None, JFK.stat().st_size)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
def test_a_pipe_is_a_row_and_no_wait(model, tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    row = call(SETTINGS, tmp_path / "pipe.wav")
    assert "not a regular file" in row["error"]
    assert row["sha256"] is None


def test_a_name_that_no_file_can_have_is_a_row(model):
    row = call(SETTINGS, "/nowhere/a\0.wav")
    assert "No file can have this name" in row["error"]


def test_the_engine_asked_for_is_loaded(monkeypatch, model):
    asked = []
    monkeypatch.setattr("labsupport.engine.choosing.load_for_command", lambda *how: asked.append(how))
    for options in ({}, {"engine": "onnx"}, {"backend": "torch"}):
        worker.load(Settings("base", **options))
    assert asked == [("base", None, "auto"), ("base", None, "onnx"), ("base", "torch", "auto")]


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Settings)])
def test_whatever_may_change_a_text_changes_the_digest(name):
    value = getattr(SETTINGS, name)
    other = {bool: lambda: not value, int: lambda: value + 1, float: lambda: value + 1}.get(
        type(value), lambda: "other"
    )
    changed = dataclasses.replace(SETTINGS, **{name: other()})
    assert (changed.digest == SETTINGS.digest) == (name == "threads")


def test_another_version_of_the_lab_changes_the_digest(monkeypatch):
    before = SETTINGS.digest
    monkeypatch.setattr(worker, "__version__", "another")
    assert SETTINGS.digest != before
