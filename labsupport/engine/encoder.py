"""The encoder as an OpenVINO graph: fused queries, keys and values, eight-bit products where they are calibrated.

Source: Radford et al. 2022, section 2.2; article A, section 3 (fused products); article C, section 3.2 (int8).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import openvino as ov
from openvino import Node
from openvino import opset15 as ops

from labsupport.checkpoints.config import Config
from labsupport.engine.ops import (
    Linear,
    constant,
    integers,
    layer_norm,
    linear,
    merge_heads,
    split_heads,
    split_in_three,
)  # fmt: skip

Layers = Callable[[str], Linear]  # a layer's name -> what multiplies its inputs
Norms = Mapping[str, np.ndarray]


def build_encoder(config: Config, layers: Layers, norms: Norms, observe: Callable[[str, Node], None] = lambda *_: None):
    """mel (windows, mels, frames) float32 -> encoder_out (windows, frames / 2, d_model) float32

    Args:
        layers: gives the linear layers by name: "encoder.layers.0.qkv", "…out", "…fc1", "…fc2".
        norms: the tensors of norms, convolutions and positions, by their names in the checkpoint without "model.".
        observe: called with each linear layer's name and its inputs' node, for calibration.
    """
    mel = ops.parameter([-1, config.mels, -1], np.float32, name="mel")
    x = convolve(mel, norms, "encoder.conv1", stride=1)  # (windows, d_model, frames)
    x = convolve(x, norms, "encoder.conv2", stride=2)  # (windows, d_model, frames / 2)
    x = ops.transpose(x, integers(0, 2, 1))  # (windows, frames / 2, d_model)
    x = ops.add(x, first_positions(x, norms["encoder.embed_positions.weight"]))
    for number in range(config.encoder_layers):
        x = encoder_layer(x, config, layers, norms, f"encoder.layers.{number}", observe)
    x = layer_norm(x, norms["encoder.layer_norm.weight"], norms["encoder.layer_norm.bias"])
    return ov.Model([ops.result(x)], [mel], "encoder")


def convolve(x: Node, norms: Norms, name: str, stride: int) -> Node:
    """(windows, channels, frames) -> (windows, d_model, frames / stride), by kernels of 3 frames; then GELU"""
    y = ops.convolution(x, constant(norms[f"{name}.weight"]), [stride], [1], [1], [1])
    return ops.gelu(ops.add(y, constant(norms[f"{name}.bias"][None, :, None])), "erf")


def first_positions(x: Node, table: np.ndarray) -> Node:
    """As many rows of the table (1500, d_model) as x (windows, length, d_model) is long: (1, length, d_model)"""
    length = ops.gather(ops.shape_of(x, "i64"), integers(1), integers(0))
    return ops.slice(constant(table[None]), integers(0), length, integers(1), integers(1))


def encoder_layer(x: Node, config: Config, layers: Layers, norms: Norms, name: str, observe) -> Node:
    """Self-attention and the feed-forward net: (windows, length, d_model) -> the same"""

    def apply(part: str, inputs: Node) -> Node:
        observe(f"{name}.{part}", inputs)
        return linear(inputs, layers(f"{name}.{part}"))

    def norm(part: str, inputs: Node) -> Node:
        return layer_norm(inputs, norms[f"{name}.{part}.weight"], norms[f"{name}.{part}.bias"])

    qkv = split_in_three(apply("qkv", norm("self_attn_layer_norm", x)))
    q, k, v = (split_heads(part, config.heads, config.head_dim) for part in qkv)
    attended = ops.scaled_dot_product_attention(q, k, v, causal=False)  # (windows, heads, length, head_dim)
    x = ops.add(x, apply("out", merge_heads(attended, config.d_model)))
    h = ops.gelu(apply("fc1", norm("final_layer_norm", x)), "erf")  # (windows, length, 4 d_model)
    return ops.add(x, apply("fc2", h))
