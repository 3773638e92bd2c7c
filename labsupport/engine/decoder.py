"""The decoder as an OpenVINO graph: a step takes tokens and gives logits.

Self-attention's cache is a variable of the graph to which each step appends; the plugin fuses that with attention, and
writes in place. Cross-attention's keys and values come from outside, once computed for a window: all texts of a window
read them in one product, and where the processor multiplies bfloat16, they are stored so. A variable of eight bits, as
self-attention has it, is half as large and takes twice as long (`./lab bench engine_pieces`).

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
        """(rows, length, d_model) -> the same shape"""
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
        attended = self.attend_sound(name, linear(h, self.layers(f"{name}.cross_q")))
        x = ops.add(x, linear(attended, self.layers(f"{name}.cross_out")))
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


def attend_windows(q: Node, k: Node, v: Node, heads: int, head_dim: int) -> tuple[Node, Node]:
    """Attention of texts to their windows' sound, those of one window in one product.

    q (rows, length, d_model), each window's rows together; k and v (windows, heads, frames, head_dim).

    Returns:
        what is attended to (rows, length, d_model), and the weights (windows, heads, rows / windows * length, frames)
    """
    size = ops.concat([size_of(k, 0), integers(-1, heads, head_dim)], 0)
    together = ops.transpose(ops.reshape(q, size, False), integers(0, 2, 1, 3))  # (windows, heads, queries, head_dim)
    scores = ops.matmul(ops.multiply(together, constant(np.float32(head_dim**-0.5))), k, False, True)
    weights = ops.softmax(scores, -1)
    attended = ops.transpose(ops.matmul(weights, v, False, False), integers(0, 2, 1, 3))
    return ops.reshape(attended, ops.concat([size_of(q, 0), integers(-1, heads * head_dim)], 0), False), weights


def cross_names(config: Config) -> list[str]:
    """Of the step's inputs for cross-attention, layer by layer."""
    return [f"decoder.layers.{number}.cross_{part}" for number in range(config.decoder_layers) for part in "kv"]


class StepLayers(TextLayers):
    """The layers of a step; see `build_decoder`."""

    def __init__(self, config: Config, layers: Layers, norms: Norms, stored: str):
        super().__init__(config, layers, norms)
        self.inputs = {name: ops.parameter(shape, dtype, name=name) for name, (shape, dtype) in INPUTS.items()}
        shape = ov.PartialShape([-1, config.heads, -1, config.head_dim])
        self.cross = {name: ops.parameter(shape, getattr(ov.Type, stored), name=name) for name in cross_names(config)}
        self.variables = Variables(config.heads, config.head_dim, self.inputs["rows"])

    def build(self) -> ov.Model:
        x = self.embed(self.inputs["tokens"], self.inputs["positions"])
        for number in range(self.config.decoder_layers):
            x = self.layer(x, f"decoder.layers.{number}")
        x = ops.gather(self.norm("decoder.layer_norm", x), self.inputs["kept"], ops.constant(np.int64(1)))
        outputs = [ops.result(self.project_vocabulary(x))]
        inputs = [*self.inputs.values(), *self.cross.values()]
        return ov.Model(outputs, self.variables.assigned, inputs, "decoder")

    def attend_text(self, name: str, q: Node, k: Node, v: Node) -> Node:
        k, v = self.variables.append(f"{name}.k", k), self.variables.append(f"{name}.v", v)
        return ops.scaled_dot_product_attention(q, k, v, self.inputs["self_mask"], causal=False)

    def attend_sound(self, name: str, q: Node) -> Node:
        k, v = (ops.convert(self.cross[f"{name}.cross_{part}"], "f32") for part in "kv")
        return attend_windows(q, k, v, self.config.heads, self.config.head_dim)[0]


def build_decoder(config: Config, layers: Layers, norms: Norms, stored: str) -> ov.Model:
    """A step of any number of rows and tokens, after those in the variables.

    Inputs: tokens (rows, length) int64; positions (length,) int64; rows (rows,) int32, which row of the step before
    each goes on from; self_mask (1, 1, length, past + length) float32, added to the scores; kept (kept,) int64, of
    which tokens the logits are wanted; `cross_names`, (windows, heads, frames, head_dim) as they are `stored`, of which
    each window's rows follow one another. Output: logits (rows, kept, vocab) float32. Variables: decoder.layers.N.k and
    .v, (rows, heads, length, head_dim) float32.

    Args:
        stored: OpenVINO's name of the type that cross-attention's keys and values have: "bf16", "f32".
    """
    return StepLayers(config, layers, norms, stored).build()


def build_cross_kv(config: Config, layers: Layers, stored: str) -> ov.Model:
    """encoder_out (windows, frames, d_model) -> `cross_names`, (windows, heads, frames, head_dim) each

    Keys and values by a product each: of one product for both, the plugin would copy everything to split it.
    """
    encoder_out = ops.parameter([-1, -1, config.d_model], np.float32, name="encoder_out")
    projected = [linear(encoder_out, layers(name)) for name in cross_names(config)]
    outputs = [ops.convert(split_heads(each, config.heads, config.head_dim), stored) for each in projected]
    return ov.Model([ops.result(each) for each in outputs], [encoder_out], "cross_kv")


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
        k, v = (self.heads(linear(self.encoder_out, self.layers(f"{name}.cross_{part}"))) for part in "kv")
        attended, weights = attend_windows(q, k, v, self.config.heads, self.config.head_dim)
        self.weights.append(weights)  # (1, heads, length, frames)
        return attended


def build_alignment(config: Config, layers: Layers, norms: Norms, last: int) -> ov.Model:
    """tokens (1, length) int64, encoder_out (1, frames, d_model) float32 -> for each layer up to `last`
    cross-attention's softmax weights (1, heads, length, frames) float32
    """
    return AlignmentLayers(config, layers, norms).build(last)
