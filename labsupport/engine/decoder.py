"""The decoder as an OpenVINO graph whose keys and values stay inside it: a step takes tokens and gives logits.

Self-attention's cache is a variable of the graph to which each step appends; the plugin fuses that with attention, and
writes in place. Cross-attention's keys and values are variables of the same kind, given once for a window, so that the
plugin stores them in eight bits and reads them with the same fused kernel. That kernel appends in every step: here a
row of zeros, which a mask hides.

Source: article A, section 3.3 (static cache); article C, section 3.2 (int8).
"""

from __future__ import annotations

import numpy as np
import openvino as ov
from openvino import Node
from openvino import opset15 as ops
from openvino.op.util import Variable, VariableInfo

from labsupport.checkpoints.config import Config
from labsupport.engine.encoder import Layers, Norms
from labsupport.engine.ops import (
    Linear,
    constant,
    integers,
    layer_norm,
    linear,
    merge_heads,
    size_of,
    split_heads,
    split_in_three,
)  # fmt: skip

INPUTS = {
    "tokens": ([-1, -1], np.int64),
    "positions": ([-1], np.int64),
    "rows": ([-1], np.int32),
    "self_mask": ([1, 1, -1, -1], np.float32),
    "cross_mask": ([1, 1, -1, -1], np.float32),
    "kept": ([-1], np.int64),
}


class TextLayers:
    """The decoder's layers over tokens (rows, length); subclasses say where attention's keys and values come from."""

    def __init__(self, config: Config, layers: Layers, norms: Norms):
        self.config, self.layers, self.norms = config, layers, norms
        self.vocabulary = layers("vocabulary")
        self.table = [constant(part) for part in stored_parts(self.vocabulary)]

    def attend_text(self, name: str, q: Node, k: Node, v: Node) -> Node:
        """(rows, heads, length, head_dim) each -> the same shape"""
        raise NotImplementedError

    def attend_sound(self, name: str, q: Node) -> Node:
        """(rows, heads, length, head_dim) -> the same shape"""
        raise NotImplementedError

    def embed(self, tokens: Node, positions: Node) -> Node:
        """(rows, length) and (length,) -> (rows, length, d_model), from the rows of the weight that gives the logits"""
        axis = ops.constant(np.int64(0))
        rows = [ops.gather(part, tokens, axis) for part in self.table]
        embedded = rows[0] if len(rows) == 1 else ops.multiply(ops.convert(rows[0], "f32"), rows[1])
        return ops.add(embedded, ops.gather(constant(self.norms["decoder.embed_positions.weight"]), positions, axis))

    def project_vocabulary(self, x: Node) -> Node:
        """(rows, kept, d_model) -> (rows, kept, vocab) logits, by the constants that `embed` reads: stored once"""
        weight = self.table[0]
        if len(self.table) == 2:
            weight = ops.multiply(ops.convert(weight, "f32"), self.table[1])
        return ops.matmul(x, weight, False, True)

    def norm(self, name: str, x: Node) -> Node:
        return layer_norm(x, self.norms[f"{name}.weight"], self.norms[f"{name}.bias"])

    def heads(self, x: Node) -> Node:
        return split_heads(x, self.config.heads, self.config.head_dim)

    def layer(self, x: Node, name: str) -> Node:
        """Self-attention, cross-attention, the feed-forward net: (rows, length, d_model) -> the same"""
        h = self.norm(f"{name}.self_attn_layer_norm", x)
        q, k, v = map(self.heads, split_in_three(linear(h, self.layers(f"{name}.qkv"))))
        attended = merge_heads(self.attend_text(name, q, k, v), self.config.d_model)
        x = ops.add(x, linear(attended, self.layers(f"{name}.out")))
        h = self.norm(f"{name}.encoder_attn_layer_norm", x)
        attended = self.attend_sound(name, self.heads(linear(h, self.layers(f"{name}.cross_q"))))
        x = ops.add(x, linear(merge_heads(attended, self.config.d_model), self.layers(f"{name}.cross_out")))
        h = ops.gelu(linear(self.norm(f"{name}.final_layer_norm", x), self.layers(f"{name}.fc1")), "erf")
        return ops.add(x, linear(h, self.layers(f"{name}.fc2")))


def stored_parts(layer: Linear) -> list[np.ndarray]:
    """A weight, or its codes and scales."""
    weight = layer.weight
    return [weight] if isinstance(weight, np.ndarray) else [weight.codes, weight.scales]


class Variables:
    """What a graph holds from step to step: keys and values, which each step appends to.

    rows: node (rows,) int32: which row of the step before each row goes on from.
    """

    def __init__(self, heads: int, head_dim: int, rows: Node):
        self.heads, self.head_dim, self.rows = heads, head_dim, rows
        self.assigned: list[Node] = []

    def append(self, name: str, new: Node) -> Node:
        """What a variable holds of these rows, and after it the new keys or values: (rows, heads, length, head_dim)"""
        info = VariableInfo()
        info.data_shape = ov.PartialShape([-1, self.heads, -1, self.head_dim])
        info.data_type, info.variable_id = ov.Type.f32, name
        variable = Variable(info)
        before = ops.read_value(self.zeros(integers(0)), variable)
        before = ops.gather(before, self.rows, ops.constant(np.int64(0)))
        whole = ops.concat([before, new], 2)
        self.assigned.append(ops.assign(whole, variable))
        return whole

    def zeros(self, length: Node) -> Node:
        """(rows, heads, length, head_dim)"""
        sizes = [size_of(self.rows, 0), integers(self.heads), length, integers(self.head_dim)]
        return ops.broadcast(constant(np.float32(0)), ops.concat(sizes, 0))

    def attend_fixed(self, name: str, q: Node, mask: Node) -> Node:
        """Attention to keys and values that are given from outside, once: the kernel appends even so, here zeros.

        (rows, heads, length, head_dim) -> the same shape; mask hides what was appended, see `build_decoder`
        """
        nothing = self.zeros(size_of(q, 2))
        k, v = (self.append(f"{name}_{part}", nothing) for part in "kv")
        return ops.scaled_dot_product_attention(q, k, v, mask, causal=False)


