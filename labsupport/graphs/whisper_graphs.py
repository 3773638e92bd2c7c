"""Whisper's parts as ONNX graphs, written by hand from a checkpoint: article B's pipeline.

    samples -> features -> encoder -> language -> prefill -> decoder_step, rearrange, decoder_step, rearrange, ...

Every builder gives an `onnx.ModelProto`; no framework is needed. Floats are float32, whole numbers int64. Keys and
values are (batch, length, heads, head_dim).
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx.numpy_helper import from_array, to_array

from labsupport.checkpoints.config import Config
from labsupport.checkpoints.resolve import Checkpoint
from labsupport.graphs import builder
from labsupport.graphs.builder import Graph, add_attention, feed_forward, gelu, keys_values, layer_norm
from labsupport.graphs.loop_interface import PLAIN
from labsupport.speech.features import FFT, HOP, WINDOW_FRAMES, mel_filters

BEAMS = 5  # of the article

# --- audio -----------------------------------------------------------------------------------------------------------


def features(checkpoint: Checkpoint) -> onnx.ModelProto:
    """samples (1, n) -> mel (1, mels, frames): what `features.log_mel` computes, to 1e-4, for any n."""
    config = checkpoint.config
    g = Graph("features", {})
    samples = pad_window(g, g.input("samples", np.float32, (1, "samples")))
    log = log_energy(g, power_spectrum(g, samples), config.mels)
    loudest = g.op("ReduceMax", log, name="loudest/ReduceMax")
    floor = g.op("Sub", loudest, g.constant("eighty_decibels", np.float32(8)), name="loudest/Sub")
    raised = g.op("Add", g.op("Max", log, floor, name="scale/Max"), g.constant("four", np.float32(4)), name="scale/Add")
    mel = g.op("Div", raised, g.constant("four", np.float32(4)), name="scale/Div")
    g.output(mel, "mel", np.float32, (1, config.mels, "frames"))
    return g.finish()


def pad_window(g: Graph, samples: str) -> str:
    """(1, n) -> (1, 1, n'): zeros up to 30 s, then half a frame at both ends, mirrored."""
    zero, window = (g.constant(name, np.array([n])) for name, n in (("zero", 0), ("window", WINDOW_FRAMES * HOP)))
    length = g.op("Shape", samples, start=1, name="pad/Shape")
    lacking = g.op("Max", g.op("Sub", window, length, name="pad/Sub"), zero, name="pad/Max")
    ends = g.op("Concat", g.constant("no_ends", np.zeros(3, np.int64)), lacking, axis=0, name="pad/Concat")
    padded = g.op("Pad", samples, ends, name="pad/Pad")  # (1, at least 480000)
    half = g.constant("half_frame", np.array([0, FFT // 2, 0, FFT // 2]))
    mirrored = g.op("Pad", padded, half, mode="reflect", name="reflect/Pad")
    return g.op("Unsqueeze", mirrored, g.constant("second", np.array([1])), name="reflect/Unsqueeze")  # (1, 1, n')


def power_spectrum(g: Graph, samples: str) -> str:
    """(1, 1, n) -> (1, 201, frames): the Fourier transform of each frame as a convolution with cosines and sines."""
    bins, times = np.arange(FFT // 2 + 1), np.arange(FFT)
    waves = np.hanning(FFT + 1)[:-1] * np.exp(2j * np.pi / FFT * (bins[:, None] * times % FFT))
    basis = g.constant("fourier_basis", np.concatenate([waves.real, waves.imag])[:, None].astype(np.float32))
    amplitudes = g.op("Conv", samples, basis, strides=[HOP], name="spectrum/Conv")  # (1, 402, frames)
    squares = g.op("Mul", amplitudes, amplitudes, name="spectrum/Mul")
    halves = g.constant("real_imaginary", np.array([len(bins), len(bins)]))
    real, imaginary = g.split(squares, halves, axis=1, parts=2, name="spectrum/Split")  # (1, 201, frames) each
    return g.op("Add", real, imaginary, name="spectrum/Add")


def log_energy(g: Graph, power: str, mels: int) -> str:
    """(1, 201, frames) -> (1, mels, frames - 1): log10 of the energy in each mel band, without the last frame."""
    filters = g.constant("mel_filters", mel_filters(mels).astype(np.float32))
    bands = g.op("MatMul", filters, power, name="mel/MatMul")  # (1, mels, frames)
    ends = (g.constant(name, np.array([n])) for name, n in (("first", 0), ("last", -1), ("frame_axis", 2)))
    bands = g.op("Slice", bands, *ends, name="mel/Slice")
    clipped = g.op("Max", bands, g.constant("silence", np.float32(1e-10)), name="mel/Max")
    log = g.op("Log", clipped, name="mel/Log")
    return g.op("Mul", log, g.constant("log10_e", np.float32(np.log10(np.e))), name="mel/Mul")


def encoder(checkpoint: Checkpoint) -> onnx.ModelProto:
    """mel (batch, mels, 3000) -> encoder_out (batch, 1500, d_model)"""
    config = checkpoint.config
    g = Graph("encoder", dict(checkpoint.tensors()))
    mel = g.input("mel", np.float32, ("batch", config.mels, 2 * config.audio_positions))
    x = gelu(g, convolve(g, mel, "encoder.conv1", stride=1), "encoder.gelu1")  # (batch, d_model, 3000)
    x = gelu(g, convolve(g, x, "encoder.conv2", stride=2), "encoder.gelu2")  # (batch, d_model, 1500)
    x = g.op("Transpose", x, perm=[0, 2, 1], name="encoder.conv2/Transpose")  # (batch, 1500, d_model)
    x = g.op("Add", x, g.weight("encoder.embed_positions.weight"), name="encoder.embed_positions/Add")
    for number in range(config.encoder_layers):
        x = encoder_layer(g, x, f"encoder.layers.{number}", config)
    x = layer_norm(g, x, "encoder.layer_norm")
    g.output(x, "encoder_out", np.float32, ("batch", config.audio_positions, config.d_model))
    return g.finish()


def convolve(g: Graph, x: str, name: str, stride: int) -> str:
    """(batch, channels, frames) -> (batch, d_model, frames / stride), by kernels of 3 frames"""
    weights = g.weight(f"{name}.weight"), g.weight(f"{name}.bias")
    return g.op("Conv", x, *weights, strides=[stride], pads=[1, 1], name=f"{name}/Conv")


def encoder_layer(g: Graph, x: str, layer: str, config: Config) -> str:
    """Self-attention and the feed-forward net: (batch, 1500, d_model) -> the same"""
    attention = f"{layer}.self_attn"
    h = layer_norm(g, x, f"{layer}.self_attn_layer_norm")
    x = add_attention(g, x, h, keys_values(g, h, config, attention), config, attention)
    return feed_forward(g, x, layer)


# --- text ------------------------------------------------------------------------------------------------------------


def language(checkpoint: Checkpoint, start: int, languages: list[int]) -> onnx.ModelProto:
    """encoder_out (batch, 1500, d_model) -> logits (batch, languages): of these languages' tokens, after `start`."""
    config = checkpoint.config
    g = Graph("language", dict(checkpoint.tensors()))
    encoder_out = g.input("encoder_out", np.float32, ("batch", config.audio_positions, config.d_model))
    tokens = g.constant("start_token", np.array([[start]]))
    x, _ = decoder(g, tokens, g.constant("first_position", np.array([0])), encoder_out, config)
    rows = g.tensors["model.decoder.embed_tokens.weight"][languages]
    logits = builder.project_vocabulary(g, x, g.constant("language_tokens", rows), config)
    g.output(logits, "logits", np.float32, ("batch", len(languages)))
    return g.finish()


def prefill(checkpoint: Checkpoint, cross_layout: tuple[int, ...] = PLAIN) -> onnx.ModelProto:
    """The decoder over a prompt, which also computes what every later step needs.

    Inputs: tokens (batch, length), encoder_out (batch, 1500, d_model), logits_to_keep (1,) int64: of so many last
    tokens the logits are given, 0 for all. Outputs: logits (batch, length or logits_to_keep, vocab); for each layer i
    cross_k.i and cross_v.i (batch, 1500, heads, head_dim), k.i and v.i (batch, length, heads, head_dim). The
    loop graph may want cross_k.i and cross_v.i with their axes in another order, `cross_layout`: see `LoopInterface`.
    """
    config = checkpoint.config
    g = Graph("prefill", dict(checkpoint.tensors()))
    _, x, caches = read_text(g, config, "batch")
    first = g.op("Neg", g.input("logits_to_keep", np.int64, (1,)), name="logits/Neg")  # 0 stays 0: from the first on
    end = g.constant("past_the_end", np.array([np.iinfo(np.int64).max]))
    axis = g.constant("axis_of_length", np.array([1]))
    x = g.op("Slice", x, first, end, axis, name="logits/Slice")  # (batch, kept, d_model)
    logits = builder.project_vocabulary(g, x, g.weight("decoder.embed_tokens.weight"), config)
    vocabulary = g.constant("vocabulary", np.array([config.vocab_size]))
    shape = g.op("Shape", x, end=2, name="logits/Shape")  # batch, kept
    ends = g.op("Concat", shape, vocabulary, axis=0, name="logits/Concat")
    logits = g.op("Reshape", logits, ends, name="logits/Reshape")  # (batch, kept, vocab)
    g.output(logits, "logits", np.float32, ("batch", "kept", config.vocab_size))
    for name, value in caches.items():
        if name.startswith("cross"):
            value = g.op("Transpose", value, perm=cross_layout, name=f"{name}/Transpose")
            sizes = ("batch", config.audio_positions, config.heads, config.head_dim)
            g.output(value, name, np.float32, [sizes[axis] for axis in cross_layout])
        else:
            g.output(value, name, np.float32, ("batch", "length", config.heads, config.head_dim))
    return g.finish()


def cross_attention(checkpoint: Checkpoint) -> onnx.ModelProto:
    """The decoder over a whole text of one window, for what each token attends to.

    Inputs: tokens (1, length), encoder_out (1, 1500, d_model). Outputs: for each layer i weights.i
    (1, heads, length, 1500), cross-attention's softmax weights.
    """
    config = checkpoint.config
    g = Graph("cross_attention", dict(checkpoint.tensors()))
    read_text(g, config, 1)
    for number in range(config.decoder_layers):
        softmax = f"decoder.layers.{number}.encoder_attn/Softmax"
        g.output(softmax, f"weights.{number}", np.float32, (1, config.heads, "length", config.audio_positions))
    return g.finish()


def read_text(g: Graph, config: Config, batch: int | str) -> tuple[str, str, dict[str, str]]:
    """The inputs of a text from its first token on, and the decoder over it: tokens, and what `decoder` gives."""
    tokens = g.input("tokens", np.int64, (batch, "length"))
    encoder_out = g.input("encoder_out", np.float32, (batch, config.audio_positions, config.d_model))
    shape = g.op("Shape", tokens, name="prompt/Shape")
    zero, step = (g.constant(name, np.array(n)) for name, n in (("from_zero", 0), ("by_one", 1)))
    length = g.op("Gather", shape, step, name="prompt/Gather")
    positions = g.op("Range", zero, length, step, name="prompt/Range")
    return tokens, *decoder(g, tokens, positions, encoder_out, config, causal_mask(g, length))


def decoder(
    g: Graph, tokens: str, positions: str, encoder_out: str, config: Config, mask: str | None = None
) -> tuple[str, dict[str, str]]:
    """All layers over a text: (batch, length, d_model), not yet projected, and each layer's keys and values by name."""
    x = embed(g, tokens, positions)
    caches: dict[str, str] = {}
    for number in range(config.decoder_layers):
        layer = f"decoder.layers.{number}"
        h = layer_norm(g, x, f"{layer}.self_attn_layer_norm")
        self_kv = keys_values(g, h, config, f"{layer}.self_attn")
        x = add_attention(g, x, h, self_kv, config, f"{layer}.self_attn", mask)
        h = layer_norm(g, x, f"{layer}.encoder_attn_layer_norm")
        cross_kv = keys_values(g, encoder_out, config, f"{layer}.encoder_attn")
        x = feed_forward(g, add_attention(g, x, h, cross_kv, config, f"{layer}.encoder_attn"), layer)
        names = (f"cross_k.{number}", f"cross_v.{number}", f"k.{number}", f"v.{number}")
        caches |= dict(zip(names, (*cross_kv, *self_kv), strict=True))
    return layer_norm(g, x, "decoder.layer_norm"), caches


def causal_mask(g: Graph, length: str) -> str:
    """(length, length), added to scores: no token attends to those after it."""
    row = g.op("Unsqueeze", length, g.constant("axis_0", np.array([0])), name="mask/Unsqueeze")
    size = g.op("Concat", row, row, axis=0, name="mask/Concat")
    hidden = g.op("ConstantOfShape", size, value=from_array(np.full(1, -1e9, np.float32)), name="mask/ConstantOfShape")
    return g.op("Trilu", hidden, g.constant("by_one", np.array(1)), upper=1, name="mask/Trilu")


def decoder_step(
    checkpoint: Checkpoint, beams: int = 5, layers: int | None = None, capacity: int | None = None, logits: bool = True
) -> onnx.ModelProto:
    """One decode step of the beams of one window, in article B's first form.

    Inputs: tokens int64 (beams, 1); position int64 (1,), how many tokens came before; for each layer i cross_k.i and
    cross_v.i (1, 1500, heads, head_dim), past_k.i and past_v.i (beams, past, heads, head_dim). Outputs: logits
    float32 (beams, 1, vocab); k.i and v.i (beams, past + 1, heads, head_dim). The one window's cross-attention is
    copied for every beam (Tile), the cache grows (Concat), and every matrix product has its Transposes.

    Args:
        layers: only the first ones; all by default.
        capacity: fixes the length of the past, for compilers that want every shape.
        logits: False gives `hidden` (beams, 1, d_model) instead, what the projection to the vocabulary would read.
    """
    config = checkpoint.config
    g = Graph("decoder_step", dict(checkpoint.tensors()))
    x = embed(g, g.input("tokens", np.int64, (beams, 1)), g.input("position", np.int64, (1,)))
    for number in range(config.decoder_layers if layers is None else layers):
        x = step_layer(g, x, number, config, beams, capacity)
    x = layer_norm(g, x, "decoder.layer_norm")
    if logits:
        scores = builder.project_vocabulary(g, x, g.weight("decoder.embed_tokens.weight"), config)
        scores = g.op("Unsqueeze", scores, g.constant("second", np.array([1], np.int64)), name="logits/Unsqueeze")
        g.output(scores, "logits", np.float32, (beams, 1, config.vocab_size))
    else:
        g.output(x, "hidden", np.float32, (beams, 1, config.d_model))
    return g.finish()


def embed(g: Graph, tokens: str, positions: str) -> str:
    """(batch, length) tokens at (length,) positions -> (batch, length, d_model)"""
    table, position_table = g.weight("decoder.embed_tokens.weight"), g.weight("decoder.embed_positions.weight")
    x = g.op("Gather", table, tokens, name="decoder.embed_tokens/Gather")  # (batch, length, d_model)
    h = g.op("Gather", position_table, positions, name="decoder.embed_positions/Gather")  # (length, d_model)
    return g.op("Add", x, h, name="decoder.embed/Add")


def step_layer(g: Graph, x: str, number: int, config: Config, beams: int, capacity: int | None) -> str:
    """A decoder layer for one new token, (beams, 1, d_model): self-attention, cross-attention, feed-forward net."""
    layer, rest = f"decoder.layers.{number}", (config.heads, config.head_dim)
    attention, cross = f"{layer}.self_attn", f"{layer}.encoder_attn"
    h = layer_norm(g, x, f"{layer}.self_attn_layer_norm")
    past_length, length = (capacity, capacity + 1) if capacity else ("past", "past + 1")
    self_kv, cross_kv = [], []
    for letter, new in zip("kv", keys_values(g, h, config, attention), strict=True):
        past = g.input(f"past_{letter}.{number}", np.float32, (beams, past_length, *rest))
        grown = g.op("Concat", past, new, axis=1, name=f"{attention}/{letter}_Concat")
        self_kv.append(g.output(grown, f"{letter}.{number}", np.float32, (beams, length, *rest)))
    x = add_attention(g, x, h, self_kv, config, attention)
    h = layer_norm(g, x, f"{layer}.encoder_attn_layer_norm")
    repeats = g.constant("beams_each", np.array([beams, 1, 1, 1], np.int64))
    for letter in "kv":
        window = g.input(f"cross_{letter}.{number}", np.float32, (1, config.audio_positions, *rest))
        cross_kv.append(g.op("Tile", window, repeats, name=f"{cross}/{letter}_Tile"))  # (beams, 1500, heads, head_dim)
    return feed_forward(g, add_attention(g, x, h, cross_kv, config, cross), layer)


def loop(checkpoint: Checkpoint) -> onnx.ModelProto:
    """The decode step after article B's four rewrites, for any number of beams: see `passes` and `free_beams`."""
    from labsupport.graphs.passes import run_all  # imports onnx_ir, which no other graph needs

    step = decoder_step(checkpoint, beams=BEAMS, capacity=checkpoint.config.text_positions)
    return free_beams(run_all(step), BEAMS)


def free_beams(model: onnx.ModelProto, beams: int) -> onnx.ModelProto:
    """Has a rewritten decode step for `beams` beams take any number, of one window or of as many windows.

    Where the new rows are written depends on the beams: those numbers become the input `indices` of every ScatterND,
    int64 (beams, heads, 1, 3), each an index of beam, head and place.
    """
    free = onnx.ModelProto()
    free.CopyFrom(model)
    graph = free.graph
    del graph.value_info[:]
    targets = {node.input[1] for node in graph.node if node.op_type == "Reshape"}
    for tensor in graph.initializer:
        if tensor.name in targets:
            shape = to_array(tensor).copy()
            shape[0] = 0 if shape[0] == beams else shape[0]  # 0: as long as the input's first axis
            tensor.CopyFrom(from_array(shape, tensor.name))
    for value in [*graph.input, *graph.output]:
        if value.name != "position":
            axis = value.type.tensor_type.shape.dim[0]
            axis.dim_param = "windows" if value.name.startswith("cross") else "beams"
    lift_indices(graph)
    return free


def lift_indices(graph: onnx.GraphProto) -> None:
    """Makes an input, `indices`, of what every ScatterND reads its indices from, and removes what computed it."""
    writes = [node for node in graph.node if node.op_type == "ScatterND"]
    (computed,) = {node.input[1] for node in writes}
    for node in writes:
        node.input[1] = "indices"
    graph.input.append(builder.declare("indices", np.int64, ("beams", "heads", 1, 3)))
    unread = [computed]
    while unread:
        name = unread.pop()
        for node in [node for node in graph.node if name in node.output]:
            graph.node.remove(node)
            read = {given for other in graph.node for given in other.input}
            unread += [given for given in node.input if given not in read]
        for tensor in [tensor for tensor in graph.initializer if tensor.name == name]:
            graph.initializer.remove(tensor)


def rearrange(checkpoint: Checkpoint) -> onnx.ModelProto:
    """Gives each beam the past of another one, in the loop's caches.

    Inputs: rows (beams,), whose past each beam takes over; length (1,), how many tokens the caches hold; past_k.i and
    past_v.i (beams, heads, 448, head_dim). Outputs: k.i and v.i, of the same shape. With past and result bound to one
    buffer, nothing but the tokens' keys and values is moved.
    """
    config = checkpoint.config
    g = Graph("rearrange", {})
    rows, length = g.input("rows", np.int64, ("beams",)), g.input("length", np.int64, (1,))
    ends = g.constant("start", np.array([0])), length, g.constant("row_axis", np.array([2]))
    indices = token_indices(g, rows, length, config.heads)
    shape = ("beams", config.heads, config.text_positions, config.head_dim)
    for name in (f"{letter}.{number}" for number in range(config.decoder_layers) for letter in "kv"):
        past = g.input(f"past_{name}", np.float32, shape)
        filled = g.op("Slice", past, *ends, name=f"{name}/Slice")  # (beams, heads, length, head_dim)
        taken = g.op("Gather", filled, rows, axis=0, name=f"{name}/Gather")
        g.output(g.op("ScatterND", past, indices, taken, name=f"{name}/ScatterND"), name, np.float32, shape)
    return g.finish()


def token_indices(g: Graph, rows: str, length: str, heads: int) -> str:
    """(beams, heads, length, 3): the index of beam, head and place of each token in the caches."""
    zero, one = g.constant("zero", np.array(0)), g.constant("one", np.array(1))
    beams = g.op("Shape", rows, name="indices/Shape")
    sizes = [beams, g.constant("heads", np.array([heads])), length]
    size = g.op("Concat", *sizes, axis=0, name="indices/Concat")
    indices = []
    for axis, count in enumerate(sizes):
        scalar = g.op("Squeeze", count, name="indices/Squeeze")
        along = g.op("Range", zero, scalar, one, name="indices/Range")
        others = g.constant(f"axis_{axis}_of_3", np.array([other for other in range(3) if other != axis]))
        along = g.op("Unsqueeze", along, others, name="indices/Unsqueeze")
        spread = g.op("Expand", along, size, name="indices/Expand")  # (beams, heads, length)
        indices.append(g.op("Unsqueeze", spread, g.constant("last", np.array([-1])), name="indices/last"))
    return g.op("Concat", *indices, axis=-1, name="indices/joined")
