"""Audio files -> transcripts on the screen, or in files beside each other."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from labsupport.base.errors import AudioError, FolderError, LabError, TextError, printable
from labsupport.base.paths import atomic_write
from labsupport.speech import audio
from labsupport.speech.text import Segment, Transcript, render

if TYPE_CHECKING:
    from labsupport.whisper.transcribe import Transcriber

SUFFIXES = {"text": ".txt", "srt": ".srt", "vtt": ".vtt", "tsv": ".tsv", "json": ".json"}
ONE_DOCUMENT = ("srt", "vtt", "tsv")  # two of them one after the other are none
STANDARD_INPUT = "-"
SPOOLED = 64 * 2**20  # bytes of standard input that stay in memory
Voices = list[tuple[int | None, Transcript]]  # a file's transcripts: one, or one for each of its channels


@dataclass(frozen=True)
class Output:
    """How transcripts are given.

    forms: some of `SUFFIXES`; more than one needs a folder.
    folder: gets a file for each input and form; None prints.
    timestamps: write each segment's time before its text.
    """

    forms: Sequence[str] = ("text",)
    folder: Path | None = None
    timestamps: bool = False


@dataclass(frozen=True)
class Input:
    """How files are read. channel: one of them, from 1 on; separate: each on its own; else they are mixed."""

    channel: int | None = None
    separate: bool = False
    limits: audio.Limits = field(default_factory=audio.Limits)


class Watcher(Protocol):
    """Is told what a user may want to see while files are worked on."""

    def fail(self, error: Exception, file: str) -> None:
        """A file failed; the next one follows."""

    def note(self, text: str) -> None:
        """Something to know about the file at work."""

    def progress(self, file: str, done: float, total: float) -> None:
        """So many of a file's seconds are done."""


def transcribe_files(
    files: Sequence[str], load: Callable[[], Transcriber], source: Input, output: Output, watcher: Watcher, **options
) -> list[str]:
    """Transcribes one file after the other; one that fails stops no other. Returns the names of those that failed.

    Args:
        files: paths; "-" is standard input.
        load: gives the transcriber; called once, when the first file could be read.
        options: of `Transcriber.transcribe`.

    Raises:
        TextError: a form is unknown, or does not go with so many files.
        FolderError: the folder cannot be written to, or two inputs would go to one file.
    """
    check_forms(output, len(files))
    writer = FolderWriter(output, files) if output.folder else ScreenWriter(output)
    loaded = Once(load)
    failed = []
    with writer:
        for file in files:
            if len(files) > 1:
                watcher.note(f"{show_name(file)}:")
            try:
                writer.write(file, transcribe_file(file, loaded, source, watcher, options))
            except BrokenPipeError:
                raise  # nobody reads what is printed
            except (LabError, OSError, MemoryError) as error:
                watcher.fail(error, show_name(file))
                failed.append(file)
    return failed


class Once:
    """Calls a function when its result is first needed, and keeps the result."""

    def __init__(self, make: Callable[[], Any]):
        self.make, self.made = make, None

    def __call__(self) -> Any:
        if self.made is None:
            self.made = self.make()
        return self.made


def transcribe_file(file: str, load: Callable[[], Transcriber], source: Input, watcher: Watcher, options) -> Voices:
    """A file's transcript, or one for each channel, with its number."""
    with open_input(file) as sound:
        count = audio.count_channels(sound) if source.separate else 1
        voices: Voices = []
        for channel in range(1, count + 1) if count > 1 else [source.channel]:
            blocks = audio.read_blocks(sound, channel, source.limits)
            first = next(blocks)  # before the model is loaded: perhaps no file can be read
            transcript = load().transcribe(
                itertools.chain([first], blocks),
                on_progress=lambda done, total: watcher.progress(show_name(file), done, total),
                **options,
            )
            if transcript.language_probability is not None:
                watcher.note(f"language: {transcript.language} ({transcript.language_probability:.2f}), detected")
            voices.append((channel if count > 1 else None, transcript))
        return voices


# --- inputs ----------------------------------------------------------------------------------------------------------


class StandardInput(tempfile.SpooledTemporaryFile):
    """What came through the pipe, so that decoders can seek in it."""

    name = "standard input"


@contextlib.contextmanager
def open_input(file: str) -> Iterator[Any]:
    """A path as it is; for "-", standard input. AudioError where that is a terminal."""
    if file != STANDARD_INPUT:
        yield file
        return
    if sys.stdin.isatty():
        hint = "Pipe a sound into it: cat clip.wav | ./lab transcribe -"
        raise AudioError("Standard input is a terminal: there is no sound to read.", hint=hint)
    with StandardInput(max_size=SPOOLED) as stored:
        shutil.copyfileobj(sys.stdin.buffer, stored)
        stored.seek(0)
        yield stored


def show_name(file: str) -> str:
    """A file's name for messages."""
    return StandardInput.name if file == STANDARD_INPUT else printable(file)


# --- outputs ---------------------------------------------------------------------------------------------------------


def parse_forms(given: Sequence[str] | None) -> list[str]:
    """The forms that were asked for, with commas or one after the other; "all" is each of them, nothing is text."""
    named = {"txt": "text"}
    forms = [named.get(form.strip(), form.strip()) for each in given or ["text"] for form in each.split(",")]
    return list(SUFFIXES) if "all" in forms else list(dict.fromkeys(forms))


