"""What is transcribed of a recording so far, window by window: a killed process goes on after the last whole one."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import filelock

from labsupport.base import json_lines
from labsupport.base.errors import FolderError
from labsupport.base.paths import atomic_write, lab_dir, using_folder
from labsupport.speech.text import Segment, Word

VARIABLE = "LAB_HOME"
PIECE = 1 << 20  # bytes that are hashed at once


@dataclass(frozen=True)
class Checkpoint:
    """Where the work goes on: at which frame along the speech, and with which tokens as the text before it."""

    seek: int
    previous: list[int]


@dataclass
class Journal:
    """The segments so far, in seconds along the speech, and where the work goes on (None: at the beginning).

    With a path, each window is on the disk before the next one is decoded.
    """

    path: Path | None = None
    spoken: list[Segment] = field(default_factory=list)
    at: Checkpoint | None = None
    windows: int = 0

    def add(self, segments: Sequence[Segment], at: Checkpoint | None) -> None:
        """One window more; at: None where the work cannot go on after it, as in the midst of a batch."""
        self.spoken += segments
        self.windows += 1
        self.at = at or self.at
        if self.path is not None:
            json_lines.append(self.path, describe_window(segments, at), VARIABLE)


def describe_window(segments: Sequence[Segment], at: Checkpoint | None) -> dict:
    """What a line of the journal holds."""
    return {
        "segments": [dataclasses.asdict(segment) for segment in segments],
        "at": None if at is None else dataclasses.asdict(at),
    }


def parse_window(line: dict) -> tuple[list[Segment], Checkpoint | None]:
    """The inverse of `describe_window`; TypeError or ValueError where the line is none of its lines."""
    try:
        segments = [
            Segment(**{**entry, "word_timings": tuple(Word(**word) for word in entry["word_timings"])})
            for entry in line["segments"]
        ]
        return segments, None if line["at"] is None else Checkpoint(**line["at"])
    except KeyError as error:
        raise ValueError(f"it has no {error}") from None


class StoredJournal:
    """A recording's journal on the disk, inside a `with` for one process at a time.

    Args:
        file: the input's name; channel: of it, None for the mix.
        identity: what must be the same for the work to go on: the file's content, the model, the options, the version.

    Attributes:
        journal: what is done already.
        note: what a user should know of that; "" where nothing is there.
    """

    def __init__(self, file: str, channel: int | None, identity: dict):
        self.path = choose_path(file, channel)
        self.identity = json.loads(json.dumps(identity))  # as it comes back: tuples are lists
        self.lock = filelock.FileLock(self.path.with_suffix(".busy"))
        self.journal, self.note = Journal(self.path), ""

    def __enter__(self) -> StoredJournal:
        with using_folder(self.path.parent, VARIABLE):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self.lock.acquire(timeout=0)
            except filelock.Timeout:
                hint = "Wait for it, or leave --resume out."
                raise FolderError("Another process is at this file's journal.", where=self.path, hint=hint) from None
            self.read()
        return self

    def __exit__(self, *error: object) -> None:
        self.lock.release()

    def read(self) -> None:
        """Takes what an earlier call stored; sets it aside where it is another file's, or was made otherwise."""
        lines, odd = json_lines.read(self.path, dict)
        if lines or odd:
            differing = find_differences(lines[0].get("identity") if lines else None, self.identity)
            if not differing:
                return self.take(lines[1:])
            aside = self.path.with_suffix(".old.jsonl")
            self.path.replace(aside)
            reason = f"it differs in {', '.join(differing)}"
            self.note = f"An earlier call's journal does not go with this one: {reason}. It is set aside: {aside}"
        return json_lines.append(self.path, {"identity": self.identity}, VARIABLE)

    def take(self, lines: Sequence[dict]) -> None:
        """Takes whole windows, up to the last after which the work can go on, and cuts off what follows."""
        windows, end = [], 0
        for line in lines:
            try:
                windows.append(parse_window(line))
            except (TypeError, ValueError):
                break
            end = end if windows[-1][1] is None else len(windows)
        self.journal.path = None  # they are stored already
        for segments, at in windows[:end]:
            self.journal.add(segments, at)
        self.journal.path = self.path
        with atomic_write(self.path) as part:
            kept = [{"identity": self.identity}, *lines[:end]]
            part.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept), encoding="utf-8")
        self.note = f"resumed: {end} windows are transcribed already" if end else ""

    def remove(self) -> None:
        """When the output is written. What was set aside stays."""
        names = [self.path.name, f".{self.path.name}.lock"]
        if os.name != "nt":  # there nothing that is open can be removed, and a lock goes by itself
            names.append(self.path.with_suffix(".busy").name)
        with using_folder(self.path.parent, VARIABLE):
            for name in names:
                self.path.with_name(name).unlink(missing_ok=True)


def choose_path(file: str, channel: int | None) -> Path:
    """Under `LAB_HOME`, by the input's full path and its channel."""
    place = hashlib.sha256(f"{Path(file).absolute()}\0{channel}".encode("utf-8", "surrogateescape")).hexdigest()
    return lab_dir() / "transcribe" / f"{place[:32]}.jsonl"


def find_differences(found: Any, wanted: dict) -> list[str]:
    """The names of what is not the same; ["everything"] where the journal does not say what it is of."""
    if not isinstance(found, dict):
        return ["everything"]
    return [name for name in {**wanted, **found} if found.get(name, ...) != wanted.get(name, ...)]


def hash_content(sound: str | BinaryIO) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal; a file that is open is then at its beginning."""
    if isinstance(sound, str):
        with open(sound, "rb") as file:
            return hash_content(file)
    digest = hashlib.sha256()
    sound.seek(0)
    while piece := sound.read(PIECE):
        digest.update(piece)
    sound.seek(0)
    return digest.hexdigest()
