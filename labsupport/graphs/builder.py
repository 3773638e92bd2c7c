"""What Whisper's ONNX graphs are made of: a graph under construction, and a transformer's parts.

No exporter is involved: a graph holds exactly the nodes that are written here.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import helper, numpy_helper

from labsupport.checkpoints.config import Config

OPSET = 17  # the first with LayerNormalization; TPU-MLIR 1.30 and ONNX Runtime 1.23 both read it
EPSILON = 1e-5  # of every layer norm


class Graph:
    """An ONNX graph under construction. A value is known by its name; every method that adds a node returns one."""

    def __init__(self, name: str, tensors: dict[str, np.ndarray]):
        self.name, self.tensors = name, tensors
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, onnx.TensorProto] = {}
        self.names: dict[str, int] = {}

    def input(self, name: str, dtype: type, shape: Iterable[int | str]) -> str:
        """A value from outside; a string in `shape` names a symbolic length."""
        self.inputs.append(declare(name, dtype, shape))
        return name

    def output(self, value: str, name: str, dtype: type, shape: Iterable[int | str]) -> str:
        """Makes `value` an output of the graph and renames it to `name`, inside the graph too."""
        for node in self.nodes:
            node.input[:] = [name if given == value else given for given in node.input]
            node.output[:] = [name if given == value else given for given in node.output]
        self.outputs.append(declare(name, dtype, shape))
        return name

    def op(self, kind: str, *inputs: str, name: str, **attributes) -> str:
        """Adds a node; `name` says where in the model it stands, and need not be unique."""
        self.names[name] = count = self.names.get(name, 0) + 1
        value = name if count == 1 else f"{name}.{count}"
        self.nodes.append(helper.make_node(kind, list(inputs), [value], name=value, **attributes))
        return value

    def split(self, value: str, lengths: str, axis: int, parts: int, name: str) -> list[str]:
        """Adds a Split into as many parts as there are `lengths`."""
        names = [f"{name}.{part}" for part in range(parts)]
        self.nodes.append(helper.make_node("Split", [value, lengths], names, name=name, axis=axis))
        return names

    def constant(self, name: str, array) -> str:
        """A constant; the first array given under a name stays."""
        if name not in self.weights:
            self.weights[name] = numpy_helper.from_array(np.asarray(array), name)
        return name

    def weight(self, name: str, transpose: bool = False) -> str:
        """A tensor of the checkpoint, whose names begin with "model."."""
        tensor = self.tensors[f"model.{name}"]
        return self.constant(f"{name}.T", tensor.T) if transpose else self.constant(name, tensor)

    def finish(self) -> onnx.ModelProto:
        graph = helper.make_graph(self.nodes, self.name, self.inputs, self.outputs, list(self.weights.values()))
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8, producer_name="speech-inference-lab"
        )


def declare(name: str, dtype: type, shape: Iterable[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), list(shape))


def linear(g: Graph, x: str, name: str, bias: bool = True) -> str:
    """(…, in) -> (…, out)"""
    y = g.op("MatMul", x, g.weight(f"{name}.weight", transpose=True), name=f"{name}/MatMul")  # (…, out)
    return g.op("Add", y, g.weight(f"{name}.bias"), name=f"{name}/Add") if bias else y


def layer_norm(g: Graph, x: str, name: str) -> str:
    weights = g.weight(f"{name}.weight"), g.weight(f"{name}.bias")
    return g.op("LayerNormalization", x, *weights, name=f"{name}/LayerNormalization", axis=-1, epsilon=EPSILON)


def gelu(g: Graph, x: str, name: str) -> str:
    """x / 2 * (1 + erf(x / sqrt 2)), as exporters write it."""
    scaled = g.op("Div", x, g.constant("sqrt_2", np.float32(np.sqrt(2))), name=f"{name}/Div")
    error = g.op("Erf", scaled, name=f"{name}/Erf")
    raised = g.op("Add", error, g.constant("one", np.float32(1)), name=f"{name}/Add")
    product = g.op("Mul", x, raised, name=f"{name}/Mul")
    return g.op("Mul", product, g.constant("half", np.float32(0.5)), name=f"{name}/Mul")


def feed_forward(g: Graph, x: str, layer: str) -> str:
    """(batch, length, d_model) -> the same: a layer's second half, added to its residual path"""
    h = layer_norm(g, x, f"{layer}.final_layer_norm")
    h = gelu(g, linear(g, h, f"{layer}.fc1"), f"{layer}.gelu")
    return g.op("Add", x, linear(g, h, f"{layer}.fc2"), name=f"{layer}.feed_forward/Add")


