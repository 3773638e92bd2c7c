"""Where transcripts go: printed, or written to a folder, a file for each input and form."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from labsupport.base.errors import FolderError, TextError, printable
from labsupport.base.paths import atomic_write, part_path
from labsupport.base.streams import discard
from labsupport.speech.transcripts import SUFFIXES, Voices, describe, merge_channels, render, render_lines, write_json

STANDARD_INPUT = "-"
STANDARD_INPUT_NAME = "standard input"
ONE_DOCUMENT = ("srt", "vtt", "tsv")  # two of them one after the other are none
NAMES = 5  # that a message lists


class ScreenError(FolderError):
    """Standard output takes nothing: it is closed, or a full disk."""


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

    @classmethod
    def parse(cls, given: Sequence[str] | None, folder: str | None, timestamps: bool) -> Output:
        """Forms as a user gives them, one after the other or with commas; "all" is each of them.

        Where none is given: all for a folder, as whisper does it, else text. Raises FolderError if the folder has no
        name.
        """
        if folder is not None and not folder.strip():
            raise FolderError("The folder for the output has no name.", hint="Give --output-dir FOLDER.")
        named = [form.strip() for each in given or ["all" if folder else "text"] for form in each.split(",")]
        forms = ["text" if form == "txt" else form for form in named]
        known = list(SUFFIXES) if "all" in forms else list(dict.fromkeys(forms))
        return cls(known, Path(folder) if folder else None, timestamps)


class Writer(Protocol):
    """Takes the transcripts of one file after the other, inside a `with`."""

    def __enter__(self) -> Writer:
        """Begins the output."""

    def __exit__(self, *error: object) -> None:
        """Ends it; also after an error."""

    def check(self, file: str) -> None:
        """Raises FolderError or OSError where the file's output could not be written after the work."""

    def write(self, file: str, voices: Voices) -> list[str]:
        """Writes a file's transcripts; returns the paths that it made."""


def open_writer(output: Output, files: Sequence[str]) -> Writer:
    """What takes the transcripts of these files.

    Raises:
        TextError: a form is unknown, or does not go with so many files.
        FolderError: the folder cannot be written to, two inputs would go to one file, or a file over its own input.
    """
    check_forms(output, files)
    return FolderWriter(output.folder, output, files) if output.folder else ScreenWriter(output)


def check_forms(output: Output, files: Sequence[str]) -> None:
    """Raises TextError if a form is unknown, or would print what is no document; then an empty one is printed."""
    for form in output.forms:
        if form not in SUFFIXES:
            raise TextError(f"There is no output form {form!r}.", hint=f"Known: {', '.join(SUFFIXES)}, all.")
    if output.folder is None and len(output.forms) > 1:
        raise TextError("Several forms need a folder.", hint="Add --output-dir FOLDER.")
    if output.folder is None and len(files) > 1 and output.forms[0] in ONE_DOCUMENT:
        write_out(render([], output.forms[0]))  # who reads the pipe gets an empty document, not a broken one
        hint = "Add --output-dir FOLDER: each file then gets its own."
        raise TextError(f"Several files cannot be one {output.forms[0]} document.", where=show_names(files), hint=hint)


def show_name(file: str) -> str:
    """A file's name for messages."""
    return STANDARD_INPUT_NAME if file == STANDARD_INPUT else printable(file)


def show_names(files: Sequence[str]) -> str:
    """The names of many files for messages."""
    return join_first([show_name(file) for file in files], ", ")


def join_first(texts: Sequence[str], between: str) -> str:
    """The first ones, and how many more there are."""
    more = [f"and {len(texts) - NAMES} more"] if len(texts) > NAMES else []
    return between.join([*texts[:NAMES], *more])


def source_name(file: str) -> str:
    """A file's name in JSON: as it was given."""
    return STANDARD_INPUT_NAME if file == STANDARD_INPUT else file


# --- printing --------------------------------------------------------------------------------------------------------


class ScreenWriter:
    """Prints transcripts. JSON is one array, whole even when a file fails or the work is interrupted."""

    def __init__(self, output: Output):
        if sys.stdout is None:
            raise ScreenError("Standard output is closed.", hint="Add --output-dir FOLDER.")
        self.form, self.timestamps, self.documents = output.forms[0], output.timestamps, 0

    def __enter__(self) -> ScreenWriter:
        if self.form == "json":
            write_out("[")
        return self

    def __exit__(self, *error: object) -> None:
        if self.form == "json":
            write_out("\n]\n")

    def check(self, file: str) -> None:
        """What is printed cannot fail because of a name."""

    def write(self, file: str, voices: Voices) -> list[str]:
        """Prints a file's transcripts; returns no paths."""
        if self.form == "json":
            self.write_documents(describe(source_name(file), voices))
        elif self.form == "text" and not self.timestamps:
            write_out(render_lines(voices))
        else:
            write_out(render(merge_channels(voices), self.form, self.timestamps))
        return []

    def write_documents(self, documents: list[dict]) -> None:
        ascii_only = not (sys.stdout.encoding or "").lower().startswith("utf")
        for document in documents:
            write_out((",\n" if self.documents else "\n") + write_json(document, ascii_only))
            self.documents += 1


