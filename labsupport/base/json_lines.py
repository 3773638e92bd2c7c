"""Files of JSON lines, one object each: whole lines are written, and a reader names what is none.

A full disk or a killed process may leave a torn last line. It is cut off before the next line is added.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

from labsupport.base.errors import LabError, printable
from labsupport.base.paths import using_folder

LONGEST = 1 << 20  # bytes of a line; a longer one is none of ours
BLOCK = 1 << 16
LONGEST_NOTE = 1000  # characters about one line
log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class OddLine:
    """A line, or a whole file or folder, that was left out: where, and why."""

    where: str
    why: str

    def __str__(self) -> str:
        return printable(f"{self.where}: {self.why}")[:LONGEST_NOTE]


# --- writing ----------------------------------------------------------------------------------------------------------


def append(path: Path, content: dict, variable: str) -> None:
    """Adds the object as one whole line, or nothing; processes may append to the same file at once.

    The line is on the disk when this returns, which takes some 5 ms: a power cut loses none.

    Args:
        variable: the one that names another folder, for the error's hint.

    Raises:
        FolderError: the folder is full or read-only, or a file is in its place.
    """
    line = json.dumps(content, ensure_ascii=False).encode() + b"\n"
    with open_whole(path, variable) as file:
        add_whole(file, line)
        os.fsync(file.fileno())


@contextlib.contextmanager
def open_whole(path: Path, variable: str) -> Iterator[BinaryIO]:
    """The file (and its folder, if need be), for one process at a time, with nothing torn at its end; as `append`."""
    import filelock

    with using_folder(path.parent, variable):
        path.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(path.with_name(f".{path.name}.lock")), open(path, "a+b", buffering=0) as file:
            mend_end(file, path)
            yield file


def mend_end(file: BinaryIO, path: Path) -> None:
    """Cuts off a torn last line; one that lacks its newline alone is whole, and gets it."""
    end = file.seek(0, os.SEEK_END)
    tail = read_tail(file, end)
    if not tail:
        return
    if is_object(tail):
        add_whole(file, b"\n")
        return
    log.warning("%s: its last line was torn (%d bytes) and is cut off.", path, len(tail))
    file.truncate(end - len(tail))


def read_tail(file: BinaryIO, end: int) -> bytes:
    """What stands after the last newline."""
    tail = b""
    while end > len(tail) and b"\n" not in tail:
        start = max(0, end - len(tail) - BLOCK)
        file.seek(start)
        tail = file.read(end - len(tail) - start) + tail
    return tail[tail.rfind(b"\n") + 1 :]


def is_object(line: bytes) -> bool:
    try:
        return isinstance(parse_object(line), dict)
    except ValueError:
        return False


def add_whole(file: BinaryIO, data: bytes) -> None:
    """Writes all the bytes, or leaves the file as it was and raises the OSError."""
    end = file.seek(0, os.SEEK_END)
    written = 0
    try:
        while written < len(data):  # a disk that is nearly full takes a part, and refuses the rest
            written += file.write(data[written:])
    finally:
        if written < len(data):
            file.truncate(end)


# --- reading ----------------------------------------------------------------------------------------------------------


def read(path: Path, parse: Callable[[dict], T]) -> tuple[list[T], list[OddLine]]:
    """What `parse` makes of each line, and the lines that are no object or for which it raises; none without a file."""
    found: list[T] = []
    odd: list[OddLine] = []
    number = 0
    try:
        for number, line in enumerate(lines_of(path), 1):
            try:
                found.append(parse(parse_object(line)))
            except (LabError, ValueError, TypeError, ArithmeticError) as error:
                odd.append(OddLine(f"{path}, line {number}", describe(error)))
    except FileNotFoundError:
        pass
    except OSError as error:
        odd.append(OddLine(str(path), f"it cannot be read: {error.strerror}"))
    return found, odd


def find_files(folder: Path) -> tuple[list[Path], list[OddLine]]:
    """Every .jsonl file under a folder, in order; and what has such a name but is no file, or cannot be looked into."""
    files: list[Path] = []
    odd: list[OddLine] = []

    def note(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            odd.append(OddLine(str(error.filename), f"it cannot be read: {error.strerror}"))

    for place, folders, names in os.walk(folder, onerror=note):
        for path in (Path(place, name) for name in [*folders, *names] if name.endswith(".jsonl")):
            if path.is_file():
                files.append(path)
            else:  # a pipe would make the reader wait for ever
                odd.append(OddLine(str(path), "it is no file"))
    return sorted(files), odd


def lines_of(path: Path) -> Iterator[bytes]:
    """The lines without their newline; of one that is too long only the beginning, which is no object."""
    with open(path, "rb") as file:
        first = True
        while line := file.readline(LONGEST):
            yield line.removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n") if first else line.rstrip(b"\r\n")
            first = False
            while len(line) == LONGEST and not line.endswith(b"\n"):
                line = file.readline(LONGEST)


def parse_object(line: bytes) -> dict:
    """Raises ValueError where the line is no JSON object in UTF-8."""
    try:
        content = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is torn or no JSON ({error.msg})" if line else "it is empty") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(content, dict):
        raise ValueError("it is no JSON object")
    return content


def describe(error: Exception) -> str:
    return (
        f"{error.what} ({error.where!r:.60})" if isinstance(error, LabError) and error.where is not None else str(error)
    )


def name_odd(odd: Sequence[OddLine], what: str, most: int = 5) -> None:
    """One warning that counts and names the lines that were left out, the first ones each."""
    if odd:
        named = "".join(f"\n  {line}" for line in odd[:most])
        more = f"\n  and {len(odd) - most} more" if len(odd) > most else ""
        log.warning("Left out, for it is no %s: %d.%s%s", what, len(odd), named, more)
