"""Voice presets: three arrays of tokens that Bark takes for its own earlier output.

A file is NumPy's npz with `semantic_prompt` (tokens,), `coarse_prompt` (2, frames) and `fine_prompt` (8, frames). It is
read without pickle: unpickling can run any code, and presets come from strangers.
"""

from __future__ import annotations

import io
import lzma
import math
import struct
import tokenize
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from labsupport.base.errors import BarkError, printable
from labsupport.base.paths import atomic_write

LARGEST_PART = 64 << 20  # bytes: eight codebooks of int64 for nearly four hours
UNREADABLE = (  # what zipfile, its decompressors and NumPy's header reader raise; RuntimeError: a password is needed
    ValueError, OSError, EOFError, AttributeError, TypeError, LookupError, RuntimeError, ArithmeticError, MemoryError,
    SyntaxError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, tokenize.TokenError,
)  # fmt: skip
PARTS = {"semantic_prompt": ((), 10_000), "coarse_prompt": ((2,), 1024), "fine_prompt": ((8,), 1024)}


@dataclass(frozen=True, eq=False)
class Voice:
    """int64 arrays: semantic (tokens,) at 49.9 a second, coarse (2, frames) and fine (8, frames) at 75."""

    semantic: np.ndarray
    coarse: np.ndarray
    fine: np.ndarray

    def tensors(self, device: torch.device) -> dict[str, torch.Tensor]:
        """As transformers' `history_prompt`."""
        arrays = (self.semantic, self.coarse, self.fine)
        return {part: torch.tensor(array, device=device) for part, array in zip(PARTS, arrays, strict=True)}


def read(path: Path) -> Voice:
    """A voice's file.

    Raises:
        BarkError: there is none, it is no npz, it needs pickle or a password, a part is missing or larger than any
            voice's, or a part's tokens are wrong.
    """
    path = Path(path)
    if not path.exists():
        raise BarkError("There is no such voice.", where=path, hint="Give the path of an npz file.")
    if not path.is_file():
        raise BarkError("This is no voice: it is no file.", where=path, hint="Give the path of an npz file.")
    try:
        with zipfile.ZipFile(path) as archive:
            if missing := [part for part in PARTS if f"{part}.npy" not in archive.namelist()]:
                raise BarkError(f"This voice lacks {', '.join(sorted(missing))}.", where=path)
            return Voice(*(check(read_part(archive, part), part, path) for part in PARTS))
    except UNREADABLE as error:
        hint = "A voice is an npz of plain integers. A file that needs pickle is not read: it could run any code."
        raise BarkError(f"This is no voice: {printable(error)}", where=path, hint=hint) from error


def read_part(archive: zipfile.ZipFile, part: str) -> np.ndarray:
    """One array of an npz, read only as far as a voice can be long; one of the errors `UNREADABLE` if it is none.

    NumPy's own reader takes memory for what a file says that it holds, which may be anything.
    """
    with archive.open(f"{part}.npy") as file:
        data = file.read(LARGEST_PART + 1)
    if len(data) > LARGEST_PART:
        raise ValueError(f"{part} has more than {LARGEST_PART >> 20} MB, which no voice has.")
    buffer = io.BytesIO(data)
    version = np.lib.format.read_magic(buffer)
    reader = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if reader is None:
        raise ValueError(f"{part} has NumPy's format {version[0]}.{version[1]}, which holds no plain integers.")
    shape, columns_first, dtype = reader(buffer)
    if dtype.hasobject:
        raise ValueError(f"{part} needs pickle.")
    if any(rows < 0 for rows in shape) or math.prod(shape) * dtype.itemsize != len(data) - buffer.tell():
        raise ValueError(f"{part} does not hold the {dtype} {shape} that it says.")
    array = np.frombuffer(data, dtype, math.prod(shape), buffer.tell())
    return array.reshape(shape, order="F" if columns_first else "C")


def check(array: np.ndarray, part: str, path: Path) -> np.ndarray:
    """The array as int64, if it has the part's shape and its tokens lie in the part's vocabulary."""
    leading, vocabulary = PARTS[part]
    if array.dtype.kind not in "iu":
        raise BarkError(f"{part} holds {array.dtype}, not integers.", where=path)
    if array.ndim != len(leading) + 1 or array.shape[:-1] != leading or not array.size:
        expected = ", ".join(map(str, (*leading, "n")))
        raise BarkError(f"{part} has the shape {array.shape}, not ({expected}).", where=path)
    if array.min() < 0 or array.max() >= vocabulary:
        what = f"{part} holds tokens from {array.min()} to {array.max()}; there are 0 to {vocabulary - 1}."
        raise BarkError(what, where=path, hint="Was it made for another model?")
    return array.astype(np.int64)


def write(voice: Voice, path: Path) -> None:
    """The file that `read` reads, whole or not at all."""
    arrays = dict(zip(PARTS, (voice.semantic, voice.coarse, voice.fine), strict=True))
    with atomic_write(Path(path)) as part, part.open("wb") as file:
        np.savez(file, **arrays)


def make_random(seconds: float = 2.0, seed: int = 0) -> Voice:
    """Random tokens of a true preset's shapes."""
    random = np.random.default_rng(seed)
    frames = round(75 * seconds)
    semantic = random.integers(0, 10_000, round(49.9 * seconds))  # (tokens,)
    fine = random.integers(0, 1024, (8, frames))  # (8, frames)
    return Voice(semantic, fine[:2].copy(), fine)