def write_out(text: str) -> None:
    """Prints at once. ScreenError where that fails; BrokenPipeError where the reader has gone, which is no fault.

    After either, nothing more is printed.
    """
    try:
        print(text, end="", flush=True)
    except BrokenPipeError:
        discard("stdout")
        raise
    except OSError as error:
        discard("stdout")
        what = f"Standard output cannot be written to: {error.strerror}."
        raise ScreenError(what, hint="Make room on the disk, or give another file.") from error


# --- folders ---------------------------------------------------------------------------------------------------------


class FolderWriter:
    """Writes FOLDER/NAME.SUFFIX for each input and form, each whole or not at all."""

    def __init__(self, folder: Path, output: Output, files: Sequence[str]):
        self.folder, self.forms, self.timestamps = folder, output.forms, output.timestamps
        self.names = choose_names(files)
        check_folder(folder)
        check_inputs([target for file in self.names for target in self.targets(file)], files)

    def __enter__(self) -> FolderWriter:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing is held open."""

    def targets(self, file: str) -> list[Path]:
        return [self.folder / f"{self.names[file]}{SUFFIXES[form]}" for form in self.forms]

    def check(self, file: str) -> None:
        """Raises FolderError or OSError where an output could not be written after the work."""
        for target in self.targets(file):
            check_length(target)
            if target.is_dir():
                raise FolderError("A folder has the name of the output.", where=target, hint="Rename it.")

    def write(self, file: str, voices: Voices) -> list[str]:
        """Writes a file's transcripts; returns the paths."""
        contents = [self.render(file, voices, form) for form in self.forms]
        for target, content in zip(self.targets(file), contents, strict=True):
            with atomic_write(target) as part:
                part.write_bytes(content.encode("utf-8", "backslashreplace"))
        return [str(target) for target in self.targets(file)]

    def render(self, file: str, voices: Voices, form: str) -> str:
        if form != "json":
            return render(merge_channels(voices), form, self.timestamps)
        documents = describe(source_name(file), voices)
        return write_json(documents[0] if voices[0][0] is None else documents) + "\n"


def choose_names(files: Sequence[str]) -> dict[str, str]:
    """For each input the name of its outputs: its own without the ending, or with it, where two would be the same.

    Raises:
        FolderError: several inputs have one name.
    """
    stems = {file: "stdin" if file == STANDARD_INPUT else Path(file).stem for file in files}
    count = Counter(fold(stem) for stem in stems.values())
    names = {file: stem if count[fold(stem)] == 1 else Path(file).name for file, stem in stems.items()}
    inputs: dict[str, list[str]] = {}
    for file, name in names.items():
        inputs.setdefault(fold(name), []).append(file)
    if clashes := [show_names(same) for same in inputs.values() if len(same) > 1]:
        hint = "Rename all of them but one, or write each to a folder of its own."
        raise FolderError("Several inputs would be written to one file.", where=join_first(clashes, "; "), hint=hint)
    return names


def fold(name: str) -> str:
    """Equal for names that some file systems take for one: they differ in case, or in how an accent is stored."""
    return unicodedata.normalize("NFC", name).casefold()


def check_folder(folder: Path) -> None:
    """Makes the folder; FolderError if it cannot be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        what = "This is a file, not a folder." if folder.is_file() else f"It cannot be written to: {error.strerror}."
        hint = "Give another --output-dir, or change its permissions."
        raise FolderError(what, where=folder, hint=hint) from error


def check_length(target: Path) -> None:
    """Raises FolderError if the file system takes no name as long as the target's, or as its temporary one."""
    for path in (target, part_path(target)):
        try:
            path.lstat()
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            name, whole = len(os.fsencode(path.name)), len(os.fsencode(path))
            what = f"The output's name has {name} bytes, its path {whole}: that is too long for the file system."
            hint = "Rename the input: most systems take 255 bytes for a name; an accent has 2, an ideograph 3."
            raise FolderError(what, where=target, hint=hint) from error


def check_inputs(targets: Sequence[Path], files: Sequence[str]) -> None:
    """Raises FolderError if a target is one of the input files."""
    inputs = {identify(file) for file in files} - {None}
    for target in targets:
        if identify(target) in inputs:
            hint = "Give another --output-dir."
            raise FolderError("The output would be written over an input.", where=target, hint=hint)


def identify(path: str | Path) -> tuple[int, int] | None:
    """The same for two names of one file; None where there is none."""
    if not os.path.exists(path):
        return None
    status = os.stat(path)
    return status.st_dev, status.st_ino
