"""Where uploads lie while they are worked on: a bounded folder that no process leaves behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import filelock

from labsupport.base.paths import using_folder
from labsupport.serving.problems import Problem

PREFIX = "speech-lab-uploads-"
LOCK = "owner.lock"
MAKING_SECONDS = 60.0  # after which a folder without its lock was left by a process that died in between


class Spool:
    """A folder of this process in the system's temporary one, or another; `clear_stale` first removes dead ones' there.

    A lock says that its owner lives: the system lets go of it however that ends.

    Raises:
        FolderError: the folder cannot be made.
    """

    def __init__(self, most_bytes: int, parent: Path | None = None):
        self.most_bytes, self.bytes = most_bytes, 0
        self.counting = threading.Lock()  # uploads are written by several threads
        self.parent = parent or Path(tempfile.gettempdir())
        with using_folder(self.parent, "TMPDIR"):
            self.parent.mkdir(parents=True, exist_ok=True)
            self.cleared = clear_stale(self.parent)
            self.make_folder()

    def make_folder(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=self.parent))
        self.lock = filelock.FileLock(self.folder / LOCK)
        self.lock.acquire()

    @contextlib.contextmanager
    def open(self) -> Iterator[Upload]:
        """An upload's file, removed at the end of the block. OSError where this machine cannot store it."""
        if not self.folder.is_dir():  # systems clear their temporary folder of what is some days old
            self.lock.release()
            self.make_folder()
        upload = Upload(self, self.folder / uuid.uuid4().hex)
        try:
            yield upload
        finally:
            upload.remove()

    def reserve(self, count: int) -> None:
        """Raises Problem where the uploads that are stored leave no room for so many bytes."""
        with self.counting:
            if self.bytes + count > self.most_bytes:
                what = "The uploads of others fill the space for them."
                raise Problem(429, what, code="spool_full", retry_after=5)
            self.bytes += count

    def release(self, count: int) -> None:
        with self.counting:
            self.bytes -= count

    def close(self) -> None:
        self.lock.release()
        shutil.rmtree(self.folder, ignore_errors=True)


class Upload:
    """A file of the spool, opened for writing from the start."""

    def __init__(self, spool: Spool, path: Path):
        self.spool, self.path, self.bytes = spool, path, 0
        self.file: BinaryIO = open(path, "xb", opener=open_private)  # noqa: SIM115

    def write(self, data: bytes) -> None:
        self.spool.reserve(len(data))
        self.bytes += len(data)
        self.file.write(data)

    def finish(self) -> None:
        self.file.close()

    def remove(self) -> None:
        with contextlib.suppress(OSError):  # a full disk: what was not yet written is of no use
            self.file.close()
        self.path.unlink(missing_ok=True)
        self.spool.release(self.bytes)
        self.bytes = 0


def open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def clear_stale(parent: Path) -> int:
    """Removes the spools whose owners are dead; gives their number."""
    dead = [folder for folder in parent.glob(f"{PREFIX}*") if is_dead(folder)]
    for folder in dead:
        shutil.rmtree(folder, ignore_errors=True)
    return len(dead)


def is_dead(folder: Path) -> bool:
    """Whether this user's spool has a lock that nobody holds; or none at all, and it is not just being made."""
    try:
        state = folder.lstat()
        if not stat.S_ISDIR(state.st_mode) or (hasattr(os, "getuid") and state.st_uid != os.getuid()):
            return False
        if not (folder / LOCK).is_file():
            return time.time() - state.st_mtime > MAKING_SECONDS
        with filelock.FileLock(folder / LOCK, timeout=0):
            return True
    except (filelock.Timeout, OSError):
        return False
