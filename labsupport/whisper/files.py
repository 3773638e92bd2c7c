"""Many audio files, one after the other: what one of them does wrong stops no other."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import shlex
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from labsupport import __version__
from labsupport.base.errors import AudioError, FolderError, LabError, MachineError, WhisperError, printable
from labsupport.machine.stop_signals import StopSignals
from labsupport.speech import audio
from labsupport.speech.text import Transcript
from labsupport.speech.transcripts import Voices
from labsupport.whisper.journal import StoredJournal, hash_content
from labsupport.whisper.language import check_language, check_task, match_code
from labsupport.whisper.outputs import (
    STANDARD_INPUT,
    STANDARD_INPUT_NAME,
    Output,
    ScreenError,
    Writer,
    open_writer,
    show_name,
)
from labsupport.whisper.token_filters import count_previous_room

if TYPE_CHECKING:
    from labsupport.whisper.transcribe import Transcriber

READING = logging.getLogger("labsupport.speech")
MEMORY_MESSAGES = ("out of memory", "allocate memory", "bad allocation", "failed to allocate")  # of the frameworks


@dataclass(frozen=True)
class Input:
    """How files are read. channel: one of them, from 1 on; separate: each on its own; else they are mixed.

    track, allow_damaged: as for `audio.read`.
    """

    channel: int | None = None
    separate: bool = False
    limits: audio.Limits = field(default_factory=audio.Limits)
    track: int | None = None
    allow_damaged: bool = False

    def duration(self, sound: Any) -> float | None:
        """Seconds, as far as the header tells it."""
        return audio.duration(sound, self.track, self.allow_damaged)

    def channels(self, sound: Any) -> Sequence[int | None]:
        """The numbers of the channels that are transcribed each on its own; None stands for the mix."""
        if not self.separate:
            return [self.channel]
        return range(1, audio.count_channels(sound, self.track, self.allow_damaged) + 1)

    def read(self, sound: Any, channel: int | None) -> Iterator[np.ndarray]:
        """Blocks (samples,) of a channel, or of the mix."""
        return audio.read_blocks(sound, channel, self.limits, self.track, self.allow_damaged)


@dataclass
class Outcome:
    """Which files were transcribed, and which failed, in their order; the others were not.

    interrupted: Ctrl-C or another signal came.
    lost: why nothing more could be printed; BrokenPipeError where the reader has gone.
    """

    done: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    interrupted: bool = False
    lost: BrokenPipeError | ScreenError | None = None


class Watcher(Protocol):
    """Is told what a user may want to see while files are worked on."""

    def fail(self, error: LabError) -> None:
        """A file failed; the next one follows."""

    def note(self, text: str) -> None:
        """Something to know about the file at work."""

    def progress(self, file: str, step: str, done: float, total: float | None) -> None:
        """So many of a file's seconds are read or transcribed; total: None where the file does not say it."""


def transcribe_files(
    files: Sequence[str],
    load: Callable[[], Transcriber],
    source: Input,
    output: Output,
    watcher: Watcher,
    stop: StopSignals | None = None,
    resume: bool = False,
    **options,
) -> Outcome:
    """Transcribes one file after the other. Whatever becomes of one stops no other, but a signal ends the work.

    Args:
        files: paths; "-" is standard input.
        load: gives the transcriber; called once, when there is a file to transcribe.
        stop: the signals that end the work; by default Ctrl-C does, wherever it comes.
        resume: write a journal of each file, and go on after what an earlier call's holds, see `journal`.
        options: of `Transcriber.transcribe`.

    Raises:
        TextError: a form is unknown, or does not go with so many files.
        FolderError: the folder cannot be written to, standard output is closed, several inputs would go to one file,
            or an output over an input.
        LabError: of `load`; or the model does not know the language or the task.
    """
    if source.separate and source.channel is not None:
        raise AudioError("One channel and each of them exclude each other.", hint="Give --channel or --channels.")
    writer, outcome = open_writer(output, files), Outcome()
    work = Work(load, source, writer, watcher, stop or StopSignals(), options, resume)
    try:
        with writer, NoteHandler(watcher):
            work.try_files(files, outcome)
    except (BrokenPipeError, ScreenError) as error:
        outcome.lost = error
    return outcome