class StepLayers(TextLayers):
    """The layers of a step; see `build_decoder`."""

    def __init__(self, config: Config, layers: Layers, norms: Norms):
        super().__init__(config, layers, norms)
        self.inputs = {name: ops.parameter(shape, dtype, name=name) for name, (shape, dtype) in INPUTS.items()}
        self.variables = Variables(config.heads, config.head_dim, self.inputs["rows"])

    def build(self) -> ov.Model:
        x = self.embed(self.inputs["tokens"], self.inputs["positions"])
        for number in range(self.config.decoder_layers):
            x = self.layer(x, f"decoder.layers.{number}")
        x = ops.gather(self.norm("decoder.layer_norm", x), self.inputs["kept"], ops.constant(np.int64(1)))
        outputs = [ops.result(self.project_vocabulary(x))]
        return ov.Model(outputs, self.variables.assigned, list(self.inputs.values()), "decoder")

    def attend_text(self, name: str, q: Node, k: Node, v: Node) -> Node:
        k, v = self.variables.append(f"{name}.k", k), self.variables.append(f"{name}.v", v)
        return ops.scaled_dot_product_attention(q, k, v, self.inputs["self_mask"], causal=False)

    def attend_sound(self, name: str, q: Node) -> Node:
        return self.variables.attend_fixed(f"{name}.cross", q, self.inputs["cross_mask"])


def build_decoder(config: Config, layers: Layers, norms: Norms) -> ov.Model:
    """A step of any number of rows and tokens, after those in the variables.

    Inputs: tokens (rows, length) int64; positions (length,) int64; rows (rows,) int32, which row of the step before
    each goes on from; self_mask (1, 1, length, past + length) and cross_mask (1, 1, length, frames + past + length)
    float32, added to the scores; kept (kept,) int64, of which tokens the logits are wanted. Output: logits (rows, kept,
    vocab) float32. Variables: decoder.layers.N.k, .v, .cross_k and .cross_v, (rows, heads, length, head_dim) float32,
    of which the last two must be given the window's before the first step.
    """
    return StepLayers(config, layers, norms).build()


def build_cross_kv(config: Config, layers: Layers, number: int) -> ov.Model:
    """encoder_out (windows, frames, d_model) -> a layer's cross_k and cross_v (2, windows, heads, frames, head_dim)

    Both in one output: the plugin would split channels by copying everything into another layout, and back.
    """
    encoder_out = ops.parameter([-1, -1, config.d_model], np.float32, name="encoder_out")
    both = linear(encoder_out, layers(f"decoder.layers.{number}.cross_kv"))
    parted = ops.reshape(both, integers(0, 0, 2, config.heads, config.head_dim), True)
    outputs = [ops.result(ops.transpose(parted, integers(2, 0, 3, 1, 4)))]
    return ov.Model(outputs, [encoder_out], f"cross_kv_{number}")


class AlignmentLayers(TextLayers):
    """The layers over a whole text of one window, which give away cross-attention's weights; see `build_alignment`."""

    def __init__(self, config: Config, layers: Layers, norms: Norms):
        super().__init__(config, layers, norms)
        self.tokens = ops.parameter([1, -1], np.int64, name="tokens")
        self.encoder_out = ops.parameter([1, -1, config.d_model], np.float32, name="encoder_out")
        self.weights: list[Node] = []

    def build(self, last: int) -> ov.Model:
        length = ops.squeeze(size_of(self.tokens, 1), integers(0))
        positions = ops.range(ops.constant(np.int64(0)), length, ops.constant(np.int64(1)), "i64")
        x = self.embed(self.tokens, positions)
        for number in range(last + 1):
            x = self.layer(x, f"decoder.layers.{number}")
        return ov.Model([ops.result(each) for each in self.weights], [self.tokens, self.encoder_out], "alignment")

    def attend_text(self, name: str, q: Node, k: Node, v: Node) -> Node:
        return ops.scaled_dot_product_attention(q, k, v, causal=True)

    def attend_sound(self, name: str, q: Node) -> Node:
        both = ops.split(linear(self.encoder_out, self.layers(f"{name}.cross_kv")), ops.constant(np.int64(2)), 2)
        k, v = (self.heads(both.output(i)) for i in range(2))
        scores = ops.multiply(ops.matmul(q, k, False, True), constant(np.float32(self.config.head_dim**-0.5)))
        self.weights.append(ops.softmax(scores, -1))  # (1, heads, length, frames)
        return ops.matmul(self.weights[-1], v, False, False)


def build_alignment(config: Config, layers: Layers, norms: Norms, last: int) -> ov.Model:
    """tokens (1, length) int64, encoder_out (1, frames, d_model) float32 -> for each layer up to `last`
    cross-attention's softmax weights (1, heads, length, frames) float32
    """
    return AlignmentLayers(config, layers, norms).build(last)
