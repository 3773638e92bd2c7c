"""Safetensors files, read by a header that was checked byte for byte, and a model's tensors held against its shape."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from labsupport.base.errors import CheckpointError, printable
from labsupport.checkpoints.config import Config
from labsupport.checkpoints.random_weights import tensor_shapes
from labsupport.checkpoints.settings import COPY_AGAIN, inside, is_whole, read_json, refuse_repeats, shorten

ITEM_SIZES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip
FLOATS = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}  # what weights may be; NumPy has no bfloat16
LONGEST_HEADER = 16 << 20  # bytes; the largest Whisper's has 160 KB
TIED = "proj_out.weight"  # the token embedding once more, as older versions of transformers have stored it
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Entry:
    """A tensor in a file: its dtype by the format's name, its shape, and its first byte in the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int


# --- one file --------------------------------------------------------------------------------------------------------


def read_header(path: Path) -> dict[str, Entry]:
    """Every tensor of a safetensors file by its name, without their data.

    CheckpointError unless the tensors fill the file from the header to its end, without a gap or an overlap.
    """
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, LONGEST_HEADER):
                raise ValueError(f"the header has {length:,} bytes, the file {size:,}")
            header = json.loads(file.read(length).decode(), object_pairs_hook=refuse_repeats)
        if not isinstance(header, dict):
            raise ValueError("the header is no JSON object")
        check_metadata(header.pop("__metadata__", {}))
        entries = {name: read_entry(name, fields, 8 + length) for name, fields in header.items()}
        check_layout(entries, 8 + length, size)
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"The weights are damaged or cut short: {error}.", where=path, hint=COPY_AGAIN) from error
    return entries


def check_metadata(metadata: object) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its __metadata__ is no table of texts")


def read_entry(name: str, fields: object, data: int) -> Entry:
    """One tensor's entry of the header; ValueError if it contradicts itself. data: where the file's data begin."""
    if not isinstance(fields, dict) or fields.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name!r} has no dtype, shape and data_offsets")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_SIZES:
        raise ValueError(f"{name!r} has an unknown dtype, {shorten(dtype)}")
    for numbers in (shape, offsets):
        if not isinstance(numbers, list) or not all(is_whole(number, 1 << 62) for number in numbers):
            raise ValueError(f"{name!r} has {shorten(numbers)} where whole numbers must be")
    if len(offsets) != 2 or offsets[1] - offsets[0] != math.prod(shape) * ITEM_SIZES[dtype]:
        raise ValueError(f"{name!r} is {dtype} {shape}, which does not fit into bytes {shorten(offsets)}")
    return Entry(dtype, tuple(shape), data + offsets[0])


def check_layout(entries: dict[str, Entry], data: int, size: int) -> None:
    """ValueError unless the tensors stand one behind the other from byte `data` to the file's end."""
    end = data
    for name, entry in sorted(entries.items(), key=lambda pair: (pair[1].start, math.prod(pair[1].shape))):
        if entry.start != end:
            raise ValueError(f"{name!r} begins at byte {entry.start:,}; the tensor before it ends at {end:,}")
        end += math.prod(entry.shape) * ITEM_SIZES[entry.dtype]
    if end != size:
        raise ValueError(f"the tensors end at byte {end:,}, the file at {size:,}")


