"""Which library is to carry the fast engine's arithmetic: OpenVINO, ONNX Runtime, or oneDNN through torch, by pieces.

    ./lab bench engine_pieces --model base --runs 15

A piece is a product or an attention with the model's own weights; each library computes it in each form that it has
kernels for, in a process of its own, in turns. The forms: float32; bfloat16, of which ONNX Runtime has none on CPUs;
int8, where weights are in eight bits and inputs too (ONNX Runtime finds their range anew each time) or, for the
decoder's few rows, the weights alone. A result too far from the exact one ends the benchmark.

Source: article C, section 3.2 (int8).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from labsupport.base.errors import BenchError
from labsupport.engine.quantization import Range, quantize, symmetric_range
from labsupport.engine.rounding import EXACT, Rounding
from labsupport.results import worker
from labsupport.results.recording import Recording

LIBRARIES = ("openvino", "onnxruntime", "torch")
STEPS = 32  # of the decoder's pieces in one measurement: one alone is over before a clock is read well
FARTHEST = {"float32": 1e-5, "bfloat16": 0.02, "int8": 0.1}  # from the exact result, as norms
SEED = 0
Work = Callable[[], np.ndarray]


@dataclass(frozen=True)
class Products:
    """One after the other, as `x @ weight.T`.

    weights: (out, in) each. inputs: (rows, in) of the first. ranges: of each one's inputs; None: they stay as they are.
    """

    inputs: np.ndarray
    weights: list[np.ndarray]
    ranges: list[Range] | None = None

    def exact(self) -> np.ndarray:
        x = self.inputs.astype(np.float64)
        for weight in self.weights:
            x = x @ weight.T  # (rows, in) -> (rows, out)
        return x


@dataclass(frozen=True)
class Attention:
    """q (rows, heads, queries, head_dim), k and v (rows, heads, keys, head_dim).

    fixed: k and v stay from run to run.
    """

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    fixed: bool

    def exact(self) -> np.ndarray:
        q, k, v = (array.astype(np.float64) for array in (self.q, self.k, self.v))
        scores = q @ k.swapaxes(-1, -2) * q.shape[-1] ** -0.5  # (rows, heads, queries, keys)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        return weights / weights.sum(-1, keepdims=True) @ v


def run(model: str, runs: int, clip: str) -> None:
    recording = Recording("engine_pieces", model)
    started = (worker.start(name, __name__, name, model, backend="torch") for name in LIBRARIES)
    recording.workers("{task}: {worker}", started, runs, warmup=2)


def make_tasks(library: str, model: str) -> dict[str, Callable[[], str]]:
    """Piece and form -> what is timed, of those that the library has kernels for."""
    makers = {"openvino": openvino_work, "onnxruntime": onnxruntime_work, "torch": torch_work}
    tasks = {}
    for name, piece in make_pieces(model).items():
        for form, farthest in FARTHEST.items():
            if (work := makers[library](piece, form)) is None:
                continue
            error = np.linalg.norm(work() - (exact := piece.exact())) / np.linalg.norm(exact)
            if not error < farthest:
                raise BenchError(f"{name} in {form} by {library} is {error:.2g} from the exact result.")
            tasks[f"{name}, {form}"] = repeat(work, 1 if name.startswith("encoder") else STEPS)
    return tasks


def repeat(work: Work, times: int) -> Callable[[], str]:
    def repeated() -> str:
        for _ in range(times - 1):
            work()
        return str(work().shape)

    return repeated


# --- the pieces -------------------------------------------------------------------------------------------------------


def make_pieces(model: str) -> dict[str, Products | Attention]:
    """Of the model's shape and weights; inputs are random, seeded."""
    from labsupport.checkpoints.resolve import find_checkpoint
    from labsupport.engine.weights import Weights, read_tensors

    checkpoint = find_checkpoint(model)
    config, random = checkpoint.config, np.random.default_rng(SEED)
    weights = Weights(read_tensors(checkpoint), int8=False)

    def normal(*shape: int) -> np.ndarray:
        return random.standard_normal(shape, np.float32)

    def feed_forward(part: str, layers: int) -> list[np.ndarray]:
        names = [f"{part}.layers.{number}.{name}" for number in range(layers) for name in ("fc1", "fc2")]
        return [np.asarray(weights.layer(name).weight) for name in names]

    def attention(rows: int, queries: int) -> Attention:
        size = (rows, config.heads, config.audio_positions, config.head_dim)
        q = normal(rows, config.heads, queries, config.head_dim)
        return Attention(q, normal(*size), normal(*size), fixed=queries == 1)

    places, vocabulary = config.audio_positions, np.asarray(weights.layer("vocabulary").weight)
    pieces: dict[str, Products | Attention] = {
        "encoder: a feed-forward net": with_ranges(normal(places, config.d_model), feed_forward("encoder", 1)),
        "encoder: attention": attention(1, places),
    }
    for rows in (1, 8):
        x, layers = normal(rows, config.d_model), feed_forward("decoder", config.decoder_layers)
        pieces |= {
            f"{STEPS} steps, {rows} texts: feed-forward nets": Products(x, layers),
            f"{STEPS} steps, {rows} texts: logits": Products(x, [vocabulary]),
            f"{STEPS} steps, {rows} texts: a layer's cross-attention": attention(rows, 1),
        }
    return pieces


