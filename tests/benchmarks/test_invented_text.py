"""The benchmark of invented text: its scores, what is transcribed, what it writes, and who takes part."""

from __future__ import annotations

from collections import namedtuple
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from labsupport import cli, whisper
from labsupport.base.errors import BenchError
from labsupport.benchmarks import invented_text, noises
from labsupport.benchmarks.invented_text import PARTS, Condition, Score, score
from labsupport.results import rows
from labsupport.speech.audio import SAMPLE_RATE

MINUTE = np.zeros(60 * SAMPLE_RATE, np.float32)
SPOKEN = Condition("spoken", MINUTE, "Ask not what your country can do for you.")


@pytest.fixture(autouse=True)
def own_results(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_RESULTS", str(tmp_path / "results"))


# --- scores ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "invented", "wrong"),
    [
        ("ask not what YOUR country can do for you", 0, 0),
        ("Ask not what your country can do for you. Thank you.", 2, 2),
        ("Ask not, what your country can do", 0, 2),
        ("Ask not what your county can do for you", 0, 1),
        ("", 0, 9),
    ],
)
def test_invented_words_are_those_that_nobody_said(found, invented, wrong):
    assert score(SPOKEN, [found]) == Score((invented,), (pytest.approx(100 * wrong / 9),))


@pytest.mark.parametrize(
    ("language", "found", "words"), [("en", "Thank you.", 2), ("ru", "Спасибо за просмотр!", 3), ("ja", "ご視聴", 3)]
)
def test_without_speech_every_word_is_invented(language, found, words):
    half = Condition("silence", MINUTE[: 30 * SAMPLE_RATE], "", language)
    assert score(half, [found]) == Score((2 * words,))
    assert score(half, [" ..."]) == Score((0,))


def test_ours_is_compared_with_its_peer_row_by_row():
    same, worse = Score((0.0,), (5.0,)), Score((0.0,), (6.0,))
    names = [*invented_text.PEERS, *invented_text.PEERS.values()]
    entrants = {name: {"a": same, "b": same} for name in names}
    assert "nowhere worse" in invented_text.format_defeats(entrants)
    told = invented_text.format_defeats({**entrants, "ours": {"a": same, "b": worse}})
    assert told == "faster-whisper with VAD, greedy beats ours: b"
    entrants = {name: {"a": Score((0.0,)), "b": same} for name in names}
    told = invented_text.format_defeats({**entrants, "ours, 5 beams": {"a": Score((1.0,)), "b": same}})
    assert told == "faster-whisper with VAD beats ours, 5 beams: a"


def test_the_table_ends_with_the_mean_of_its_rows():
    scores = {"ours": {"a": Score((0.0,), (5.0,)), "b": Score((3.0, 1.0), (6.0, 8.0))}, "peer": {"a": Score((4.0,))}}
    assert invented_text.format_scores({"ours": scores["ours"]}).splitlines()[-1].split() == ["mean", "6.0,", "1.0"]
    assert invented_text.format_scores({"peer": scores["peer"]}).splitlines()[-1].split() == ["mean", "4.0"]


def test_drawn_texts_win_only_if_each_is_better():
    one = Score((0.0,) * 3, (5.0, 6.0, 7.0))
    assert one.beats(Score((0.0,), (7.5,)))
    assert not one.beats(Score((0.0,), (6.5,)))
    assert not Score((9.0,), (6.5,)).beats(one)
    assert not Score((0.0, 1.0)).beats(Score((1.0,)))


def test_a_score_is_a_row_and_a_cell(capsys):
    entrants = {name: lambda samples, language: ["Ask not what"] for name in (*invented_text.PEERS, "rest")}
    entrants |= {peer: lambda samples, language: [""] for peer in invented_text.PEERS.values()}
    invented_text.compare("noise", entrants, [SPOKEN, Condition("hum", MINUTE, "", "ja")], "whisper-base")
    found = {(row.what, row.clip): row for row in rows.read_rows(rows.results_dir())}
    assert found["word error rate: ours", "spoken"].value == pytest.approx(100 * 6 / 9)
    assert found["invented words: rest", "hum"].unit == "words a minute"
    assert found["word error rate: ours", "spoken"].runs == 1
    assert ("word error rate: ours", "hum") not in found
    shown = capsys.readouterr().out
    assert "66.7, 0.0" in shown
    assert "with VAD beats ours, 5 beams: hum" in shown


