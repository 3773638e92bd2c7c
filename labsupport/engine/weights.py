"""A checkpoint's weights as the engine's graphs want them: products that share their inputs fused, eight bits a weight.

Names are those of the checkpoint without "model.", but for those of `PARTS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from labsupport.checkpoints.resolve import Checkpoint
from labsupport.engine.ops import Linear
from labsupport.engine.quantization import Range, quantize

PARTS = {  # the engine's layer: those of the checkpoint, one under the other
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "out": ("self_attn.out_proj",),
    "cross_q": ("encoder_attn.q_proj",),
    "cross_k": ("encoder_attn.k_proj",),
    "cross_v": ("encoder_attn.v_proj",),
    "cross_out": ("encoder_attn.out_proj",),
    "fc1": ("fc1",),
    "fc2": ("fc2",),
}


@dataclass
class Weights:
    """Linear layers and other tensors, by name.

    ranges: of the layers whose inputs are rounded to eight bits too, from calibration.
    int8: whether weights are stored in eight bits.
    """

    tensors: Mapping[str, np.ndarray]
    int8: bool = True
    ranges: Mapping[str, Range] = field(default_factory=dict)

    def layer(self, name: str) -> Linear:
        if name == "vocabulary":
            weight, bias = self.tensors["decoder.embed_tokens.weight"], None
        else:
            layer, _, part = name.rpartition(".")
            names = [f"{layer}.{source}" for source in PARTS[part]]
            weight = np.concatenate([self.tensors[f"{source}.weight"] for source in names])
            bias = np.concatenate([self.bias(source) for source in names])
        return Linear(quantize(weight) if self.int8 else weight, bias, self.ranges.get(name))

    def bias(self, source: str) -> np.ndarray:
        """(out,); keys have none, for it would change no softmax"""
        if f"{source}.bias" in self.tensors:
            return self.tensors[f"{source}.bias"]
        return np.zeros(len(self.tensors[f"{source}.weight"]), np.float32)


def read_tensors(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    """All of them in float32, whatever the file holds."""
    return {name.removeprefix("model."): tensor.astype(np.float32) for name, tensor in checkpoint.tensors()}
