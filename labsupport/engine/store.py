"""The engine's compiled graphs in the cache folder: built once for a checkpoint, a processor, a version of OpenVINO."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from labsupport.base.cached_folder import cached_folder, hash_files, remove_outdated
from labsupport.base.paths import cache_dir
from labsupport.checkpoints.config import Config
from labsupport.checkpoints.resolve import Checkpoint
from labsupport.engine.rounding import FAST, Rounding
from labsupport.engine.runtime import compile_graph, computed_type, describe_runtime, import_graph
from labsupport.graphs.store import identify
from labsupport.speech import corpus, features
from labsupport.speech.audio import SAMPLE_RATE

if TYPE_CHECKING:
    import openvino

HERE = Path(__file__).resolve().parent
BUILDERS = ("calibration", "decoder", "encoder", "ops", "quantization", "rounding", "runtime", "store", "weights")
CALIBRATION_WINDOWS = 4
log = logging.getLogger(__name__)


def find_compiled(checkpoint: Checkpoint, rounding: Rounding = FAST) -> Path:
    """The folder with a checkpoint's compiled graphs, NAME.blob each.

    They are built on first use, again if a file is damaged, and anew where the weights, the processor, OpenVINO or the
    code that builds them changed: those of earlier code are then removed.
    """
    folder = locate(checkpoint, rounding)

    def write(part: Path) -> None:
        remove_outdated(folder.parent, hash_builders()[:8])
        log.info("Compiling the fast engine's graphs of %s, once.", checkpoint.label)
        for name, graph in build_graphs(checkpoint, rounding):
            (part / f"{name}.blob").write_bytes(compile_graph(graph, rounding).export_model().getvalue())

    return cached_folder(folder, f"fast engine's graphs of {checkpoint.label}", 500, write)


def open_graphs(folder: Path, rounding: Rounding = FAST) -> Callable[[str], openvino.CompiledModel]:
    """Name -> the compiled graph of that name in the folder, read once."""
    return functools.cache(lambda name: import_graph(folder / f"{name}.blob", rounding))


def locate(checkpoint: Checkpoint, rounding: Rounding = FAST) -> Path:
    described = [identify(checkpoint), describe_runtime(), rounding.describe()]
    key = hashlib.sha256(json.dumps(described).encode()).hexdigest()
    return cache_dir() / "engine" / checkpoint.name.replace("/", "--") / f"{hash_builders()[:8]}-{key[:8]}"


@functools.cache
def hash_builders() -> str:
    """One hash of the source of all that builds graphs."""
    return hash_files(HERE / f"{name}.py" for name in BUILDERS)


def build_graphs(checkpoint: Checkpoint, rounding: Rounding) -> Iterator[tuple[str, openvino.Model]]:
    """All graphs by name, one at a time: each holds its weights."""
    from labsupport.engine.calibration import calibrate
    from labsupport.engine.decoder import build_alignment, build_cross_kv, build_decoder, cross_names
    from labsupport.engine.encoder import build_encoder
    from labsupport.engine.weights import Weights, read_tensors

    config, tensors = checkpoint.config, read_tensors(checkpoint)
    stored = computed_type(rounding)
    encoder = Weights(tensors, int8=rounding.encoder_weights)
    decoder = Weights(tensors, int8=rounding.decoder_weights)
    if rounding.encoder_inputs:
        encoder.tensors, encoder.ranges = calibrate(config, tensors, list(calibration_windows(config)))
        decoder.ranges = dict.fromkeys(cross_names(config), encoder.ranges["encoder_out"])
    yield "decoder", build_decoder(config, decoder.layer, tensors, stored)
    yield "cross_kv", build_cross_kv(config, decoder.layer, stored)
    yield "alignment", build_alignment(config, decoder.layer, tensors, config.decoder_layers - 1)
    yield "encoder", build_encoder(config, encoder.layer, encoder.tensors)


def calibration_windows(config: Config) -> Iterator[np.ndarray]:
    """Windows full of the corpus's training sentences, (mels, 3000) float32 each."""
    samples = np.concatenate([sentence.samples for sentence in corpus.load("train")])
    for number in range(CALIBRATION_WINDOWS):
        window = samples[number * 30 * SAMPLE_RATE :][: 30 * SAMPLE_RATE]
        yield features.window(features.log_mel(window, config.mels), 0)
