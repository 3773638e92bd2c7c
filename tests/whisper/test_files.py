"""Several files in a row, forms of a transcript, folders, names, standard input; and odd files with a real model."""

from __future__ import annotations

import io
import itertools
import json
import os
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import odd_audio
import pytest

from labsupport import whisper
from labsupport.base.errors import AudioError, FolderError, LabError, TextError
from labsupport.base.paths import AUDIO
from labsupport.speech import audio
from labsupport.speech.text import Segment, Transcript, Word, wer
from labsupport.whisper.files import (
    FolderWriter,
    Input,
    Output,
    check_forms,
    choose_names,
    describe,
    format_transcript,
    format_voices,
    open_input,
    parse_forms,
    show_name,
    transcribe_files,
    write_json,
)

SEGMENTS = [Segment(0.0, 1.5, " One."), Segment(1.5, 3.0, " Two.")]
TWO = Transcript(" One. Two.", SEGMENTS, "en", duration=3.0)
JFK = str(AUDIO / "jfk.flac")


class FakeTranscriber:
    """Reads all of the sound, notes the options, and says the same for any."""

    def __init__(self, transcript=TWO):
        self.transcript, self.options, self.seconds = transcript, None, []

    def transcribe(self, samples, on_progress, **options):
        self.options = options
        self.seconds.append(sum(len(block) for block in samples) / audio.SAMPLE_RATE)
        on_progress(self.seconds[-1], self.seconds[-1])
        return self.transcript


class Notes:
    def __init__(self):
        self.errors, self.notes, self.done = [], [], []

    def fail(self, error, file):
        self.errors.append((file, error))

    def note(self, text):
        self.notes.append(text)

    def progress(self, file, done, total):
        self.done.append((file, done, total))


MIXED, PRINTED = Input(), Output()


def run(files, model=None, source=MIXED, output=PRINTED, **options):
    model, notes = model or FakeTranscriber(), Notes()
    failed = transcribe_files([str(file) for file in files], lambda: model, source, output, notes, **options)
    return failed, notes, model


# --- one bad file ----------------------------------------------------------------------------------------------------


def test_a_file_that_cannot_be_read_stops_no_other(tmp_path, capsys):
    missing = tmp_path / "missing.wav"
    failed, notes, model = run([missing, JFK, "no.mp3"], beams=2)
    assert failed == [str(missing), "no.mp3"]
    assert capsys.readouterr().out == "One. Two.\n"
    assert "missing.wav" in str(notes.errors[0][1])
    assert model.options == {"beams": 2}
    assert notes.notes == [f"{missing}:", f"{JFK}:", "no.mp3:"]
    assert notes.done == [(JFK, 11.0, 11.0)]


@pytest.mark.parametrize("error", [MemoryError(), OSError(28, "No space left on device"), AudioError("Broken.")])
def test_what_fails_while_it_is_transcribed_stops_no_other(error, capsys):
    class Failing(FakeTranscriber):
        def transcribe(self, samples, **options):
            if not self.seconds:
                self.seconds.append(0)
                raise error
            return TWO

    failed, notes, _ = run([JFK, JFK], Failing())
    assert [each for _, each in notes.errors] == [error]
    assert failed == [JFK]
    assert capsys.readouterr().out == "One. Two.\n"


def test_a_mistake_in_the_code_is_not_hidden():
    class Wrong(FakeTranscriber):
        def transcribe(self, samples, **options):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run([JFK], Wrong())


def test_no_model_is_loaded_where_no_file_can_be_read(tmp_path):
    def load():
        raise AssertionError("loaded")

    assert len(transcribe_files(["a.wav", str(tmp_path)], load, Input(), Output(), Notes())) == 2


def test_a_detected_language_is_told_with_its_probability():
    _, notes, _ = run([JFK], FakeTranscriber(replace(TWO, language="de", language_probability=0.873)))
    assert notes.notes == ["language: de (0.87), detected"]


# --- forms -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "timestamps", "expected"),
    [
        ("text", False, "One. Two."),
        ("text", True, "[   0.00 -    1.50]  One.\n[   1.50 -    3.00]  Two."),
        ("srt", False, "00:00:01,500 --> 00:00:03,000"),
        ("vtt", True, "WEBVTT"),
        ("tsv", False, "1500\t3000\tTwo."),
    ],
)
def test_every_form(form, timestamps, expected):
    assert expected in format_transcript(TWO, form, timestamps)


