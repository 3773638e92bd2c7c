"""Folders that cost minutes to make: made once, under the hash of what they are made from."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

MANIFEST = "manifest.json"


def hash_of(parts: Iterable[bytes | str]) -> str:
    """16 hexadecimal digits that stand for these parts, in this order."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()[:16]


def make_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """`folder`, filled by `make` unless it is there and whole.

    `make` works in a temporary folder beside it, which takes the name when it is done: whoever is killed half-way
    leaves nothing that looks finished. A folder whose files are not those that were made is made again.
    """
    from filelock import FileLock

    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if is_whole(folder):
            return folder
        for leftover in [folder, *folder.parent.glob(f".{folder.name}.*.part")]:
            shutil.rmtree(leftover, ignore_errors=True)
        part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
        try:
            make(part)
            write_manifest(part)
            part.rename(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return folder


def write_manifest(folder: Path) -> None:
    """Notes every file's size, so that a truncated or missing one is noticed."""
    sizes = {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    (folder / MANIFEST).write_text(json.dumps(sizes, indent=1), encoding="utf-8")


def is_whole(folder: Path) -> bool:
    """Whether the folder holds the files of its manifest, in their sizes."""
    try:
        sizes = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False