def read_tensors(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """The tensors of one file as float32; bfloat16, which NumPy lacks, is widened by its bits.

    CheckpointError: the file is damaged, or a tensor holds NaN or infinity, of which a text would be made all the same.
    """
    for name, entry in read_header(path).items():
        check_float(name, entry, path)
        array = np.fromfile(path, FLOATS[entry.dtype], math.prod(entry.shape), offset=entry.start)
        if entry.dtype == "BF16":
            array = (array.astype(np.uint32) << 16).view(np.float32)
        if array.size and not (np.isfinite(array.min()) and np.isfinite(array.max())):  # NaN is both of them
            raise CheckpointError(f"The tensor {printable(name)} holds what is no number.", where=path, hint=COPY_AGAIN)
        yield name, array.astype(np.float32, copy=False).reshape(entry.shape)


def check_float(name: str, entry: Entry, path: Path) -> None:
    if entry.dtype not in FLOATS:
        raise CheckpointError(f"The tensor {printable(name)} is {entry.dtype}, no float.", where=path)


# --- a folder --------------------------------------------------------------------------------------------------------


def find_weights(folder: Path) -> list[Path]:
    """The safetensors files of a folder: one, or the shards that its index names; CheckpointError if one is missing."""
    if (folder / "model.safetensors").is_file():
        return [inside(folder, "model.safetensors")]
    if not (folder / INDEX).is_file():
        raise no_safetensors(folder, [path.name for path in folder.iterdir()])
    return list_shards(folder)


def no_safetensors(where: object, files: list[str]) -> CheckpointError:
    """The error for a model without safetensors, with another text where there are pickled weights."""
    if not any(file.endswith((".bin", ".pt", ".pth", ".ckpt")) for file in files):
        hint = "A model's folder has config.json and model.safetensors, or its parts with their index."
        return CheckpointError("There is no model.safetensors.", where=where, hint=hint)
    return CheckpointError(
        "There are only pickled weights, which can run any code when they are opened; they are never loaded here.",
        where=where,
        hint="If you trust them: load them with transformers, then model.save_pretrained(folder).",
    )


def list_shards(folder: Path) -> list[Path]:
    """The files that the folder's index names; CheckpointError if one is missing or lies elsewhere."""
    table = read_json(folder / INDEX).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise CheckpointError("The index of the weights names none.", where=folder / INDEX)
    for name in table.values():
        if not isinstance(name, str) or not name.endswith(".safetensors"):
            raise CheckpointError(f"The index names {shorten(name)}, no safetensors file.", where=folder / INDEX)
    shards = [inside(folder, name) for name in sorted(set(table.values()))]
    for shard in shards:
        if not shard.is_file():
            raise CheckpointError(f"A part of the weights is missing: {shard.name}.", where=folder)
    return shards


def check_weights(files: list[Path], config: Config) -> None:
    """Holds the headers of a folder's files against the tensors of this shape.

    CheckpointError: a tensor is no float, missing, superfluous, of another shape, in two files, or in another file
    than the index has it.
    """
    found: dict[str, tuple[Path, Entry]] = {}
    for file in files:
        for name, entry in read_header(file).items():
            check_float(name, entry, file)
            if name in found:
                raise CheckpointError(f"The tensor {printable(name)} is in two files.", where=file)
            found[name] = file, entry
    check_names(set(found), config, files[0].parent)
    shapes = dict(tensor_shapes(config))
    shapes[TIED] = (config.vocab_size, config.d_model)
    for name, (file, entry) in found.items():
        if entry.shape != shapes[name]:
            what = f"The tensor {name} has the shape {entry.shape}; by config.json it has {shapes[name]}."
            raise CheckpointError(what, where=file)
    if len(files) > 1 or files[0].name != "model.safetensors":
        check_index({name: file.name for name, (file, _) in found.items()}, files[0].parent)


def check_names(found: set[str], config: Config, folder: Path) -> None:
    """CheckpointError unless these are the names of all tensors of this shape, and no other."""
    expected = {name for name, _ in tensor_shapes(config)}
    if missing := sorted(expected - found):
        what = f"{len(missing)} of {len(expected)} tensors are missing, {missing[0]} among them."
        raise CheckpointError(what, where=folder, hint="Do config.json and the weights belong together?")
    if surplus := sorted(found - expected - {TIED}):
        what = f"{len(surplus)} tensors are superfluous, {printable(surplus[0])} among them."
        raise CheckpointError(what, where=folder, hint="Do config.json and the weights belong together?")


def check_index(found: dict[str, str], folder: Path) -> None:
    """CheckpointError unless the index has each tensor in the file that holds it."""
    table = read_json(folder / INDEX)["weight_map"]
    wrong = sorted(name for name in {**table, **found} if table.get(name) != found.get(name))
    if wrong:
        held, named = found.get(wrong[0], "none"), table.get(wrong[0], "none")
        what = f"The index has the tensor {printable(wrong[0])} in the file {printable(named)}; in truth it is {held}."
        raise CheckpointError(what, where=folder / INDEX)