def with_ranges(x: np.ndarray, weights: list[np.ndarray]) -> Products:
    ranges, inputs = [], x
    for weight in weights:
        ranges.append(symmetric_range(float(np.abs(x).max())))
        x = x @ weight.T  # (rows, in) -> (rows, out)
    return Products(inputs, weights, ranges)


# --- OpenVINO: the engine's own operations ----------------------------------------------------------------------------


def openvino_work(piece: Products | Attention, form: str) -> Work | None:
    if isinstance(piece, Products):
        return openvino_products(piece, form)
    if piece.fixed:
        return openvino_fixed_attention(piece, form)
    return None if form == "int8" else openvino_attention(piece, form)


def rounding(form: str) -> Rounding:
    """bfloat16 and int8 as the engine has them: what stays float is bfloat16 in both."""
    return EXACT if form == "float32" else Rounding(True, False, False, False, cache=form == "int8")


def openvino_products(piece: Products, form: str) -> Work:
    import openvino as ov
    from openvino import opset15 as ops

    from labsupport.engine.ops import Linear, linear
    from labsupport.engine.runtime import compile_graph

    inputs = x = ops.parameter([-1, piece.inputs.shape[1]], np.float32)
    for number, weight in enumerate(piece.weights):
        stored = quantize(weight) if form == "int8" else weight
        x = linear(x, Linear(stored, inputs=piece.ranges[number] if piece.ranges and form == "int8" else None))
    request = compile_graph(ov.Model([x], [inputs]), rounding(form)).create_infer_request()
    return lambda: request.infer([piece.inputs], share_inputs=True, share_outputs=True)[0]


def openvino_attention(piece: Attention, form: str) -> Work:
    import openvino as ov
    from openvino import opset15 as ops

    from labsupport.engine.runtime import compile_graph

    arrays = [piece.q, piece.k, piece.v]
    parameters = [ops.parameter(array.shape, np.float32) for array in arrays]
    graph = ov.Model([ops.scaled_dot_product_attention(*parameters, causal=False)], parameters)
    request = compile_graph(graph, rounding(form)).create_infer_request()
    return lambda: request.infer(arrays, share_inputs=True, share_outputs=True)[0]


def openvino_fixed_attention(piece: Attention, form: str) -> Work:
    """Keys and values are given once: as the engine's decoder has them, or in eight bits, as variables of the graph."""
    if form == "int8":
        return openvino_variables(piece)
    import openvino as ov
    from openvino import opset15 as ops

    from labsupport.engine.decoder import attend_windows
    from labsupport.engine.runtime import compile_graph, computed_type

    stored, (rows, heads, _, head_dim) = computed_type(rounding(form)), piece.q.shape
    q = ops.parameter([rows, 1, heads * head_dim], np.float32)
    k, v = (ops.parameter(piece.k.shape, getattr(ov.Type, stored)) for _ in "kv")
    attended, _ = attend_windows(q, ops.convert(k, "f32"), ops.convert(v, "f32"), heads, head_dim)
    request = compile_graph(ov.Model([attended], [q, k, v]), rounding(form)).create_infer_request()
    request.set_input_tensor(0, ov.Tensor(piece.q.reshape(rows, 1, heads * head_dim)))
    given = [convert(array, stored, form) for array in (piece.k, piece.v)]
    for number, each in enumerate(given, start=1):
        request.set_input_tensor(number, each.get_output_tensor())

    def work() -> np.ndarray:
        request.infer()
        return request.get_output_tensor().data.reshape(piece.q.shape)

    return work


