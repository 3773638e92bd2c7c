"""A worker on Ray: one process that loads the model once, and makes a row of each file that it is given."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from labsupport import __version__
from labsupport.base.cached_folder import hash_file
from labsupport.base.errors import LabError
from labsupport.machine.stop_signals import StopSignals
from labsupport.scaling.parts import describe_file
from labsupport.speech.audio import Limits
from labsupport.speech.transcripts import Voices, describe
from labsupport.whisper.files import Input, NoteHandler, Work


@dataclass(frozen=True)
class Settings:
    """How each file is transcribed; what `lab transcribe` calls by the same names, with its defaults.

    weights: says which weights `model` stands for, such as their hash.
    threads: CPU threads of a worker; they change no text.
    """

    model: str
    weights: str = ""
    backend: str | None = None
    engine: str = "auto"
    threads: int = 1
    language: str | None = None
    task: str = "transcribe"
    beams: int = 5
    batch: int = 1
    vad: bool = True
    word_timestamps: bool = False
    initial_prompt: str | None = None
    hotwords: str | None = None
    allow_damaged: bool = False
    max_hours: float = 12

    @property
    def digest(self) -> str:
        """Equal for settings that give equal texts, with the same version of the lab."""
        content = {name: value for name, value in asdict(self).items() if name != "threads"} | {"lab": __version__}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def decoding(self) -> dict[str, Any]:
        """The options of `Transcriber.transcribe`."""
        names = "language task beams batch vad word_timestamps initial_prompt hotwords"
        return {name: getattr(self, name) for name in names.split()}


@dataclass
class Notes:
    """`files.Watcher` that stores what it is told of one file; `files.Writer` that takes its transcript."""

    errors: list[LabError] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    voices: Voices = ()

    def fail(self, error: LabError) -> None:
        self.errors.append(error)

    def note(self, text: str) -> None:
        self.texts.append(text)

    def progress(self, file: str, step: str, done: float, total: float | None) -> None:
        """Rows come whole."""

    def __enter__(self) -> Notes:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing is held open."""

    def check(self, file: str) -> None:
        """The row can always be made."""

    def write(self, file: str, voices: Voices) -> list[str]:
        self.voices = voices
        return []


class Worker:
    """Called with an item, gives its row. A file that cannot be read gives one with its error.

    What is wrong with the settings, so that no file at all could be transcribed, gives a row with `fatal`.
    """

    def __init__(self, settings: Settings):
        from labsupport.machine.backend import let_threads_sleep, use_threads

        let_threads_sleep()
        use_threads(settings.threads)
        self.settings = settings
        source = Input(limits=Limits(settings.max_hours * 3600), allow_damaged=settings.allow_damaged)
        self.work = Work(lambda: load(settings), source, Notes(), Notes(), StopSignals(), settings.decoding)

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        """{"number", "file" as bytes} -> {"number", "row" as JSON}: Ray's blocks take no halves of characters."""
        return {"number": item["number"], "row": json.dumps(self.make_row(os.fsdecode(item["file"])))}

    def make_row(self, file: str) -> dict[str, Any]:
        """What `parts.schema` has of a file, but its path, reference and error rate."""
        begin, notes = time.perf_counter(), Notes()
        self.work.watcher = self.work.writer = notes
        before = describe_file(file)
        try:
            self.work.find_transcriber()  # first: a file that cannot be read says nothing about model and options
            with NoteHandler(notes):
                self.work.try_file(file)
        except LabError as error:  # of the model or an option
            return {"fatal": describe_error(error)}
        content = find_hash(file)
        return {
            **describe_transcript(notes.voices, file), **describe_failure(notes.errors),
            "notes": notes.texts, "seconds": time.perf_counter() - begin, "model": self.settings.model,
            "options": self.settings.digest, "worker": f"{socket.gethostname()}:{os.getpid()}",
            **before, "sha256": content if describe_file(file) == before else None,  # it may hold another sound by now
        }  # fmt: skip


def load(settings: Settings):
    """The transcriber, as `lab transcribe` loads it."""
    from labsupport.engine.choosing import load_for_command

    return load_for_command(settings.model, settings.backend, settings.engine)


def describe_transcript(voices: Voices, file: str) -> dict[str, Any]:
    """The columns of a transcript, empty where there is none; as `lab transcribe --format json` has them."""
    if not voices:
        return {"text": None, "segments": None, "language": None, "language_probability": None, "duration": None}
    document = describe(file, voices)[0]
    return {name: document[name] for name in ("text", "segments", "language", "language_probability", "duration")}


def describe_failure(errors: list[LabError]) -> dict[str, str | None]:
    if not errors:
        return {"error": None, "error_kind": None}
    return {"error": str(errors[0]), "error_kind": type(errors[0]).__name__}


def describe_error(error: LabError) -> dict[str, str | None]:
    where = None if error.where is None else str(error.where)
    return {"what": error.what, "where": where, "hint": error.hint}


def find_hash(file: str) -> str | None:
    """sha256 of a regular file, None where it cannot be read; a pipe would be read for ever."""
    try:
        return hash_file(Path(file)) if os.path.isfile(file) else None
    except (OSError, ValueError):  # ValueError: a NUL in its name
        return None
