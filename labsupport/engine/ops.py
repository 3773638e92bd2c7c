"""What both graphs of the engine are made of, as OpenVINO operations; no weights are read here.

Every function takes and gives OpenVINO nodes. Floats are float32: the plugin computes in bfloat16 where it is told to
and the processor can.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from openvino import Node
from openvino import opset15 as ops

from labsupport.engine.quantization import Int8Weight, Range

EPSILON = 1e-5  # of Whisper's layer norms


@dataclass(frozen=True)
class Linear:
    """A layer's weight (out, in), as it is stored, and its bias (out,), if it has one.

    inputs: between which limits its inputs are rounded to eight bits; None: they stay as they are.
    """

    weight: np.ndarray | Int8Weight
    bias: np.ndarray | None = None
    inputs: Range | None = None


def constant(array: np.ndarray | np.float32) -> Node:
    return ops.constant(np.ascontiguousarray(array))


def integers(*values: int) -> Node:
    return ops.constant(np.array(values, np.int64))


def dequantized(weight: np.ndarray | Int8Weight) -> Node:
    """(out, in) float32; eight-bit codes stay so in memory, and the plugin's kernels multiply by them as they are."""
    if isinstance(weight, np.ndarray):
        return constant(weight)
    return ops.multiply(ops.convert(constant(weight.codes), "f32"), constant(weight.scales))


def linear(x: Node, layer: Linear) -> Node:
    """(..., in) -> (..., out)"""
    if layer.inputs is not None:
        low, high = (constant(np.float32(limit)) for limit in layer.inputs)
        x = ops.fake_quantize(x, low, high, low, high, 256)
    y = ops.matmul(x, dequantized(layer.weight), False, True)
    return y if layer.bias is None else ops.add(y, constant(layer.bias[None, None]))


def layer_norm(x: Node, weight: np.ndarray, bias: np.ndarray) -> Node:
    """(..., d_model) -> the same shape"""
    normal = ops.mvn(x, integers(-1), True, EPSILON, "inside_sqrt")
    return ops.add(ops.multiply(normal, constant(weight[None, None])), constant(bias[None, None]))


def split_heads(x: Node, heads: int, head_dim: int) -> Node:
    """(batch, length, d_model) -> (batch, heads, length, head_dim)"""
    return ops.transpose(ops.reshape(x, integers(0, 0, heads, head_dim), True), integers(0, 2, 1, 3))


def merge_heads(x: Node, d_model: int) -> Node:
    """(batch, heads, length, head_dim) -> (batch, length, d_model)"""
    return ops.reshape(ops.transpose(x, integers(0, 2, 1, 3)), integers(0, 0, d_model), True)


def split_in_three(x: Node) -> list[Node]:
    """(..., 3 n) -> three of (..., n): a fused product's queries, keys and values"""
    parts = ops.split(x, ops.constant(np.int64(2)), 3)
    return [parts.output(i) for i in range(3)]


def size_of(x: Node, axis: int) -> Node:
    """(1,) int64"""
    return ops.gather(ops.shape_of(x, "i64"), integers(axis), integers(0))
