"""The fast engine's graphs in float32, with weights as they are, to be compared to the last digits."""

import numpy as np

from labsupport.checkpoints.resolve import Checkpoint
from labsupport.engine.decoder import build_alignment, build_cross_kv, build_decoder
from labsupport.engine.encoder import build_encoder
from labsupport.engine.model import Whisper
from labsupport.engine.runtime import compile_graph
from labsupport.engine.weights import Weights, read_tensors


def exact_graphs(checkpoint: Checkpoint, tensors: dict[str, np.ndarray] | None = None) -> dict:
    """By name, as `store.build_graphs` gives them; compiled."""
    config, tensors = checkpoint.config, tensors or read_tensors(checkpoint)
    layer = Weights(tensors, int8=False).layer
    graphs = {
        "encoder": build_encoder(config, layer, tensors),
        "decoder": build_decoder(config, layer, tensors),
        "alignment": build_alignment(config, layer, tensors, config.decoder_layers - 1),
    }
    graphs |= {f"cross_kv_{number}": build_cross_kv(config, layer, number) for number in range(config.decoder_layers)}
    return {name: compile_graph(graph, exact=True) for name, graph in graphs.items()}


def exact_model(checkpoint: Checkpoint) -> Whisper:
    return Whisper(checkpoint.config, exact_graphs(checkpoint).__getitem__)