# --- what is transcribed ---------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_conditions_are_sounds_that_can_be_played(part):
    conditions = invented_text.make_conditions(part, multilingual=True)
    names = [condition.name for condition in conditions]
    assert len(set(names)) == len(names)
    for condition in conditions:
        assert condition.samples.dtype == np.float32
        assert np.abs(condition.samples).max() <= 1.0
        assert bool(condition.text) == (part != "no speech")
        assert (condition.language is None) == (part != "no speech")


@pytest.mark.parametrize(("multilingual", "languages"), [(False, {"en"}), (True, set(invented_text.FORCED))])
def test_an_english_model_is_told_no_other_language(multilingual, languages, monkeypatch):
    monkeypatch.setattr(noises, "applause", noises.white)  # which takes a second
    conditions = invented_text.make_conditions("no speech", multilingual)
    assert {condition.language for condition in conditions} == languages


def test_silence_is_inserted_between_the_same_sentences():
    zeros, floor, *_, longest = invented_text.make_conditions("silence", multilingual=True)
    spoken = len(zeros.samples) - 4 * 10 * SAMPLE_RATE
    assert len(longest.samples) == spoken + 4 * 60 * SAMPLE_RATE
    where = np.flatnonzero(zeros.samples != floor.samples)
    assert len(where) == 4 * 10 * SAMPLE_RATE
    assert noises.level(floor.samples[where]) == pytest.approx(invented_text.ROOM, abs=0.1)
    assert zeros.text == longest.text


# --- who takes part --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.weights
def test_every_entrant_transcribes_speech(jfk, tmp_path):
    entrants = {
        **invented_text.open_ours(whisper.load("tiny.en", engine="onnx")),
        **invented_text.open_peers("tiny.en", tmp_path),
    }
    assert {*invented_text.PEERS, *invented_text.PEERS.values()} <= set(entrants)
    said = "And so my fellow Americans, ask not what your country can do for you."
    start = Condition("start of jfk", jfk[: 8 * SAMPLE_RATE], said)
    for transcribe in entrants.values():
        assert max(score(start, transcribe(start.samples, None)).error_rates) < 20


def test_a_peer_transcribes_again_only_what_it_draws(monkeypatch, tmp_path):
    segment = namedtuple("segment", "text temperature")
    told = iter([[segment("sure", 0.0)], [segment("so", 0.0), segment(" or so", 0.4)], [segment("or", 0.2)], []])
    peer = SimpleNamespace(transcribe=lambda samples, **options: (next(told), None))
    monkeypatch.setattr("faster_whisper.WhisperModel", lambda *arguments, **options: peer)
    transcribe = invented_text.open_peers("tiny.en", tmp_path)["faster-whisper with VAD"]
    assert transcribe(MINUTE, None) == ["sure"]
    assert transcribe(MINUTE, None) == ["so or so", "or", ""]


def test_a_part_or_model_that_is_not_there_is_an_error():
    with pytest.raises(BenchError, match="no part 'music'"):
        invented_text.run("base", "noise,music")
    with pytest.raises(BenchError, match="tiny"):
        invented_text.run("large-v3")


def test_the_command_passes_on_model_and_parts(monkeypatch):
    given = []
    monkeypatch.setattr(invented_text, "run", lambda *arguments: given.append(arguments))
    runner = CliRunner()
    assert runner.invoke(cli.app, ["bench", "invented_text"]).exit_code == 0
    assert runner.invoke(cli.app, ["bench", "invented_text", "--model", "tiny.en", "--parts", "noise"]).exit_code == 0
    assert given == [("base", ",".join(PARTS)), ("tiny.en", "noise")]