def test_forms_are_given_with_commas_or_one_by_one():
    assert parse_forms(None) == ["text"]
    assert parse_forms(["srt,vtt", "txt"]) == ["srt", "vtt", "text"]
    assert parse_forms(["all"]) == ["text", "srt", "vtt", "tsv", "json"]


@pytest.mark.parametrize("form", ["srt", "vtt", "tsv"])
def test_several_files_are_not_printed_as_one_document(form):
    with pytest.raises(TextError, match=f"cannot be one {form} document") as refused:
        run([JFK, JFK], output=Output([form]))
    assert "--output-dir" in refused.value.hint
    check_forms(Output([form]), 1)
    check_forms(Output([form], Path("out")), 2)


def test_unknown_and_several_forms_are_refused():
    with pytest.raises(TextError, match="pdf"):
        check_forms(Output(["pdf"]), 1)
    with pytest.raises(TextError, match="need a folder"):
        check_forms(Output(["srt", "vtt"]), 1)


@pytest.mark.parametrize("files", [[JFK], [JFK, "missing.wav", JFK], ["missing.wav"]])
def test_json_is_one_array_whatever_fails(files, capsys):
    failed, _, _ = run(files, output=Output(["json"]))
    documents = json.loads(capsys.readouterr().out)
    assert len(documents) == len(files) - len(failed)
    assert all(document["file"] == JFK and document["segments"][1]["text"] == "Two." for document in documents)


def test_json_is_whole_when_the_work_is_interrupted(capsys):
    class Interrupted(FakeTranscriber):
        def transcribe(self, samples, **options):
            self.seconds.append(1)
            if len(self.seconds) == 2:
                raise KeyboardInterrupt
            return TWO

    with pytest.raises(KeyboardInterrupt):
        run([JFK, JFK, JFK], Interrupted(), output=Output(["json"]))
    assert len(json.loads(capsys.readouterr().out)) == 1


def test_json_has_whisper_s_fields_and_no_infinity():
    word = Word(0.1, 0.4, " One.", float("nan"))
    segment = replace(SEGMENTS[0], avg_logprob=float("-inf"), word_timings=(word,))
    (document,) = describe("a.wav", [(None, replace(TWO, segments=[segment]))])
    stored = json.loads(write_json(document), parse_constant=lambda constant: pytest.fail(constant))
    assert stored["segments"] == [{
        "id": 0, "start": 0.0, "end": 1.5, "text": "One.", "temperature": 0.0, "avg_logprob": None,
        "compression_ratio": 0.0, "no_speech_prob": 0.0,
        "words": [{"word": " One.", "start": 0.1, "end": 0.4, "probability": None}],
    }]  # fmt: skip
    assert (stored["duration"], stored["language"], stored["text"]) == (3.0, "en", "One. Two.")


def test_karaoke_times_increase_inside_their_cue():
    times = [(0.5, 0.7, " One"), (0.4, 0.9, " <two>"), (0.95, 1.1, ","), (1.2, 9.0, " three"), (9.5, 9.6, " four")]
    words = tuple(Word(*each, 1.0) for each in times)
    segment = Segment(0.5, 2.0, " One <two>, three four", words)
    line = format_transcript(replace(TWO, segments=[segment]), "vtt").splitlines()[3]
    assert line == "<c>One</c> <c>&lt;two&gt;</c><00:00:00.950><c>,</c> <00:00:01.200><c>three</c> <c>four</c>"
    assert re.sub(r"<[^>]*>", "", line) == "One &lt;two&gt;, three four"


# --- channels --------------------------------------------------------------------------------------------------------


@pytest.fixture
def stereo(tmp_path):
    sound = odd_audio.speech(seconds=1.0)
    samples = odd_audio.np.stack([sound, 0 * sound], 1)
    path = tmp_path / "two channels.wav"
    path.write_bytes(odd_audio.make_wav(odd_audio.to_int16(samples), 8000, channels=2))
    return path