def split_heads(g: Graph, x: str, config: Config, name: str) -> str:
    """(batch, length, d_model) -> (batch, length, heads, head_dim)"""
    shape = g.constant("heads_apart", np.array([0, 0, config.heads, config.head_dim], np.int64))
    return g.op("Reshape", x, shape, name=f"{name}/Reshape")


def keys_values(g: Graph, x: str, config: Config, attention: str) -> tuple[str, str]:
    """(batch, length, d_model) -> keys and values, each (batch, length, heads, head_dim)"""
    k = linear(g, x, f"{attention}.k_proj", bias=False)
    v = linear(g, x, f"{attention}.v_proj")
    return split_heads(g, k, config, f"{attention}.k_proj"), split_heads(g, v, config, f"{attention}.v_proj")


def add_attention(
    g: Graph, x: str, h: str, kv: Iterable[str], config: Config, attention: str, mask: str | None = None
) -> str:
    """The residual path x, (batch, queries, d_model), plus the attention of the normed `h` to these keys and values.

    Keys and values are (batch, keys, heads, head_dim); `mask` is added to the scores, (queries, keys) or more axes.
    Heads are brought forward for each matrix product and put back after it, as exporters leave them.
    """
    k, v = kv
    scale = g.constant("attention_scale", np.float32(config.head_dim**-0.5))
    q = g.op("Mul", linear(g, h, f"{attention}.q_proj"), scale, name=f"{attention}.q_proj/Mul")
    q = split_heads(g, q, config, f"{attention}.q_proj")  # (batch, queries, heads, head_dim)
    q = g.op("Transpose", q, perm=[0, 2, 1, 3], name=f"{attention}/q_Transpose")  # (batch, heads, queries, head_dim)
    k = g.op("Transpose", k, perm=[0, 2, 3, 1], name=f"{attention}/k_Transpose")  # (batch, heads, head_dim, keys)
    v = g.op("Transpose", v, perm=[0, 2, 1, 3], name=f"{attention}/v_Transpose")  # (batch, heads, keys, head_dim)
    scores = g.op("MatMul", q, k, name=f"{attention}/qk_MatMul")  # (batch, heads, queries, keys)
    if mask is not None:
        scores = g.op("Add", scores, mask, name=f"{attention}/mask_Add")
    weights = g.op("Softmax", scores, axis=-1, name=f"{attention}/Softmax")
    y = g.op("MatMul", weights, v, name=f"{attention}/wv_MatMul")  # (batch, heads, queries, head_dim)
    y = g.op("Transpose", y, perm=[0, 2, 1, 3], name=f"{attention}/out_Transpose")  # (batch, queries, heads, head_dim)
    shape = g.constant("heads_joined", np.array([0, 0, -1], np.int64))
    y = g.op("Reshape", y, shape, name=f"{attention}/Reshape")  # (batch, queries, d_model)
    return g.op("Add", x, linear(g, y, f"{attention}.out_proj"), name=f"{attention}/residual_Add")


def project_vocabulary(g: Graph, x: str, weight: str, config: Config) -> str:
    """(batch, length, d_model) @ the transpose of `weight`, rows of the tied embedding -> (batch * length, rows)

    A Gemm reads the embedding as it lies, so that the file holds it once.
    """
    shape = g.constant("d_model_last", np.array([-1, config.d_model], np.int64))
    x = g.op("Reshape", x, shape, name="logits/flatten")  # (batch * length, d_model)
    return g.op("Gemm", x, weight, transB=1, name="logits/Gemm")
