"""Many files in a row: what becomes of one stops no other; standard input; channels; odd files with a real model."""

from __future__ import annotations

import errno
import io
import itertools
import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import odd_audio
import pytest
from fake_transcriber import TWO, FakeTranscriber

from labsupport import whisper
from labsupport.base.errors import AudioError, CheckpointError, FolderError, LabError, TextError, WhisperError
from labsupport.base.paths import AUDIO
from labsupport.speech import audio
from labsupport.speech.text import Transcript, wer
from labsupport.whisper import files
from labsupport.whisper.files import Input, Outcome, explain, open_input, transcribe_files
from labsupport.whisper.outputs import Output, ScreenError, show_name

JFK = str(AUDIO / "jfk.flac")
MIXED, PRINTED = Input(), Output()


class Notes:
    """A watcher that stores what it is told."""

    def __init__(self):
        self.errors, self.notes, self.done = [], [], []

    def fail(self, error):
        self.errors.append(error)

    def note(self, text):
        self.notes.append(text)

    def progress(self, file, step, done, total):
        self.done.append((file, step, done, total))


def run(files, model=None, source=MIXED, output=PRINTED, **options):
    model, notes = model or FakeTranscriber(), Notes()
    outcome = transcribe_files([str(file) for file in files], lambda: model, source, output, notes, **options)
    return outcome, notes, model


# --- one bad file ----------------------------------------------------------------------------------------------------


def test_a_file_that_cannot_be_read_stops_no_other(tmp_path, capsys):
    missing = str(tmp_path / "missing.wav")
    outcome, notes, model = run([missing, JFK, "no.mp3"], beams=2)
    assert outcome == Outcome([JFK], [missing, "no.mp3"])
    assert capsys.readouterr().out == "One. Two.\n"
    assert missing in str(notes.errors[0])
    assert model.options == {"beams": 2, "language": None}
    assert notes.notes == [f"{missing}:", f"{JFK}:", "no.mp3:"]
    assert notes.done == [(JFK, "reading", 11.0, 11.0), (JFK, "transcribing", 11.0, 11.0)]


OUT_OF_MEMORY = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: can't allocate memory: you tried"
)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "too little memory"),
        (OUT_OF_MEMORY, "too little memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "too little memory"),
        (OSError(errno.ENOSPC, "No space left on device"), "The system refused: No space left on device"),
        (AudioError("It is broken."), "It is broken."),
        (UnicodeDecodeError("utf-8", b"x", 0, 1, "bad"), "The lab failed on this file: UnicodeDecodeError"),
        (ZeroDivisionError("by zero"), "The lab failed on this file: ZeroDivisionError: by zero"),
    ],
)
def test_what_fails_while_it_is_transcribed_stops_no_other_and_names_the_file(error, message, capsys):
    outcome, notes, _ = run([JFK, "no.mp3", JFK], FakeTranscriber(error, TWO))
    assert (len(outcome.done), len(outcome.failed)) == (1, 2)
    assert message in notes.errors[0].what
    assert notes.errors[0].where == JFK
    assert capsys.readouterr().out == "One. Two.\n"


def test_a_mistake_in_the_code_is_reported_with_its_place():
    _, notes, _ = run([JFK], FakeTranscriber(ZeroDivisionError()))
    assert "fake_transcriber.py:" in notes.errors[0].hint


def test_an_error_of_the_system_names_its_own_file():
    assert explain(OSError(errno.EACCES, "Permission denied", "out/a\n.txt"), "a.wav").where == "out/a\\n.txt"


def test_ctrl_c_ends_the_work_and_says_what_is_done(tmp_path, capsys):
    outcome, _, _ = run([JFK, "no.mp3", JFK, JFK], FakeTranscriber(TWO, KeyboardInterrupt()), output=Output(["json"]))
    assert outcome == Outcome([JFK], ["no.mp3"], interrupted=True)
    assert len(json.loads(capsys.readouterr().out)) == 1
    run([JFK], FakeTranscriber(KeyboardInterrupt()), output=Output(["text"], tmp_path))
    assert list(tmp_path.iterdir()) == []


# --- before the work -------------------------------------------------------------------------------------------------


def refuse(*arguments):
    raise AssertionError("called")


def test_no_model_is_loaded_where_no_file_can_be_read(tmp_path):
    assert len(transcribe_files(["a.wav", str(tmp_path)], refuse, MIXED, PRINTED, Notes()).failed) == 2


@pytest.mark.parametrize(
    ("files", "source", "output", "error"),
    [
        ([JFK], MIXED, Output(["pdf"]), TextError),
        ([JFK, JFK], MIXED, Output(["srt"]), TextError),
        ([JFK], MIXED, Output(["srt"], Path(JFK)), FolderError),
        ([JFK], Input(channel=1, separate=True), PRINTED, AudioError),
    ],
)
def test_what_cannot_be_given_is_refused_before_a_model_is_loaded(files, source, output, error):
    with pytest.raises(error):
        transcribe_files(files, refuse, source, output, Notes())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"language": "xx"}, "does not know the language"),
        ({"language": "de"}, "English alone"),
        ({"task": "translate"}, "cannot translate"),
        ({"hotwords": "too many"}, "no room"),
    ],
)
def test_what_the_model_cannot_do_is_one_error_before_any_sound_is_read(monkeypatch, options, message):
    monkeypatch.setattr(audio, "read_blocks", refuse)
    with pytest.raises(WhisperError, match=message):
        run([JFK, JFK], FakeTranscriber(multilingual=False), **options)


