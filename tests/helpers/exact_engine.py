"""The fast engine's graphs in float32, with weights as they are, to be compared to the last digits."""

import numpy as np

from labsupport.checkpoints.config import Config
from labsupport.checkpoints.resolve import Checkpoint
from labsupport.engine.encoder import build_encoder
from labsupport.engine.model import Whisper
from labsupport.engine.rounding import EXACT
from labsupport.engine.runtime import compile_graph
from labsupport.engine.store import build_graphs
from labsupport.engine.weights import Weights


def exact_graphs(checkpoint: Checkpoint) -> dict:
    """By name, as `store.build_graphs` gives them; compiled."""
    return {name: compile_graph(graph, EXACT) for name, graph in build_graphs(checkpoint, EXACT)}


def exact_encoder(config: Config, tensors: dict[str, np.ndarray]):
    """The compiled encoder of these tensors."""
    return compile_graph(build_encoder(config, Weights(tensors, int8=False).layer, tensors), EXACT)


def exact_model(checkpoint: Checkpoint) -> Whisper:
    return Whisper(checkpoint.config, exact_graphs(checkpoint).__getitem__)