def convert(array: np.ndarray, stored: str, form: str):
    """A request whose output is the array in another type: NumPy has no bfloat16."""
    import openvino as ov
    from openvino import opset15 as ops

    from labsupport.engine.runtime import compile_graph

    given = ops.parameter(array.shape, np.float32)
    request = compile_graph(ov.Model([ops.convert(given, stored)], [given]), rounding(form)).create_infer_request()
    request.infer([array])
    return request


def openvino_variables(piece: Attention) -> Work:
    """In eight bits the plugin holds them in variables alone, to which each step appends: here a row that is hidden."""
    import openvino as ov
    from openvino import opset15 as ops

    from labsupport.engine.decoder import Variables
    from labsupport.engine.runtime import compile_graph
    from labsupport.engine.step_cache import HIDDEN

    rows, heads, _, head_dim = piece.q.shape
    q, indices = ops.parameter(piece.q.shape, np.float32), ops.parameter([-1], np.int32)
    new, mask = ops.parameter(piece.q.shape, np.float32), ops.parameter([1, 1, 1, -1], np.float32)
    variables = Variables(heads, head_dim, indices)
    k, v = (variables.append(name, new) for name in "kv")
    attended = ops.scaled_dot_product_attention(q, k, v, mask, causal=False)
    graph = ov.Model([ops.result(attended)], variables.assigned, [q, indices, new, mask])
    request = compile_graph(graph, rounding("int8")).create_infer_request()
    for state in request.query_state():
        state.state = ov.Tensor(piece.k if state.name == "k" else piece.v)
    hidden = np.zeros(piece.k.shape[2], np.float32)

    def work() -> np.ndarray:
        nonlocal hidden
        hidden = np.append(hidden, HIDDEN)
        given = [piece.q, np.arange(rows, dtype=np.int32), np.zeros_like(piece.q), hidden[None, None, None]]
        return request.infer(given, share_inputs=True, share_outputs=True)[0]

    return work


# --- ONNX Runtime -----------------------------------------------------------------------------------------------------

HEAD = '<ir_version: 10, opset_import: ["": 21, "com.microsoft": 1]>\n'


def onnxruntime_work(piece: Products | Attention, form: str) -> Work | None:
    if form == "bfloat16" or (isinstance(piece, Attention) and form == "int8"):
        return None  # it has no such kernel for CPUs
    text, weights, inputs = onnx_products(piece, form) if isinstance(piece, Products) else onnx_attention(piece)
    import onnx
    from onnx import numpy_helper, parser

    from labsupport.graphs.session import open_session

    graph: onnx.ModelProto = parser.parse_model(HEAD + text)
    graph.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    session = open_session(graph)
    if isinstance(piece, Products):
        return lambda: session.run(None, inputs)[0]
    rows, heads, queries, head_dim = piece.q.shape
    split = (rows, queries, heads, head_dim)
    return lambda: session.run(None, inputs)[0].reshape(split).swapaxes(1, 2)  # (rows, heads, queries, head_dim)


