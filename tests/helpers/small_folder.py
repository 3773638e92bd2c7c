"""A small whole Whisper in a folder, and the ways in which a test spoils one."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from model_hub import SMALL
from safetensors.numpy import load_file, save_file

from labsupport.checkpoints.random_weights import random_tensors

ODD_VALUES = [None, -1, 0, 1.5, True, "", "x" * 300, [], {}, [[]], {"a": 1}, 10**30, float("nan"), "\ud800", "\x1b[31m"]


def write_folder(folder: Path) -> Path:
    """A whole checkpoint with settings for generation, weights in one file."""
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "config.json", {"model_type": "whisper", **SMALL.to_hf()})
    generation = {"suppress_tokens": [1, 2], "begin_suppress_tokens": [3], "alignment_heads": [[1, 0]]}
    write(folder / "generation_config.json", generation)
    save_file(dict(random_tensors(SMALL, 0)), folder / "model.safetensors")
    return folder


def write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content))


def change(path: Path, **entries: object) -> None:
    """Settings with other entries; those that are `...` are left out."""
    content = json.loads(path.read_text()) | entries
    write(path, {name: value for name, value in content.items() if value is not ...})


def split(folder: Path) -> dict[str, str]:
    """The weights in two files with an index, which is given back."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names, table = sorted(tensors), {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file)
        table |= dict.fromkeys(part, file)
    write(folder / "model.safetensors.index.json", {"weight_map": table})
    return table


def read_header(path: Path) -> tuple[dict, bytes]:
    """The header of a safetensors file, and what comes after it."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def write_header(path: Path, header: object, data: bytes) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def mutate(content: Any, rng: random.Random) -> Any:
    """A copy of a JSON value in which one place, any, is gone or another value."""
    content = copy.deepcopy(content)
    places: list[tuple[Any, Any]] = []

    def collect(value: Any) -> None:
        keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
        for key in list(keys)[:40]:
            places.append((value, key))
            collect(value[key])

    collect(content)
    value, key = rng.choice(places)
    if rng.random() < 0.3:
        del value[key]
    else:
        value[key] = rng.choice(ODD_VALUES)
    return content


def flip(content: bytes, rng: random.Random) -> bytes:
    """A copy with up to four other bytes, or cut, or with something between."""
    data = bytearray(content)
    kind = rng.randrange(3)
    if kind == 0:
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
    elif kind == 1:
        del data[rng.randrange(len(data)) :]
    else:
        place = rng.randrange(len(data))
        data[place:place] = rng.randbytes(rng.randint(1, 9))
    return bytes(data)


def refuses(call: Callable[[], object], error: type[Exception]) -> bool:
    """Whether this raises the error, which must be one that can be printed; any other passes through."""
    try:
        call()
    except error as raised:
        str(raised).encode()
        return True
    return False