def test_channels_are_transcribed_one_by_one_and_labelled(stereo, capsys):
    _, _, model = run([stereo], source=Input(separate=True))
    assert capsys.readouterr().out == "Channel 1: One. Two.\nChannel 2: One. Two.\n"
    assert model.seconds == pytest.approx([1.0, 1.0])
    run([stereo], source=Input(separate=True), output=Output(["json"]))
    assert [document["channel"] for document in json.loads(capsys.readouterr().out)] == [1, 2]
    merged = format_voices([(1, TWO), (2, TWO)], "srt", False)
    assert re.findall(r"Channel \d: \w+", merged) == [
        "Channel 1: One", "Channel 2: One", "Channel 1: Two", "Channel 2: Two",
    ]  # fmt: skip


def test_one_channel_is_chosen_and_a_missing_one_is_refused(stereo, capsys):
    _, notes, _ = run([stereo], source=Input(channel=3))
    assert "no channel 3" in str(notes.errors[0][1])
    assert run([stereo], source=Input(channel=2))[0] == []


# --- folders ---------------------------------------------------------------------------------------------------------


def test_a_folder_gets_every_form_of_every_file(tmp_path, capsys):
    folder = tmp_path / "new" / "out"
    run([JFK, "missing.wav"], output=Output(parse_forms(["all"]), folder))
    assert {path.name for path in folder.iterdir()} == {f"jfk.{end}" for end in ("txt", "srt", "vtt", "tsv", "json")}
    assert (folder / "jfk.txt").read_text() == "One. Two.\n"
    assert json.loads((folder / "jfk.json").read_text())["file"] == JFK
    assert capsys.readouterr().out == ""


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    monkeypatch.setattr(
        Path, "write_text", lambda path, *a, **k: path.write_bytes(b"ha") and (_ for _ in ()).throw(OSError(28, "full"))
    )
    assert run([JFK], output=Output(["text"], tmp_path / "out"))[0] == [JFK]
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["a/x.wav", "a/y.mp3", "-"], ["x", "y", "stdin"]),
        (["x.wav", "x.mp3"], ["x.wav", "x.mp3"]),
        (["X.wav", "x.mp3"], ["X.wav", "x.mp3"]),
    ],
)
def test_no_input_overwrites_another_s_output(files, names):
    assert list(choose_names(files).values()) == names


def test_two_inputs_of_one_name_are_refused_before_the_work():
    with pytest.raises(FolderError, match="one file"):
        choose_names(["a/x.wav", "b/X.wav"])


def test_a_folder_that_cannot_be_made_is_refused_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FolderError, match="cannot be written to"):
        FolderWriter(Output(folder=tmp_path / "file" / "out"), [JFK])


# --- names, standard input -------------------------------------------------------------------------------------------


def test_names_are_shown_without_what_a_terminal_would_obey(tmp_path):
    assert show_name("a\x1b[31m\n.wav") == r"a\x1b[31m\n.wav"
    assert show_name(odd_audio.BYTE_NAME) == r"caf\udce9.wav"
    assert show_name("é 日本 '\".wav") == "é 日本 '\".wav"
    _, notes, _ = run([tmp_path / "a\x1b[31m\r\n.wav"])
    assert r"a\x1b[31m\r\n.wav" in str(notes.errors[0][1])


def give_input(monkeypatch, data: bytes, terminal: bool = False):
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(data), isatty=lambda: terminal))


def test_a_sound_comes_through_standard_input(monkeypatch, capsys):
    give_input(monkeypatch, odd_audio.build("clip.m4a"))
    failed, _, model = run(["-"], output=Output(["json"]))
    assert failed == []
    assert model.seconds == pytest.approx([11.0], abs=0.1)
    assert json.loads(capsys.readouterr().out)[0]["file"] == "standard input"


@pytest.mark.parametrize(("data", "terminal", "message"), [(b"", False, "empty"), (b"", True, "terminal")])
def test_an_empty_input_and_a_terminal_are_errors(monkeypatch, data, terminal, message):
    give_input(monkeypatch, data, terminal)
    _, notes, _ = run(["-"])
    assert message in str(notes.errors[0][1])


