"""The graphs of a model in the cache folder: built once, their weights stored once for all of them."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from labsupport.base.cached_folder import cached_folder, hash_files, recall_hash, remove_outdated
from labsupport.base.errors import GraphError
from labsupport.base.paths import cache_dir
from labsupport.checkpoints.resolve import Checkpoint
from labsupport.checkpoints.safetensors_files import find_weights
from labsupport.graphs.loop_interface import PLAIN, READERS, LoopInterface, read_interface

if TYPE_CHECKING:
    import onnx

WEIGHTS, INTERFACE = "weights.bin", "interface.json"
LARGE = 4096  # bytes; smaller tensors stay in the file of their graph
ALIGNED = 4096  # bytes: where a tensor begins, so that ONNX Runtime can map the file
HERE = Path(__file__).resolve().parent
# The source of all that builds and rewrites graphs: tests/graphs/test_store.py holds the list against the imports.
MODULES = ("../speech/features.py", "analysis.py", "builder.py", "loop_interface.py", "store.py", "whisper_graphs.py")
BUILDERS = (*MODULES, *sorted(f"passes/{path.name}" for path in (HERE / "passes").glob("*.py")))
log = logging.getLogger(__name__)


def find_graphs(checkpoint: Checkpoint, start: int, languages: list[int]) -> Path:
    """The folder with a checkpoint's graphs, NAME.onnx each, and `interface.json`, the loop graph's.

    They are built on first use, again if a file is damaged, and anew if the weights or the code that builds them
    changed: graphs of earlier code are then removed.

    Args:
        start, languages: tokens, see `whisper_graphs.language`; without languages there is no such graph.
    """
    folder = locate_graphs(checkpoint, start, languages)

    def write(part: Path) -> None:
        remove_outdated(folder.parent, hash_builders()[:8])
        write_graphs(part, checkpoint, start, languages)

    return cached_folder(folder, f"ONNX graphs of {checkpoint.label}", 1000, write)


def checkpoint_folder(checkpoint: Checkpoint) -> Path:
    """Where all graphs of a checkpoint lie, those that earlier code has built among them."""
    return cache_dir() / "onnx" / checkpoint.name.replace("/", "--")


def locate_graphs(checkpoint: Checkpoint, start: int, languages: list[int]) -> Path:
    key = hashlib.sha256(json.dumps([identify(checkpoint), start, languages]).encode()).hexdigest()
    return checkpoint_folder(checkpoint) / f"{hash_builders()[:8]}-{key[:8]}"


def read_stored_interface(folder: Path) -> LoopInterface:
    """The interface of the loop graph in a folder that `find_graphs` gives; GraphError if it is none."""
    try:
        stored = json.loads((folder / INTERFACE).read_text(encoding="utf-8"))
        layouts = tuple(stored["layout"]), tuple(stored["cross_layout"])
        fits = all(sorted(layout) == [*PLAIN] for layout in layouts) and stored["cache"] in READERS.values()
        if not fits or type(stored["capacity"]) not in (int, type(None)):
            raise ValueError(f"no loop graph has {str(stored)[:200]}")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        hint = "Remove the folder: the graphs are then built again."
        raise GraphError(f"The stored graphs' interface is damaged: {error!r}.", where=folder, hint=hint) from error
    return LoopInterface(stored["cache"], stored["capacity"], *layouts)


def identify(checkpoint: Checkpoint) -> list:
    """What changes with a checkpoint's weights: its configuration, and their files' hashes or the seed."""
    if checkpoint.random:
        return [repr(checkpoint.config), checkpoint.seed]
    states = [(file, file.stat()) for file in find_weights(checkpoint.folder)]
    return [repr(checkpoint.config)] + [recall_hash(file, (s.st_size, s.st_mtime_ns)) for file, s in states]


@functools.cache
def hash_builders(folder: Path = HERE) -> str:
    """One hash of the source of all that builds and rewrites graphs."""
    return hash_files(folder / name for name in BUILDERS)


def write_graphs(folder: Path, checkpoint: Checkpoint, start: int, languages: list[int]) -> None:
    """Builds every graph into `folder`."""
    from labsupport.graphs import whisper_graphs

    log.info("Building the ONNX graphs of %s, once.", checkpoint.label)
    loop = whisper_graphs.loop(checkpoint)
    interface = read_interface(loop)
    (folder / INTERFACE).write_text(json.dumps(asdict(interface)), encoding="utf-8")
    offsets: dict[str, int] = {}
    with open(folder / WEIGHTS, "wb") as weights:

        def store(name: str, model: onnx.ModelProto) -> None:
            move_weights(model, weights, offsets)
            (folder / f"{name}.onnx").write_bytes(model.SerializeToString())

        store("loop", loop)
        store("prefill", whisper_graphs.prefill(checkpoint, interface.cross_layout))
        if languages:
            store("language", whisper_graphs.language(checkpoint, start, languages))
        store("cross_attention", whisper_graphs.cross_attention(checkpoint))
        for build in (whisper_graphs.features, whisper_graphs.encoder, whisper_graphs.rearrange):
            store(build.__name__, build(checkpoint))


def move_weights(model: onnx.ModelProto, file: BinaryIO, offsets: dict[str, int]) -> None:
    """Moves a graph's large tensors into `file`, each content once; `offsets`, hash -> its first byte there, grows."""
    import onnx

    for tensor in model.graph.initializer:
        data = tensor.raw_data
        if len(data) < LARGE:
            continue
        content = hashlib.sha256(data).hexdigest()
        if content not in offsets:
            file.write(bytes(-file.tell() % ALIGNED))
            offsets[content] = file.tell()
            file.write(data)
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", WEIGHTS), ("offset", offsets[content]), ("length", len(data))):
            tensor.external_data.add(key=key, value=str(value))