def onnx_products(piece: Products, form: str) -> tuple[str, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """A graph's text, its weights and its inputs."""
    lines: list[str] = []
    weights: dict[str, np.ndarray] = {}
    for number, weight in enumerate(piece.weights):
        if form == "int8":
            rounded = quantize(weight)
            weights |= {f"w{number}": np.ascontiguousarray(rounded.codes.T), f"s{number}": rounded.scales[:, 0]}
            product = f"com.microsoft.DynamicQuantizeMatMul (x{number}, w{number}, s{number})"
        else:
            weights[f"w{number}"] = np.ascontiguousarray(weight.T)
            product = f"MatMul (x{number}, w{number})"
        lines.append(f"x{number + 1} = {product}")
    last = len(piece.weights)
    text = f"products (float[n, i] x0) => (float[n, o] x{last}) {{ {' '.join(lines)} }}"
    return text, weights, {"x0": piece.inputs}


def onnx_attention(piece: Attention) -> tuple[str, dict[str, np.ndarray], dict[str, np.ndarray]]:
    rows, heads, queries, head_dim = piece.q.shape
    text = f"""attention (float[b, q, d] q, float[b, h, n, e] k, float[b, h, n, e] v) => (float[b, q, d] y)
    {{ y = com.microsoft.MultiHeadAttention <num_heads: int = {heads}> (q, k, v) }}"""
    q = np.ascontiguousarray(piece.q.swapaxes(1, 2)).reshape(rows, queries, heads * head_dim)
    return text, {}, {"q": q, "k": piece.k, "v": piece.v}


# --- oneDNN through torch ---------------------------------------------------------------------------------------------


def torch_work(piece: Products | Attention, form: str) -> Work | None:
    import torch

    if isinstance(piece, Attention):
        return None if form == "int8" else torch_attention(piece, getattr(torch, form))
    if form != "int8":
        return torch_products(piece, getattr(torch, form))
    return torch_int8(piece) if piece.ranges else torch_int8_weights(piece)


def torch_products(piece: Products, dtype) -> Work:
    import torch
    from torch.nn import functional as F

    weights = [torch.from_numpy(weight).to(dtype) for weight in piece.weights]

    @torch.inference_mode()
    def work() -> np.ndarray:
        x = torch.from_numpy(piece.inputs).to(dtype)
        for weight in weights:
            x = F.linear(x, weight)  # (rows, in) -> (rows, out)
        return x.float().numpy()

    return work


def torch_attention(piece: Attention, dtype) -> Work:
    import torch
    from torch.nn import functional as F

    q, k, v = (torch.from_numpy(array).to(dtype) for array in (piece.q, piece.k, piece.v))

    @torch.inference_mode()
    def work() -> np.ndarray:
        return F.scaled_dot_product_attention(q, k, v).float().numpy()

    return work


def torch_int8(piece: Products) -> Work:
    """oneDNN's product of integers; a result is rounded for the next product in the same kernel."""
    import torch

    assert piece.ranges is not None
    scales = [high / 127 for _, high in piece.ranges]
    rounded = [quantize(weight) for weight in piece.weights]
    prepack, product = torch.ops.onednn.qlinear_prepack, torch.ops.onednn.qlinear_pointwise
    packed = [prepack(torch.from_numpy(each.codes), None) for each in rounded]
    steps = [torch.from_numpy(each.scales[:, 0]) for each in rounded]
    zeros = [torch.zeros(len(each), dtype=torch.int64) for each in steps]
    outputs = [*((scale, 128, torch.uint8) for scale in scales[1:]), (1.0, 0, torch.float32)]

    @torch.inference_mode()
    def work() -> np.ndarray:
        x = torch.from_numpy(piece.inputs).mul(1 / scales[0]).round_().add_(128).clamp_(0, 255).to(torch.uint8)
        for scale, weight, step, zero, (out, offset, dtype) in zip(scales, packed, steps, zeros, outputs, strict=True):
            x = product(x, scale, 128, weight, step, zero, None, out, offset, dtype, "none", [], "")
        return x.numpy()

    return work


def torch_int8_weights(piece: Products) -> Work:
    """Weights in eight bits, inputs in bfloat16: a kernel of torch's own."""
    import torch

    rounded = [quantize(weight) for weight in piece.weights]
    codes = [torch.from_numpy(each.codes) for each in rounded]
    scales = [torch.from_numpy(each.scales[:, 0]).bfloat16() for each in rounded]

    @torch.inference_mode()
    def work() -> np.ndarray:
        x = torch.from_numpy(piece.inputs).bfloat16()
        for each, scale in zip(codes, scales, strict=True):
            x = torch.ops.aten._weight_int8pack_mm(x, each, scale)  # (rows, in) -> (rows, out)
        return x.float().numpy()

    return work
