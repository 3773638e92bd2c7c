"""Folders of the cache that are made once: by one process, under a temporary name first, checked by hash ever after.

Such a folder holds a manifest.json with the hash of every other file in it. A manifest in another form, as an older or
a newer version of the lab may have left, counts as damage.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from labsupport.base.errors import FolderError
from labsupport.base.paths import how_to_mend
from labsupport.base.records import read_json

LOCK_SECONDS = 600  # how long another process may be making it
log = logging.getLogger(__name__)


def cached_folder(
    folder: Path, what: str, megabytes: int, write: Callable[[Path], None], expected: dict[str, str] | None = None
) -> Path:
    """Gives a folder that is whole: as it is if it is sound, else made now; FolderError where it cannot be written.

    Args:
        what, megabytes: what it holds and about how much room that takes, for messages.
        write: fills the empty folder that it is given.
        expected: hashes that are known beforehand, by file name; a folder with others is made again.
    """
    if find_damage(folder, expected) is None:
        return folder
    import filelock

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder.with_name(f"{folder.name}.lock"), timeout=LOCK_SECONDS):
            if damage := find_damage(folder, expected):  # another process may have made it meanwhile
                if folder.exists():
                    log.warning("The cached %s is damaged (%s); it is made again.", what, damage)
                replace_folder(folder, write)
    except filelock.Timeout as error:
        minutes = LOCK_SECONDS // 60
        what = f"Another process has been making the {what} for {minutes} minutes."
        raise FolderError(what, where=folder, hint="Wait until it is done, or end it.") from error
    except OSError as error:
        hint = how_to_mend(error, "LAB_CACHE", f"{megabytes} MB")
        raise FolderError(f"The {what} cannot be stored: {error}.", where=folder.parent, hint=hint) from error
    return folder


def find_damage(folder: Path, expected: dict[str, str] | None = None) -> str | None:
    """What is wrong with a cached folder, or None."""
    try:
        manifest = read_manifest(folder)
        if any(manifest.get(file) != sha256 for file, sha256 in (expected or {}).items()):
            return "it was made from other weights"
        if unlisted := sorted({path.name for path in folder.glob("[!.]*")} - {*manifest, "manifest.json"}):
            return f"{unlisted[0]} is not in its manifest"
        for file, sha256 in manifest.items():
            state = (folder / file).stat()
            if recall_hash(folder / file, (state.st_size, state.st_mtime_ns)) != sha256:
                return f"{file} has changed"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError) as error:
        return f"it cannot be read: {error}"
    return None


def read_manifest(folder: Path) -> dict[str, str]:
    """File name -> hash. Raises OSError, or ValueError where it names no files of this folder."""
    manifest = read_json(folder / "manifest.json")
    if not isinstance(manifest, dict) or not manifest:
        raise ValueError("its manifest is of another form")
    for file, sha256 in manifest.items():
        if not isinstance(sha256, str) or Path(file).name != file or "\\" in file:
            raise ValueError(f"its manifest is of another form: {file!r:.60}")
    return manifest


@functools.lru_cache(maxsize=64)
def recall_hash(path: Path, state: tuple[int, int]) -> str:
    """sha256 of a file; computed once in a process for each `state` (size, time of the last change) of it."""
    return hash_file(path)


def hash_file(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def hash_files(paths: Iterable[Path]) -> str:
    """One hash of the content of all of them, in this order."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


def remove_outdated(folder: Path, beginning: str) -> None:
    """Removes the cached folders in it whose names begin otherwise: other code has made them, and each change of code
    would fill the disk further.
    """
    for old in folder.iterdir():
        if old.is_dir() and old.suffix != ".part" and not old.name.startswith(beginning):
            shutil.rmtree(old)


def replace_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Builds the folder under a temporary name, then puts it in place; a process that dies leaves nothing half-done."""
    for abandoned in folder.parent.glob(f"{folder.name}.*.part"):  # the lock is ours: nobody is writing there
        shutil.rmtree(abandoned)
    part = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    part.mkdir()
    try:
        write(part)
        manifest = {path.name: hash_file(path) for path in sorted(part.iterdir())}
        (part / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        if folder.is_dir() and not folder.is_symlink():
            shutil.rmtree(folder)
        else:
            folder.unlink(missing_ok=True)  # a file, or a link, has its name
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
