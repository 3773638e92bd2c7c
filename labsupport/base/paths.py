"""Where things lie: the repository, the cache of converted weights, and a learner's own results."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from labsupport.base.errors import FolderError, NotAvailable

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"
PAGE = "[0-9][0-9]*_*"  # how the file of a page is called: 03_name, or 00b_name where it came between two others
DATA = ROOT / "data"
AUDIO = DATA / "audio"
FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}  # Windows may have no quotas


def cache_dir() -> Path:
    """The folder for what can be made again (converted weights, measured limits): `LAB_CACHE`, else the platform's.

    FolderError where there is no such place; as for `lab_dir`.
    """
    return chosen_folder("LAB_CACHE", user_cache)


def lab_dir() -> Path:
    """The folder for what belongs to this learner (results, runs, progress): `LAB_HOME`, else `.lab` in the repo."""
    return chosen_folder("LAB_HOME", lambda: ROOT / ".lab")


def user_cache() -> Path:
    import platformdirs

    return Path(platformdirs.user_cache_dir("speech-inference-lab", appauthor=False))


def chosen_folder(variable: str, default: Callable[[], Path]) -> Path:
    """The folder that this environment variable names, else the default one; as an absolute path.

    Raises:
        FolderError: it is relative to a home or a working folder that this process does not have.
    """
    asked = Path(os.environ.get(variable) or default())
    try:
        folder = asked.expanduser()
        if folder.parts[:1] == ("~",):  # platformdirs leaves it so where there is no HOME
            raise RuntimeError("there is no home folder")
        return folder.resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError: no home, or links in a circle
        hint = f"Set {variable} to the full path of a folder that you may write to."
        raise FolderError(f"There is no such folder: {error}.", where=asked, hint=hint) from error


def is_checkout() -> bool:
    """Whether the course's repository is around the package."""
    return NOTEBOOKS.is_dir()


def require_checkout(what: str) -> None:
    """For what needs more than the package, such as the notebooks or the lock.

    Raises:
        NotAvailable: `labsupport` was installed as a package, and the repository's folder is not around it.
    """
    if not is_checkout():
        hint = "Clone or unpack the course's repository, and call `./lab` there."
        raise NotAvailable(f"{what} is in the course's repository; this is its package alone.", hint=hint)


@contextlib.contextmanager
def using_folder(folder: Path, variable: str) -> Iterator[None]:
    """Inside the block the system's refusal (full, read-only, not to be read, a file in the way) becomes a FolderError.

    Args:
        variable: the one that names another place, for the hint.
    """
    try:
        yield
    except OSError as error:
        what = f"The folder cannot be used: {error.strerror or error}."
        raise FolderError(what, where=error.filename or folder, hint=how_to_mend(error, variable)) from error


def how_to_mend(error: OSError, variable: str, room: str = "some space") -> str:
    """The hint where a folder cannot be written: to free `room` helps only where the disk is full."""
    if error.errno in FULL:
        return f"Free {room} there, or set {variable} to a folder that you may write to."
    return f"Set {variable} to a folder that you may write to."


def read_toml(path: Path) -> dict:
    """A TOML file's contents. Raises ValueError (TOMLDecodeError) where it is none."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    return tomllib.loads(path.read_text(encoding="utf-8"))


@contextlib.contextmanager
def atomic_write(target: Path) -> Iterator[Path]:
    """Yields a temporary path beside `target` (its folder is made); renames it over `target` only if no error came.

    A process that dies half-way leaves `target` as it was. So does a power cut, for the new file is on the disk before
    it has the name; the folder is not waited for, so that the old file may come back whole. That takes some 10 ms.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = part_path(target)
    try:
        yield part
        sync(part)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk. Windows does that for folders by itself."""
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def part_path(target: Path) -> Path:
    """Where `atomic_write` writes meanwhile: a name that most file systems take, however long the target's own is."""
    return target.with_name(f".{target.name[-50:]}.{os.getpid()}.part")
