"""Decode steps of a random Whisper, with random inputs; and the comparison of two forms of one step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from labsupport.checkpoints.config import Config
from labsupport.checkpoints.random_weights import tensor_shapes
from labsupport.graphs.loop import Loop

SMALL = Config(8, 1, 2, 2, 11, audio_positions=6, text_positions=9)
ONE_THREAD = {"threads": 1}


@dataclass(frozen=True)
class RandomCheckpoint:
    """A Whisper of any small shape with random weights, as the graph's builder wants one."""

    config: Config
    seed: int

    def tensors(self):
        """Larger weights than a fresh model's, so that attention is far from uniform."""
        random = np.random.default_rng(self.seed)
        for name, shape in tensor_shapes(self.config):
            yield name, (random.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)


def make_inputs(config: Config, beams: int, length: int, seed: int):
    """Cross-attention's keys and values, and a past of `length` tokens, all random."""
    random, rest = np.random.default_rng(seed), (config.heads, config.head_dim)

    def draw(*shape):
        return random.standard_normal(shape).astype(np.float32)

    names = [f"{letter}.{layer}" for layer in range(config.decoder_layers) for letter in "kv"]
    cross_kv = {f"cross_{name}": draw(1, config.audio_positions, *rest) for name in names}
    return cross_kv, {f"past_{name}": draw(beams, length, *rest) for name in names}


def run_steps(model: onnx.ModelProto, cross_kv, past, tokens) -> dict[str, np.ndarray]:
    """The logits of every step, and all caches afterwards."""
    loop, beams = Loop(model, cross_kv, past, **ONE_THREAD), len(past["past_k.0"])
    logits = {f"logits {n}": loop.decode_step(np.full(beams, token)) for n, token in enumerate(tokens)}
    return logits | {name: loop.cache.read(name) for name in past}


def assert_same(got: dict, expected: dict, atol: float) -> None:
    assert got.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(got[name], array, atol=atol, rtol=0, err_msg=name)