class NoteHandler(logging.Handler):
    """Inside its `with`, gives what the reading of sound writes to the log to the watcher, each text once."""

    def __init__(self, watcher: Watcher):
        super().__init__(logging.WARNING)
        self.watcher, self.seen = watcher, set[str]()

    def __enter__(self) -> NoteHandler:
        READING.addHandler(self)
        return self

    def __exit__(self, *error: object) -> None:
        READING.removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        if (text := record.getMessage()) not in self.seen:  # a file is opened for its duration, and for each channel
            self.seen.add(text)
            self.watcher.note(text)


class Work:
    """What is done with each file; arguments as for `transcribe_files`."""

    def __init__(
        self,
        load: Callable[[], Transcriber],
        source: Input,
        writer: Writer,
        watcher: Watcher,
        stop: StopSignals,
        options: dict,
        resume: bool = False,
    ):
        self.load, self.source, self.writer, self.watcher = load, source, writer, watcher
        self.stop, self.options, self.resume = stop, options, resume
        self.loaded: Transcriber | None = None
        self.fatal: LabError | None = None  # why no file at all can be transcribed

    def try_files(self, files: Sequence[str], outcome: Outcome) -> None:
        """Each file in turn, until a signal comes; the outcome is noted as it becomes known."""
        try:
            for file in files:
                self.stop.check()
                if len(files) > 1:
                    self.watcher.note(f"{show_name(file)}:")
                (outcome.done if self.try_file(file) else outcome.failed).append(file)
            self.stop.check()
        except KeyboardInterrupt:
            outcome.interrupted = True

    def try_file(self, file: str) -> bool:
        """Whether the file was read, transcribed and written; its error goes to the watcher."""
        try:
            self.writer.check(file)
            with contextlib.ExitStack() as journals:
                with self.stop.interruptible():
                    voices, finished = self.transcribe(file, journals)
                paths = self.writer.write(file, voices)
                for journal in finished:
                    journal.remove()
        except (BrokenPipeError, ScreenError):
            raise  # no other file could be printed
        except Exception as error:
            if error is self.fatal:
                raise
            self.watcher.fail(explain(error, show_name(file)))
            return False
        if paths:
            self.watcher.note(f"written: {', '.join(show_name(path) for path in paths)}")
        return True

    def transcribe(self, file: str, opened: contextlib.ExitStack) -> tuple[Voices, list[StoredJournal]]:
        """A file's transcript, or one for each channel, with its number; and their journals, which are `opened`."""
        voices: list[tuple[int | None, Transcript]] = []
        journals: list[StoredJournal] = []
        with open_input(file) as sound:
            seconds = self.source.duration(sound)  # before the model is loaded: perhaps no file can be read
            transcriber = self.find_transcriber()
            content = hash_content(sound) if self.resume else ""
            for channel in self.source.channels(sound):
                options = self.options
                if self.resume:
                    identity = self.identify(content, transcriber, channel)
                    journals.append(opened.enter_context(StoredJournal(file, channel, identity)))
                    self.note(journals[-1].note)
                    options = {**options, "journal": journals[-1].journal}
                transcript = self.transcribe_channel(file, sound, seconds, transcriber, channel, options)
                voices.append((channel if self.source.separate else None, transcript))
        return voices, journals

    def identify(self, content: str, transcriber: Transcriber, channel: int | None) -> dict:
        """What must be the same for a text to go on: another value may give other words."""
        model = {"label": transcriber.label, "files": transcriber.origin, "engine": type(transcriber.model).__module__}
        options = {name: getattr(value, "__dict__", value) for name, value in self.options.items()}
        reading = {"channel": channel, "track": self.source.track, "allow_damaged": self.source.allow_damaged}
        return {"content": content, "model": model, "version": __version__, **reading, **options}

    def note(self, text: str) -> None:
        if text:
            self.watcher.note(text)

    def transcribe_channel(
        self, file: str, sound: Any, seconds: float | None, transcriber: Transcriber, channel: int | None, options: dict
    ) -> Transcript:
        """channel: from 1 on, None for the mix."""
        report = functools.partial(self.report, show_name(file))
        blocks = self.source.read(sound, channel)
        transcript = transcriber.transcribe(
            count_seconds(blocks, functools.partial(report, "reading", total=seconds)),
            on_progress=functools.partial(report, "transcribing"),
            **options,
        )
        if transcript.language_probability is not None:
            self.watcher.note(f"language: {transcript.language} ({transcript.language_probability:.2f}), detected")
        if not transcript.segments:
            self.watcher.note(f"no speech in {transcript.duration:.1f} s of sound")
        return transcript

    def report(self, file: str, step: str, done: float, total: float | None) -> None:
        self.stop.check()
        self.watcher.progress(file, step, done, total)

    def find_transcriber(self) -> Transcriber:
        """Loads the model the first time, and checks that it can do what is asked for; else raises, at each call."""
        if self.fatal is not None:
            raise self.fatal
        if self.loaded is None:
            try:
                loaded = self.load()
                self.check(loaded)
            except LabError as error:
                self.fatal = error
                raise
            self.loaded = loaded
        return self.loaded

    def check(self, transcriber: Transcriber) -> None:
        """Raises WhisperError, before any sound is read, if the model cannot do what is asked for."""
        self.options["language"] = match_code(self.options.get("language"), transcriber.tokenizer)
        check_language(transcriber.model, transcriber.tokenizer, self.options["language"])
        check_task(transcriber.model, self.options.get("task", "transcribe"))
        hotwords = transcriber.encode_hotwords(self.options.get("hotwords"))
        self.note_unused_prompt(transcriber, len(hotwords))

    def note_unused_prompt(self, transcriber: Transcriber, hotwords: int) -> None:
        """Says how much of the initial prompt has room, beside so many tokens of hotwords."""
        prompt = (self.options.get("initial_prompt") or "").strip()
        tokens = len(transcriber.tokenizer.encode(f" {prompt}")) if prompt else 0
        room = count_previous_room(transcriber.model.config, hotwords)
        if tokens > room:
            self.watcher.note(f"The initial prompt has {tokens} tokens; Whisper is given the last {room} of them.")


