"""Where things lie: the repository, the cache of converted weights, and a learner's own results."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"
DATA = ROOT / "data"
AUDIO = DATA / "audio"


def cache_dir() -> Path:
    """The folder for what can be made again (converted weights, measured limits): `LAB_CACHE`, else the platform's."""
    if chosen := os.environ.get("LAB_CACHE"):
        return Path(chosen).expanduser().resolve()
    import platformdirs

    return Path(platformdirs.user_cache_dir("speech-inference-lab", appauthor=False))


def lab_dir() -> Path:
    """The folder for what belongs to this learner (results, runs, progress): `LAB_HOME`, else `.lab` in the repo."""
    return Path(os.environ.get("LAB_HOME") or ROOT / ".lab").expanduser().resolve()


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

    A process that dies half-way leaves `target` as it was.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = part_path(target)
    try:
        yield part
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def part_path(target: Path) -> Path:
    """Where `atomic_write` writes meanwhile: a name that most file systems take, however long the target's own is."""
    return target.with_name(f".{target.name[-50:]}.{os.getpid()}.part")
