"""A journal: what is stored comes back, what does not belong is set aside, and a killed process loses no window."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from labsupport.base.errors import FolderError
from labsupport.base.paths import AUDIO, ROOT, lab_dir
from labsupport.speech.audio import SAMPLE_RATE, read
from labsupport.speech.text import Segment, Word
from labsupport.whisper.files import Input, transcribe_files
from labsupport.whisper.guards import Guards
from labsupport.whisper.journal import Checkpoint, Journal, StoredJournal, describe_window, hash_content, parse_window
from labsupport.whisper.loading import describe_folder
from labsupport.whisper.outputs import Output

IDENTITY = {"content": "abc", "beams": 5, "guards": {"temperatures": (0.0, 0.2)}}
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
WORDS = st.builds(Word, NUMBERS, NUMBERS, st.text(), NUMBERS)
SEGMENTS = st.lists(st.builds(Segment, NUMBERS, NUMBERS, st.text(), st.lists(WORDS).map(tuple), NUMBERS))
POINTS = st.builds(Checkpoint, st.integers(0, 10**7), st.lists(st.integers(0, 51864)))
ONE = Segment(0.0, 1.5, " One.", (Word(0.0, 1.5, " One.", 0.5),), -0.25, 0.7, 0.1, 0.2)


@given(SEGMENTS, st.none() | POINTS)
def test_a_window_comes_back_as_it_was(segments, at):
    assert parse_window(json.loads(json.dumps(describe_window(segments, at)))) == (segments, at)


def open_and_add(*points: Checkpoint | None, identity=IDENTITY) -> Path:
    with StoredJournal("a.wav", None, identity) as stored:
        for at in points:
            stored.journal.add([ONE], at)
        return stored.path


def reopen(identity=IDENTITY) -> tuple[Journal, str]:
    with StoredJournal("a.wav", None, identity) as stored:
        return stored.journal, stored.note


def test_the_work_goes_on_after_the_last_window_at_which_it_can():
    open_and_add(Checkpoint(10, [1]), None, Checkpoint(30, [2]), None)
    for _ in range(2):  # what follows is cut off once
        journal, note = reopen()
        assert (journal.spoken, journal.at, journal.windows) == ([ONE] * 3, Checkpoint(30, [2]), 3)
        assert note == "resumed: 3 windows are transcribed already"


@pytest.mark.parametrize(
    "torn", [b"", b"{", b'{"segments": [], "at', b"\x00\xff\n", b'{"segments": 3, "at": null}\n', b"[]\n"]
)
def test_a_torn_or_wrong_line_costs_no_window_before_it(torn):
    path = open_and_add(Checkpoint(10, []), Checkpoint(20, []))
    path.write_bytes(path.read_bytes() + torn)
    assert reopen()[0].at == Checkpoint(20, [])
    open_and_add(Checkpoint(30, []))
    assert reopen()[0].at == Checkpoint(30, [])


@pytest.mark.parametrize(
    ("identity", "named"),
    [({**IDENTITY, "content": "b"}, "content"), ({**IDENTITY, "beams": 1}, "beams"), ({**IDENTITY, "vad": 1}, "vad")],
)
def test_what_was_made_otherwise_is_set_aside_with_a_word(identity, named):
    path = open_and_add(Checkpoint(10, []))
    journal, note = reopen(identity)
    aside = path.with_suffix(".old.jsonl")
    assert (journal.at, journal.spoken) == (None, [])
    assert f"it differs in {named}. It is set aside: {aside}" in note
    assert json.loads(aside.read_text().splitlines()[0])["identity"]["content"] == "abc"
    assert reopen(identity) == (journal, "")


def test_a_journal_that_is_none_is_set_aside():
    path = open_and_add(Checkpoint(10, []))
    path.write_text("no journal\n")
    assert "differs in everything" in reopen()[1]


def test_each_file_and_channel_has_its_own_and_one_process_at_a_time():
    with StoredJournal("a.wav", None, IDENTITY) as mix, StoredJournal("a.wav", 1, IDENTITY) as first:
        assert len({mix.path, first.path, StoredJournal("b.wav", None, IDENTITY).path}) == 3
        with pytest.raises(FolderError, match="Another process"), StoredJournal("a.wav", 1, IDENTITY):
            pass


def test_a_files_content_is_told_from_anothers(tmp_path):
    for name, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / name).write_bytes(content)
    one, same, other = (hash_content(str(tmp_path / name)) for name in "abc")
    assert one == same != other
    with open(tmp_path / "a", "rb") as file:
        file.read()
        assert (hash_content(file), file.tell()) == (one, 0)


# --- with a model -----------------------------------------------------------------------------------------------------


class Stop(Exception):
    """Ends a transcription as a kill would, but in this process."""


@pytest.mark.weights
@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"beams": 2, "guards": Guards(condition_on_previous_text=True), "word_timestamps": True},
        {"batch": 2, "vad": True, "initial_prompt": "An address."},
        {"vad": True},
    ],
    ids=["conditioned", "in batches", "seek"],
)
@pytest.mark.parametrize("breaks", [1, pytest.param(99, marks=pytest.mark.soak)], ids=["a window", "any window"])
def test_broken_off_after_windows_drawn_at_random_the_text_is_that_of_an_unbroken_run(tiny, jfk, options, breaks):
    sound = np.concatenate([np.tile(np.concatenate([jfk, np.zeros(40_000, np.float32)]), 3), jfk[:70_000]])
    journal = Journal()
    whole = tiny.ours.transcribe(sound, journal=journal, **options)
    seed = random.randrange(10**6)
    print("seed", seed)
    for most in random.Random(seed).sample(range(1, journal.windows + 1), min(breaks, journal.windows)):
        with StoredJournal("a.wav", None, IDENTITY) as stored:
            steps = []

            def stop(done, total, steps=steps, most=most):
                steps.append(done)
                if len(steps) == most:
                    raise Stop

            with pytest.raises(Stop):
                tiny.ours.transcribe(sound, journal=stored.journal, on_progress=stop, **options)
        with StoredJournal("a.wav", None, IDENTITY) as stored:
            resumed, later = stored.journal.windows, []
            found = tiny.ours.transcribe(
                sound,
                journal=stored.journal,
                on_progress=lambda done, total, later=later: later.append(done),
                **options,
            )
            stored.remove()
        assert found == whole
        assert resumed + len(later) == journal.windows  # no window is decoded twice, but for those of a broken batch
        assert resumed == most or "batch" in options  # a batch goes on as a whole, however many texts a window takes
    assert not list((lab_dir() / "transcribe").iterdir())


def command(home: Path, *arguments: str) -> subprocess.Popen:
    env = os.environ | {"LAB_HOME": str(home), "PYTHONPATH": str(ROOT), "LAB_BACKEND": "torch"}
    line = [sys.executable, "-m", "labsupport", "transcribe", "--resume", "--model", "tiny.en", "--beams", "1"]
    return subprocess.Popen(
        [*line, "--engine", "torch", *arguments], cwd=ROOT, env=env, stdout=-1, stderr=-1, text=True
    )  # fmt: skip


def stored_windows(home: Path) -> int:
    return sum(b'"at": {' in line for path in home.rglob("*.jsonl") for line in path.read_bytes().splitlines())


@pytest.mark.weights
@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals are those of POSIX")
def test_killed_at_random_points_the_output_is_that_of_an_unbroken_run(tmp_path, kill_times):
    files = [str(tmp_path / name) for name in ("0.flac", "1.flac")]
    for file in files:  # two windows each
        soundfile.write(file, read(AUDIO / "narration.flac")[: 45 * SAMPLE_RATE], SAMPLE_RATE)
    began = time.monotonic()
    assert command(tmp_path / "whole", *files, "-o", str(tmp_path / "expected")).wait() == 0
    seconds = time.monotonic() - began
    home, out = tmp_path / "lab", tmp_path / "out"
    for turn, moment in enumerate(kill_times(seconds)):
        number = (signal.SIGKILL, signal.SIGINT)[turn % 2]
        before = stored_windows(home)
        started = command(home, *files, "-o", str(out))
        time.sleep(moment)
        started.send_signal(number)
        told = started.communicate(timeout=60)[1]
        assert "Traceback" not in told or number == signal.SIGINT, told  # Python's own, while it begins
        assert stored_windows(home) >= before or list(out.glob("*")), told
    done = stored_windows(home)
    printed = command(home, *files, "-o", str(out)).communicate(timeout=200)[1]
    assert ("resumed:" in printed) == bool(done), printed
    names = sorted(path.name for path in (tmp_path / "expected").iterdir())
    assert [path.name for path in sorted(out.iterdir())] == names
    for name in names:
        assert (out / name).read_bytes() == (tmp_path / "expected" / name).read_bytes()
    assert not [path for path in home.rglob("*") if path.suffix == ".jsonl"]


@pytest.mark.weights
@pytest.mark.slow
def test_channels_and_a_changed_option_and_a_finished_file(tiny, tmp_path, capsys):
    sound = read(AUDIO / "jfk.flac")
    soundfile.write(tmp_path / "two.wav", np.stack([sound, sound[::-1]], axis=1), 16_000)
    notes = Notes()
    files, source = [str(tmp_path / "two.wav")], Input(separate=True)
    load = lambda: tiny.ours  # noqa: E731
    with StoredJournal(files[0], 1, IDENTITY) as stored:
        stored.journal.add([ONE], Checkpoint(5, []))
    outcome = transcribe_files(files, load, source, Output(), notes, resume=True, language="en")
    assert outcome.done == files
    assert "set aside" in "".join(notes.notes)
    printed = capsys.readouterr().out
    transcribe_files(files, load, source, Output(), notes, language="en")
    assert capsys.readouterr().out == printed
    assert "One." not in printed
    assert [path.name for path in (lab_dir() / "transcribe").glob("*.jsonl")] == [stored.path.stem + ".old.jsonl"]


class Notes:
    """A watcher that stores what it is told."""

    def __init__(self):
        self.notes = []

    def fail(self, error):
        raise error

    def note(self, text):
        self.notes.append(text)

    def progress(self, file, step, done, total):
        """Nobody looks."""


def test_loading_tells_other_weights_in_the_same_folder_apart(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"1")
    before = describe_folder(tmp_path)
    assert before == describe_folder(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"12")
    assert describe_folder(tmp_path) != before
