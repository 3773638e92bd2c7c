"""What a corpus consists of: the sound files of a folder, or those that a table lists, with their reference texts."""

from __future__ import annotations

import csv
import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from labsupport.base import json_lines
from labsupport.base.errors import ScalingError, printable

TABLES = (".csv", ".jsonl", ".parquet")
PATH_COLUMN = "path"
REFERENCE_COLUMNS = ("reference", "text")  # the first one that a table has
NO_SOUND = re.compile(
    r"\.(cfg|csv|gz|html?|ini|ipynb|jpe?g|jsonl?|lock|log|lrc|md|parquet|part|pdf|png|py|rst|sh|srt|sub|tar|textgrid"
    r"|toml|tsv|txt|vtt|xml|ya?ml|zip)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Item:
    """A file of the corpus.

    path: as the results name it: inside the folder, or as the table has it.
    file: where it is, absolute.
    reference: what is said, where that is known.
    """

    path: str
    file: str
    reference: str | None = None


@dataclass(frozen=True)
class Corpus:
    """The files in order, each once; and what else was found: `notes` for the user."""

    items: list[Item]
    notes: list[str]


def find_corpus(source: str | os.PathLike) -> Corpus:
    """The corpus that a folder, or a csv, jsonl or parquet table with a column "path", stands for.

    A folder is searched to any depth; hidden files, and those whose ending says that they hold no sound, are left out.
    A link that leads nowhere is a file that cannot be read. A table's paths are relative to its own folder; a column
    "reference" (or "text") holds what is said.

    Raises:
        ScalingError: there is no such folder or table, it is damaged, lists no file, or names one twice with two texts.
    """
    place = Path(source)
    if place.is_dir():
        corpus = search_folder(place)
    elif place.suffix.lower() in TABLES and place.is_file():
        corpus = read_table(place)
    else:
        what = "There is no such folder or table." if not place.exists() else "This is neither a folder nor a table."
        raise ScalingError(what, where=place, hint=f"Give a folder, or a table: {', '.join(TABLES)}.")
    if not corpus.items:
        hint = "Files are told by their endings." if place.is_dir() else "The table has no rows."
        raise ScalingError("No sound file was found.", where=place, hint=hint)
    return corpus


def search_folder(folder: Path) -> Corpus:
    """Every file under the folder that may hold sound, by name; links to folders are not followed."""
    items, left_out, special, notes = list[Item](), 0, 0, list[str]()

    def note_closed(error: OSError) -> None:
        notes.append(f"{printable(error.filename)} cannot be looked into: {error.strerror}.")

    for place, folders, names in os.walk(folder, onerror=note_closed):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(name for name in names if not name.startswith(".")):
            file = Path(place, name)
            if NO_SOUND.fullmatch(file.suffix):
                left_out += 1
            elif is_special(file):
                special += 1
            else:
                items.append(Item(file.relative_to(folder).as_posix(), os.path.abspath(file)))
    if left_out:
        notes.append(f"Left out, for their endings say that they are no sound: {left_out}.")
    if special:
        notes.append(f"Left out, for they are pipes, sockets or devices: {special}.")
    return Corpus(items, notes)


def is_special(file: Path) -> bool:
    """Whether it is there and no regular file. A link that leads nowhere, or in a circle, is not there."""
    try:
        return not stat.S_ISREG(file.stat().st_mode)
    except OSError:
        return False


def read_table(table: Path) -> Corpus:
    """The files that a table lists, each once."""
    readers = {".csv": read_csv, ".jsonl": read_jsonl, ".parquet": read_parquet}
    try:
        rows = list(readers[table.suffix.lower()](table))
    except (OSError, ValueError, csv.Error) as error:  # pyarrow's errors are both
        hint = "Save it as UTF-8." if isinstance(error, UnicodeError) else None
        raise ScalingError(f"The table cannot be read: {error}.", where=table, hint=hint) from error
    items: dict[str, Item] = {}
    for number, row in enumerate(rows, 1):
        item = make_item(row, table, number)
        if (known := items.setdefault(item.path, item)) != item:
            where = f"{printable(table)}, row {number}"
            raise ScalingError("The table names a file twice, with two texts.", where=where, hint=printable(known.path))
    doubled = len(rows) - len(items)
    return Corpus(list(items.values()), [f"Rows that name a file once more: {doubled}."] if doubled else [])


def make_item(row: dict, table: Path, number: int) -> Item:
    """The file of a table's row; ScalingError where it names none."""
    path, where = row.get(PATH_COLUMN), f"{printable(table)}, row {number}"
    if PATH_COLUMN not in row:
        names = printable(", ".join(map(str, row)))
        raise ScalingError(f'The table has no column "{PATH_COLUMN}".', where=where, hint=f"It has: {names}.")
    if not isinstance(path, str) or not path.strip():
        raise ScalingError("A row names no file.", where=where, hint=f'"{PATH_COLUMN}" needs text in each row.')
    texts = [row[name] for name in REFERENCE_COLUMNS if name in row]
    reference = texts[0] if texts and isinstance(texts[0], str) and texts[0].strip() else None
    return Item(path, os.path.abspath(table.parent / path), reference)


def read_csv(table: Path) -> Iterable[dict]:
    """Raises ValueError for a row of more fields than the header: a text with a comma in it would lose its rest."""
    with table.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        for row in reader:
            if None in row:
                raise ValueError(f'line {reader.line_num} has more fields than the header; a comma needs "quotes"')
            yield row


def read_jsonl(table: Path) -> Iterable[dict]:
    """Raises ValueError for a line that is no object: it may have named a file."""
    rows, odd = json_lines.read(table, dict)
    if odd:
        raise ValueError(f"{odd[0]}")
    return rows


def read_parquet(table: Path) -> Iterable[dict]:
    import pyarrow.parquet

    file = pyarrow.parquet.ParquetFile(table)
    names = file.schema_arrow.names
    columns = [name for name in (PATH_COLUMN, *REFERENCE_COLUMNS) if name in names]
    return file.read(columns if PATH_COLUMN in names else names).to_pylist()