def test_a_path_is_opened_as_it_is():
    with open_input("x.wav") as sound:
        assert sound == "x.wav"


# --- odd files, with a real model ------------------------------------------------------------------------------------

SENTENCE = (
    "And so, my fellow Americans, ask not what your country can do for you, ask what you can do for your country."
)
WHOLE = [
    "gsm.wav", "mp3_in.wav", "clip.m4a", "clip.webm", "clip.mp4", "alaw.wav", "adpcm_ima.wav", "pcm24.wav", "pcm8.wav",
    "zero_data_size.wav", "max_data_size.wav",
]  # fmt: skip
TWICE = ["chained_vorbis.ogg", "chained_opus.ogg", "joined.mp3"]
SILENT = ["silence_10s.wav", "low_noise_20s.wav"]


@pytest.fixture(scope="module")
def onnx():
    return whisper.load("tiny.en", engine="onnx")


@pytest.fixture(scope="module")
def good(onnx, tmp_path_factory):
    return onnx.transcribe(audio.read(odd_audio.write(tmp_path_factory.mktemp("good"), "good.wav")), vad=True).text


@pytest.mark.weights
@pytest.mark.slow
@pytest.mark.parametrize("name", [*WHOLE, *TWICE])
def test_every_kind_of_file_gives_all_its_text(onnx, good, tmp_path, capsys, name):
    assert run([odd_audio.write(tmp_path, name)], onnx, vad=True)[0] == []
    assert wer(good * (2 if name in TWICE else 1), capsys.readouterr().out) <= 0.1


@pytest.mark.weights
@pytest.mark.slow
@pytest.mark.parametrize("name", ["opposite_phase.wav", "float64.wav"])
def test_the_start_comes_out_of_opposite_phases_and_wide_floats(onnx, tmp_path, capsys, name):
    start = onnx.transcribe(audio.read(odd_audio.write(tmp_path, "start.wav")), vad=True).text
    run([odd_audio.write(tmp_path, name)], onnx, vad=True)
    assert wer(start, capsys.readouterr().out) == 0


@pytest.mark.weights
@pytest.mark.slow
def test_silence_between_is_no_text_and_no_segment_spans_it(onnx, good, tmp_path):
    found = onnx.transcribe(audio.read_blocks(odd_audio.write(tmp_path, "silence_between.wav")), vad=True)
    assert wer(f"{good} {good}", found.text) <= 0.1
    times = [time for segment in found.segments for time in (segment.start, segment.end)]
    assert times == sorted(times)
    assert times[-1] <= 42.05
    assert not any(segment.start < 14 and segment.end > 28 for segment in found.segments)


@pytest.mark.weights
@pytest.mark.slow
@pytest.mark.parametrize("vad", [True, False])
def test_nothing_is_invented_where_nobody_speaks_in_any_language(base, tmp_path, vad):
    for name, language in itertools.product(SILENT, ("ru", "en")):
        samples = audio.read(odd_audio.write(tmp_path, name))
        assert base.ours.transcribe(samples, language=language, vad=vad).text == "", (name, language)


@pytest.mark.weights
@pytest.mark.slow
def test_bad_files_are_errors_that_name_them_and_the_good_one_after_them_is_transcribed(onnx, good, tmp_path, capsys):
    bad = ["empty.wav", "empty.bin", "text.wav", "claims_1gb.wav", "claims_3gb.wav", "claims_long.flac",
           "rate_1hz_long.wav", "rate_4mhz.wav"]  # fmt: skip
    odd_audio.write_links(tmp_path)
    links = [
        tmp_path / "loop.wav",
        tmp_path / "loop_a.wav",
        tmp_path / odd_audio.LONG_NAME,
        tmp_path / odd_audio.BYTE_MISSING,
    ]
    files = [odd_audio.write(tmp_path, name) for name in bad] + links + [tmp_path]
    failed, notes, _ = run([*files, odd_audio.write(tmp_path, "good.wav")], onnx, vad=True)
    assert failed == [str(file) for file in files]
    for file, (_, error) in zip(files, notes.errors, strict=True):
        assert isinstance(error, LabError)
        assert show_name(os.fspath(file)) in str(error)
    assert capsys.readouterr().out.strip() == good