def test_an_old_vocabulary_has_another_code_for_hebrew():
    assert run([JFK], language="he")[2].options["language"] == "iw"
    assert run([JFK], language="de")[2].options["language"] == "de"


def test_a_model_that_cannot_be_loaded_ends_the_work_at_once():
    def load():
        raise CheckpointError("There is no such model.")

    with pytest.raises(CheckpointError):
        transcribe_files([JFK, JFK], load, MIXED, PRINTED, Notes())


@pytest.mark.parametrize("error", [BrokenPipeError(), ScreenError("full")])
def test_where_nothing_can_be_printed_the_work_ends(monkeypatch, error):
    def write_out(text):
        raise error

    monkeypatch.setattr("labsupport.whisper.outputs.write_out", write_out)
    outcome, _, model = run([JFK, JFK])
    assert outcome == Outcome(lost=error)
    assert len(model.seconds) == 1
    assert run([JFK], output=Output(["json"]))[0].lost == error


def test_how_much_of_a_long_prompt_is_used_is_said_once():
    _, notes, _ = run([JFK, JFK], initial_prompt="name " * 300, hotwords="Ask not")
    assert notes.notes.count("The initial prompt has 300 tokens; Whisper is given the last 221 of them.") == 1
    assert run([JFK], initial_prompt="name " * 223)[1].notes == run([JFK], initial_prompt=" ")[1].notes == []


# --- folders ---------------------------------------------------------------------------------------------------------