def check_forms(output: Output, files: int) -> None:
    """Raises TextError if a form is unknown, or would print what is no document."""
    for form in output.forms:
        if form not in SUFFIXES:
            raise TextError(f"There is no output form {form!r}.", hint=f"Known: {', '.join(SUFFIXES)}.")
    if output.folder is None and len(output.forms) > 1:
        raise TextError("Several forms need a folder.", hint="Add --output-dir FOLDER.")
    if output.folder is None and files > 1 and output.forms[0] in ONE_DOCUMENT:
        hint = "Add --output-dir FOLDER: each file then gets its own."
        raise TextError(f"Several files cannot be one {output.forms[0]} document.", hint=hint)


class ScreenWriter:
    """Prints transcripts. JSON is one array, whole even when a file fails or the work is interrupted."""

    def __init__(self, output: Output):
        self.form, self.timestamps, self.written = output.forms[0], output.timestamps, 0

    def __enter__(self) -> None:
        if self.form == "json":
            print("[", end="")

    def __exit__(self, *error: object) -> None:
        if self.form == "json":
            print("\n]", flush=True)

    def write(self, file: str, voices: Voices) -> None:
        if self.form != "json":
            print(format_voices(voices, self.form, self.timestamps), flush=True)
            return
        ascii_only = (sys.stdout.encoding or "ascii").lower() not in ("utf-8", "utf8")
        for document in describe(file, voices):
            print(",\n" if self.written else "\n", write_json(document, ascii_only), sep="", end="", flush=True)
            self.written += 1


class FolderWriter:
    """Writes FOLDER/NAME.SUFFIX for each input and form, each whole or not at all."""

    def __init__(self, output: Output, files: Sequence[str]):
        self.output, self.names = output, choose_names(files)
        folder = Path(output.folder or ".")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            hint = "Give another --output-dir, or change its permissions."
            raise FolderError(f"The folder cannot be written to: {error.strerror}.", where=folder, hint=hint) from error
        self.folder = folder

    def __enter__(self) -> None:
        """Nothing is held open."""

    def __exit__(self, *error: object) -> None:
        """Nothing is held open."""

    def write(self, file: str, voices: Voices) -> None:
        for form in self.output.forms:
            if form == "json":
                documents = describe(file, voices)
                content = write_json(documents[0] if len(documents) == 1 else documents)
            else:
                content = format_voices(voices, form, self.output.timestamps)
            with atomic_write(self.folder / f"{self.names[file]}{SUFFIXES[form]}") as part:
                part.write_text(content.rstrip("\n") + "\n", encoding="utf-8", errors="backslashreplace")


def choose_names(files: Sequence[str]) -> dict[str, str]:
    """For each input the name of its outputs: its own without the ending, or with it, where two would be the same.

    Raises:
        FolderError: two inputs have one name.
    """
    stems = {file: "stdin" if file == STANDARD_INPUT else Path(file).stem for file in files}
    count = Counter(stem.casefold() for stem in stems.values())
    names = {file: stem if count[stem.casefold()] == 1 else Path(file).name for file, stem in stems.items()}
    for name, times in Counter(name.casefold() for name in names.values()).items():
        if times > 1:
            hint = "Rename one of them, or write them to two folders."
            raise FolderError("Two inputs would be written to one file.", where=printable(name), hint=hint)
    return names


def format_voices(voices: Voices, form: str, timestamps: bool) -> str:
    """A file's transcripts in one form; channels are labelled, and their segments are in the order of their times."""
    if len(voices) == 1:
        return format_transcript(voices[0][1], form, timestamps)
    if form == "text" and not timestamps:
        return "\n".join(f"Channel {channel}: {transcript.text.strip()}" for channel, transcript in voices)
    labelled = [
        replace(segment, text=f"Channel {channel}: {segment.text.strip()}", word_timings=())
        for channel, transcript in voices
        for segment in transcript.segments
    ]
    merged = replace(voices[0][1], segments=sorted(labelled, key=lambda segment: segment.start))
    return format_transcript(merged, form, timestamps)


def format_transcript(transcript: Transcript, form: str, timestamps: bool = False) -> str:
    """The transcript as "text" (with `timestamps`: its seconds before each segment), or as `text.render` has it."""
    if form != "text":
        return render(transcript.segments, form)
    if timestamps:
        return "\n".join(f"[{s.start:7.2f} - {s.end:7.2f}]  {s.text.strip()}" for s in transcript.segments)
    return transcript.text.strip()


def describe(file: str, voices: Voices) -> list[dict]:
    """What JSON holds of a file: an object for it, or for each of its channels. Fields are named as by whisper."""
    return [
        {
            "file": StandardInput.name if file == STANDARD_INPUT else file,
            **({} if channel is None else {"channel": channel}),
            "language": transcript.language,
            "language_probability": transcript.language_probability,
            "duration": round(transcript.duration, 3),
            "text": transcript.text.strip(),
            "segments": [describe_segment(i, segment) for i, segment in enumerate(transcript.segments)],
        }
        for channel, transcript in voices
    ]


def describe_segment(number: int, segment: Segment) -> dict:
    quality = ("temperature", "avg_logprob", "compression_ratio", "no_speech_prob")
    fields = {"id": number, "start": segment.start, "end": segment.end, "text": segment.text.strip()}
    fields |= {name: finite(getattr(segment, name)) for name in quality}
    if segment.word_timings:
        fields["words"] = [
            {"word": word.text, "start": word.start, "end": word.end, "probability": finite(word.probability)}
            for word in segment.word_timings
        ]
    return fields


def finite(value: float) -> float | None:
    """JSON has no infinity and no NaN."""
    return round(value, 4) if math.isfinite(value) else None


def write_json(document: object, ascii_only: bool = False) -> str:
    return json.dumps(document, ensure_ascii=ascii_only, indent=2, allow_nan=False)