def count_seconds(blocks: Iterable[np.ndarray], report: Callable[[float], None]) -> Iterator[np.ndarray]:
    """The same blocks (samples,); `report` is told after how many seconds of sound each ends."""
    samples = 0
    for block in blocks:
        samples += len(block)
        report(samples / audio.SAMPLE_RATE)
        yield block


def explain(error: Exception, file: str) -> LabError:
    """An error of any kind in the words of the lab, with the file's name."""
    if isinstance(error, LabError):
        if error.where is None or file == STANDARD_INPUT_NAME:  # it is stored under a name that says nothing
            error.where = file
        return error
    if isinstance(error, MemoryError) or any(message in str(error).lower() for message in MEMORY_MESSAGES):
        hint = "Cut the sound into shorter files, close other programs, or take a smaller --model or --batch."
        return MachineError("This machine has too little memory for the file.", where=file, hint=hint)
    if isinstance(error, OSError):
        where = printable(error.filename or file)
        hint = "Look at the disk's room and the permissions."
        return FolderError(f"The system refused: {error.strerror or error}.", where=where, hint=hint)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    what = f"The lab failed on this file: {type(error).__name__}: {error}"
    return WhisperError(what, where=file, hint=f"Please report it with {Path(frame.filename).name}:{frame.lineno}.")


@contextlib.contextmanager
def open_input(file: str) -> Iterator[Any]:
    """A path as it is; for "-", standard input, stored so that decoders can seek in it.

    AudioError where that is a terminal, or closed; and for an address, which is not fetched.
    """
    if file != STANDARD_INPUT:
        check_address(file)
        yield file
        return
    hint = "Pipe a sound into it: cat clip.wav | ./lab transcribe -"
    if sys.stdin is None or sys.stdin.closed:
        raise AudioError("Standard input is closed.", hint=hint)
    if sys.stdin.isatty():
        raise AudioError("Standard input is a terminal: there is no sound to read.", hint=hint)
    with tempfile.TemporaryFile() as stored:
        shutil.copyfileobj(sys.stdin.buffer, stored)
        stored.seek(0)
        yield stored


def check_address(file: str) -> None:
    """Raises AudioError for an address (https://host/a.mp3), unless there is a file of that name."""
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", file)
    if scheme is None or os.path.exists(file):
        return
    if scheme[1].lower() == "file":
        hint = "Give its path alone, without file://."
    else:
        address = shlex.quote(printable(file))
        hint = f"Download it first: curl -LO {address}; the sound of a page with a video: yt-dlp -x {address}"
    raise AudioError("Addresses are not fetched.", where=printable(file), hint=hint)