def test_a_folder_gets_the_files_and_the_paths_are_told(tmp_path, capsys):
    outcome, notes, _ = run([JFK, "missing.wav"], output=Output(["text", "json"], tmp_path / "out"))
    assert outcome.failed == ["missing.wav"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["jfk.json", "jfk.txt"]
    assert f"written: {tmp_path}/out/jfk.txt, {tmp_path}/out/jfk.json" in notes.notes
    assert capsys.readouterr().out == ""


def test_a_name_that_has_no_room_for_its_ending_fails_before_its_sound_is_read(tmp_path):
    long = tmp_path / ("n" * 251 + ".wav")
    long.write_bytes(odd_audio.build("good.wav"))
    outcome, notes, model = run([long, JFK], output=Output(["json"], tmp_path / "out"))
    assert outcome.done == [JFK]
    assert "name has 256 bytes" in notes.errors[0].what
    assert str(notes.errors[0].where).endswith("n.json")
    assert len(model.seconds) == 1


def test_a_detected_language_is_told_with_its_probability():
    _, notes, _ = run([JFK], FakeTranscriber(replace(TWO, language="de", language_probability=0.873)))
    assert notes.notes == ["language: de (0.87), detected"]


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
    run([stereo, JFK], source=Input(separate=True), output=Output(["json"]))
    assert [document["channel"] for document in json.loads(capsys.readouterr().out)] == [1, 2, 1]


def test_one_channel_is_chosen_and_a_missing_one_is_refused(stereo, capsys):
    _, notes, _ = run([stereo], source=Input(channel=3))
    assert "no channel 3" in str(notes.errors[0])
    assert run([stereo], source=Input(channel=2))[0].done == [str(stereo)]


# --- tracks, damage, and what the reading of a file tells ------------------------------------------------------------


@pytest.fixture
def tracks(tmp_path):
    """A file of two tracks that last 1 and 2 s."""
    path = tmp_path / "tracks.mkv"
    path.write_bytes(odd_audio.with_tracks([odd_audio.speech(16_000, seconds) for seconds in (1.0, 2.0)], 16_000))
    return path


@pytest.mark.parametrize(("track", "seconds"), [(None, 1.0), (1, 1.0), (2, 2.0)])
def test_the_track_that_is_asked_for_is_transcribed(tracks, track, seconds):
    assert run([tracks], source=Input(track=track))[2].seconds == pytest.approx([seconds])
    assert run([tracks], source=Input(separate=True, track=track))[2].seconds == pytest.approx([seconds])


def test_of_several_tracks_it_is_told_once_which_is_used(tracks):
    _, notes, _ = run([tracks], source=Input(separate=True))
    (told,) = notes.notes
    assert "2 audio tracks: 1 (flac, mono, used), 2 (flac, mono)." in told
    assert [each for each in files.READING.handlers if isinstance(each, files.NoteHandler)] == []


def test_a_track_that_is_not_there_fails_before_the_model_is_loaded(tracks):
    _, notes, model = run([tracks, JFK], source=Input(track=3))
    assert ["no audio track 3" in error.what for error in notes.errors] == [True, True]
    assert model.seconds == []


def test_what_is_left_of_a_damaged_file_is_transcribed_where_it_is_wanted(tmp_path):
    path = tmp_path / "cut.webm"
    path.write_bytes(odd_audio.build("clip.webm")[:30_000])
    assert run([path])[0].failed == [str(path)]
    outcome, notes, model = run([path], source=Input(allow_damaged=True))
    assert outcome.done == [str(path)]
    assert 4 < model.seconds[0] < 9
    assert "What is left is taken" in notes.notes[0]


def test_that_nobody_speaks_is_said():
    _, notes, _ = run([JFK], FakeTranscriber(Transcript("", [], "en", duration=11.0)))
    assert notes.notes == ["no speech in 11.0 s of sound"]


# --- standard input --------------------------------------------------------------------------------------------------


def give_input(monkeypatch, data: bytes, terminal: bool = False):
    stream = SimpleNamespace(buffer=io.BytesIO(data), isatty=lambda: terminal, closed=False)
    monkeypatch.setattr("sys.stdin", stream)


@pytest.mark.parametrize("separate", [False, True])
def test_a_sound_comes_through_standard_input(monkeypatch, capsys, separate):
    give_input(monkeypatch, odd_audio.build("clip.m4a"))
    outcome, _, model = run(["-"], source=Input(separate=separate), output=Output(["json"]))
    assert outcome.done == ["-"]
    assert model.seconds == pytest.approx([11.0], abs=0.1)
    assert json.loads(capsys.readouterr().out)[0]["file"] == "standard input"


@pytest.mark.parametrize(
    ("data", "terminal", "message"),
    [(b"", False, "empty"), (b"", True, "a terminal"), (b"no sound", False, "no audio")],
)
def test_an_empty_input_and_a_terminal_are_errors(monkeypatch, data, terminal, message):
    give_input(monkeypatch, data, terminal)
    _, notes, _ = run(["-"])
    assert message in notes.errors[0].what
    assert notes.errors[0].where == "standard input"


def test_standard_input_is_read_once_and_may_be_closed(monkeypatch):
    give_input(monkeypatch, odd_audio.build("good.wav"))
    outcome, notes, _ = run(["-", "-"])
    assert (len(outcome.done), len(outcome.failed)) == (1, 1)
    assert "empty" in notes.errors[0].what
    monkeypatch.setattr("sys.stdin", None)
    assert "closed" in run(["-"])[1].errors[0].what


def test_a_path_is_opened_as_it_is():
    with open_input("x.wav") as sound:
        assert sound == "x.wav"


@pytest.mark.parametrize(
    ("address", "hint"),
    [
        ("https://host/a.mp3", "curl -LO https://host/a.mp3"),
        ("https://host/watch?v=1&t=2", "yt-dlp -x 'https://host/watch?v=1&t=2'"),
        ("s3://bucket//a.wav", "Download it first"),
        ("FILE:///home/a.wav", "without file://"),
    ],
)
def test_an_address_is_named_as_it_is_and_not_fetched(address, hint):
    outcome, notes, _ = run([address, JFK])
    assert outcome == Outcome([JFK], [address])
    assert (notes.errors[0].what, notes.errors[0].where) == ("Addresses are not fetched.", address)
    assert hint in notes.errors[0].hint


def test_a_file_whose_name_looks_like_an_address_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "https:").mkdir()
    (tmp_path / "https:" / "a.wav").write_bytes(odd_audio.build("good.wav"))
    assert run(["https://a.wav"])[0].done == ["https://a.wav"]


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
    assert run([odd_audio.write(tmp_path, name)], onnx, vad=True)[0].failed == []
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
def test_nothing_is_invented_where_nobody_speaks_in_any_language(base, tmp_path):
    for name, language in itertools.product(SILENT, ("ru", "en")):
        samples = audio.read(odd_audio.write(tmp_path, name))
        assert base.ours.transcribe(samples, language=language, vad=True).text == "", (name, language)


@pytest.mark.weights
@pytest.mark.slow
def test_without_a_detector_the_guards_alone_find_silence_in_english(base, tmp_path):
    """Not in Russian: the model is half sure of the subtitles' authors that it invents in noise."""
    for name in SILENT:
        samples = audio.read(odd_audio.write(tmp_path, name))
        assert base.ours.transcribe(samples, language="en").text == "", name


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
    outcome, notes, _ = run([*files, odd_audio.write(tmp_path, "good.wav")], onnx, vad=True)
    assert outcome.failed == [str(file) for file in files]
    for file, error in zip(files, notes.errors, strict=True):
        assert isinstance(error, LabError)
        assert show_name(os.fspath(file)) in str(error)
    assert capsys.readouterr().out.strip() == good


@pytest.mark.weights
@pytest.mark.slow
def test_too_little_sound_for_a_word_gives_none_and_many_channels_give_theirs(onnx, good, tmp_path, capsys):
    names = ["short_01s.wav", "rate_1hz.wav", "channels_64.wav", "good.wav"]
    outcome, _, _ = run([odd_audio.write(tmp_path, name) for name in names], onnx, vad=True)
    short, slow, *others = capsys.readouterr().out.splitlines()
    assert (outcome.failed, short, slow, others[-1]) == ([], "", "", good)
    assert len(others[0].split()) <= 8
