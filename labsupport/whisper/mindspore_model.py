"""The readable Whisper in MindSpore, the twin of `torch_model.py`: same classes, same names, same order.

What differs, and why: `nn.Cell` computes in `construct`; LayerNorm has names (gamma, beta) and an epsilon of its own;
GELU is written with `erf`, which takes half the time of MindSpore's GELU on a CPU; and the encoder, whose shapes never
change, is compiled to a graph on its first use.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from labsupport.base.errors import CheckpointError
from labsupport.checkpoints.config import Config
from labsupport.checkpoints.resolve import Checkpoint
from labsupport.optim.attention import eager, softmax_scale
from labsupport.optim.checkpointing import uncheckpointed
from labsupport.optim.conv1d import framework
from labsupport.optim.kv_cache import DynamicCache
from labsupport.whisper.protocol import Heads, check_heads

KeysValues = tuple[Tensor, Tensor]
PROMPT_TOKENS = 4  # of the longest prompt; compiling for each length of a longer text takes longer than running it


@dataclass(frozen=True)
class Components:
    """What an optimisation may replace.

    attention: (q, k, v, mask, causal) -> (batch, heads, queries, head_dim)
    conv1d: (x, weight, bias, stride, padding) -> (batch, channels, frames)
    cache: () -> an empty cache for one batch of texts
    run: (layers) -> what goes through the encoder one after the other: the layers, or groups of them
    compiled: whether a step of few tokens runs as one compiled graph
    """

    attention: Callable = eager
    conv1d: Callable = framework
    cache: Callable = DynamicCache
    run: Callable = uncheckpointed
    compiled: bool = True  # op by op MindSpore takes several times as long


def gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + ops.erf(x * math.sqrt(0.5)))  # no division: see optim.attention.softmax_scale


def layer_norm(width: int) -> nn.LayerNorm:
    return nn.LayerNorm((width,), epsilon=1e-5)  # torch's; MindSpore's own is 1e-7


class Weights(nn.Cell):
    """Numbers under a checkpoint's name, used as they are: a table of embeddings, a convolution's weight and bias."""

    def __init__(self, shape: tuple[int, ...], bias: int | None = None):
        super().__init__()
        self.weight = Parameter(Tensor(shape=shape, dtype=ms.float32, init=ms.common.initializer.Zero()))
        if bias is not None:
            self.bias = Parameter(Tensor(np.zeros(bias, np.float32)))


class MultiHeadAttention(nn.Cell):
    """Projects to heads, attends, projects back. Keys and values come from outside, fresh or out of a cache."""

    def __init__(self, config: Config, components: Components):
        super().__init__()
        self.heads, self.attention = config.heads, components.attention
        self.k_proj = nn.Dense(config.d_model, config.d_model, has_bias=False)
        self.v_proj = nn.Dense(config.d_model, config.d_model)
        self.q_proj = nn.Dense(config.d_model, config.d_model)
        self.out_proj = nn.Dense(config.d_model, config.d_model)

    def split_heads(self, x: Tensor) -> Tensor:
        """(batch, length, d_model) -> (batch, heads, length, head_dim)"""
        x = x.reshape(x.shape[0], x.shape[1], self.heads, -1)  # (batch, length, heads, head_dim)
        return x.swapaxes(1, 2)  # (batch, heads, length, head_dim)

    def project_kv(self, x: Tensor) -> KeysValues:
        """(batch, length, d_model) -> keys and values, (batch, heads, length, head_dim) each"""
        return self.split_heads(self.k_proj(x)), self.split_heads(self.v_proj(x))

    def construct(self, x: Tensor, keys_values: KeysValues, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        k, v = keys_values
        query = self.split_heads(self.q_proj(x))  # (batch, heads, queries, head_dim)
        out = self.attention(query, k, v, mask, causal)  # (batch, heads, queries, head_dim)
        return self.out_proj(out.swapaxes(1, 2).reshape(x.shape))  # (batch, queries, d_model)

    def attention_weights(self, x: Tensor, keys_values: KeysValues) -> Tensor:
        """(batch, queries, d_model) -> (batch, heads, queries, keys) float32, which no fused kernel writes down."""
        query, key = self.split_heads(self.q_proj(x)).astype(ms.float32), keys_values[0].astype(ms.float32)
        return ops.softmax(query @ key.swapaxes(-1, -2) * softmax_scale(query), axis=-1)


class Layer(nn.Cell):
    """What encoder and decoder layers share: self-attention and a feed-forward net, each on a residual path."""

    def __init__(self, config: Config, components: Components):
        super().__init__()
        self.self_attn = MultiHeadAttention(config, components)
        self.self_attn_layer_norm = layer_norm(config.d_model)
        self.fc1 = nn.Dense(config.d_model, config.ffn_dim)
        self.fc2 = nn.Dense(config.ffn_dim, config.d_model)
        self.final_layer_norm = layer_norm(config.d_model)

    def feed_forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(gelu(self.fc1(self.final_layer_norm(x))))


class EncoderLayer(Layer):
    def construct(self, x: Tensor) -> Tensor:
        h = self.self_attn_layer_norm(x)
        x = x + self.self_attn(h, self.self_attn.project_kv(h))
        return self.feed_forward(x)


class Encoder(nn.Cell):
    """Two convolutions halve the frames; then every frame sees every other."""

    def __init__(self, config: Config, components: Components):
        super().__init__()
        self.conv1d, self.run = components.conv1d, components.run
        self.conv1 = Weights((config.d_model, config.mels, 3), config.d_model)
        self.conv2 = Weights((config.d_model, config.d_model, 3), config.d_model)
        self.embed_positions = Weights((config.audio_positions, config.d_model))
        self.layers = nn.CellList([EncoderLayer(config, components) for _ in range(config.encoder_layers)])
        self.layer_norm = layer_norm(config.d_model)

    def construct(self, mel: Tensor) -> Tensor:
        """(batch, mels, 3000) -> (batch, 1500, d_model); fewer frames, an even number, give half as many."""
        x = gelu(self.conv1d(mel, self.conv1.weight, self.conv1.bias, 1, 1))  # (batch, d_model, 3000)
        x = gelu(self.conv1d(x, self.conv2.weight, self.conv2.bias, 2, 1))  # (batch, d_model, 1500)
        x = x.swapaxes(1, 2) + self.embed_positions.weight[: x.shape[2]]  # (batch, 1500, d_model)
        for layer in self.run(self.layers):
            x = layer(x)
        return self.layer_norm(x)


class DecoderLayer(Layer):
    def __init__(self, config: Config, components: Components):
        super().__init__(config, components)
        self.encoder_attn = MultiHeadAttention(config, components)
        self.encoder_attn_layer_norm = layer_norm(config.d_model)

    def construct(
        self, x: Tensor, past: KeysValues | None, cross_kv: KeysValues, position: Tensor, mask, append: Callable
    ) -> tuple[Tensor, KeysValues]:
        """(rows, new, d_model) -> the same, and the layer's keys and values, past and new: see `optim.kv_cache`.

        Args:
            cross_kv: (windows, heads, frames, head_dim) each. The texts of a window are queries of one attention.
        """
        h = self.self_attn_layer_norm(x)
        self_kv = append(past, self.self_attn.project_kv(h), position)
        x = x + self.self_attn(h, self_kv, mask, mask is None and x.shape[1] > 1)
        h = self.encoder_attn_layer_norm(x)
        h = h.reshape(cross_kv[0].shape[0], -1, x.shape[2])  # (windows, texts * new, d_model)
        x = x + self.encoder_attn(h, cross_kv).reshape(x.shape)  # (rows, new, d_model)
        return self.feed_forward(x), self_kv


class TokenEmbedding(Weights):
    """The table of tokens: read by row at the decoder's input, and as a matrix at its output."""

    def construct(self, tokens: Tensor) -> Tensor:
        """(...) int64 -> (..., d_model)"""
        return ops.gather(self.weight, tokens, 0)

    def logits(self, x: Tensor) -> Tensor:
        """(rows, new, d_model) -> (rows, new, vocab)"""
        flat = ops.MatMul(transpose_b=True)(x.reshape(-1, x.shape[2]), self.weight)  # (rows * new, vocab)
        return flat.reshape(x.shape[0], x.shape[1], -1)  # (rows, new, vocab)


class Decoder(nn.Cell):
    """Reads the text so far and the encoded sound; scores every token of the vocabulary as the next one."""

    def __init__(self, config: Config, components: Components):
        super().__init__()
        self.embed_tokens = TokenEmbedding((config.vocab_size, config.d_model))
        self.embed_positions = Weights((config.text_positions, config.d_model))
        self.layers = nn.CellList([DecoderLayer(config, components) for _ in range(config.decoder_layers)])
        self.layer_norm = layer_norm(config.d_model)
        self.components = components
        self.graphs: dict[tuple, Callable] = {}  # see graph

    def construct(self, tokens: Tensor, cache: DynamicCache) -> Tensor:
        """(rows, new) int64 tokens that follow those in the cache -> (rows, new, vocab) logits

        Raises:
            OptimError: the cache holds no window yet, other rows, or has no room.
        """
        rows, new = tokens.shape
        cache.check_step(rows, new, self.embed_positions.weight.shape[0])
        length = self.padded_length(cache, new)
        position = ops.arange(length) + cache.length  # (length,)
        if (empty := max(cache.buffer_rows - rows, 0)) or length > new:
            tokens = ops.pad(tokens, (0, length - new, 0, empty))  # (buffer_rows, length)
        past = flatten(cache.past_kv(new, all_rows=True, all_places=True))
        cross_kv = flatten(cache.active_cross_kv(all_rows=True))
        layers = functools.partial(self.forward_layers, cache.append, cache.visible)
        logits, *self_kv = (self.graph(cache, len(tokens), length) or layers)(tokens, position, *cross_kv, *past)
        if length > new:  # no token attends to those behind it
            self_kv = [part[:, :, :new] for part in self_kv]  # (rows, heads, new, head_dim)
        cache.update(pair_up(self_kv), new)
        return logits[:rows, :new]  # (rows, new, vocab)

    def padded_length(self, cache: DynamicCache, new: int) -> int:
        """Tokens of the graph that reads `new` of them: of a text at its beginning, the next power of two.

        Then a few graphs serve all lengths; op by op MindSpore takes ten times as long, and compiling as long as two
        texts. Elsewhere nothing is padded: in a cache of fixed size, what is padded would be written.
        """
        if not self.components.compiled or cache.fixed or cache.length:
            return new
        return min(1 << (new - 1).bit_length(), self.embed_positions.weight.shape[0])

    def project_cross_kv(self, encoder_out: Tensor) -> list[KeysValues]:
        """(windows, frames, d_model) -> every layer's (windows, heads, frames, head_dim) pair"""
        return pair_up(self.cross_kv_graph(encoder_out))

    @ms.jit
    def cross_kv_graph(self, encoder_out: Tensor) -> tuple[Tensor, ...]:
        """`project_cross_kv` as a graph gives it: keys and values of the layers, one after the other."""
        flat = ()
        for layer in self.layers:
            flat = flat + layer.encoder_attn.project_kv(encoder_out)
        return flat

    def forward_layers(
        self, append: Callable, visible: Callable, tokens: Tensor, position: Tensor, *flat: Tensor
    ) -> tuple[Tensor, ...]:
        """All layers, without the cache's bookkeeping. A graph takes and gives tensors, one after the other.

        Args:
            append, visible: the cache's, see `optim.kv_cache`.
            flat: cross_kv of every layer, then self_kv so far, if there is any.

        Returns:
            (rows, new, vocab) logits, then keys and values of every layer.
        """
        x = self.embed_tokens(tokens) + ops.gather(self.embed_positions.weight, position, 0)  # (rows, new, d_model)
        self_kv, cross_end = (), 2 * len(self.layers)
        mask = visible(position, flat[cross_end].shape[2]) if len(flat) > cross_end else None
        for i, layer in enumerate(self.layers):
            past = flat[cross_end + 2 * i : cross_end + 2 * i + 2] if len(flat) > cross_end else None
            x, keys_values = layer(x, past, flat[2 * i : 2 * i + 2], position, mask, append)
            self_kv = self_kv + keys_values
        return (self.embed_tokens.logits(self.layer_norm(x)), *self_kv)

    @contextmanager
    def record_cross_attention(self, heads: Heads) -> Iterator[dict[tuple[int, int], Tensor]]:
        """(layer, head) -> its (queries, frames) weights for the first window, once a text has run inside the block.

        `forward_layers` has to run as it is: a graph calls no hook.
        """
        recorded: dict[tuple[int, int], Tensor] = {}

        def record(number: int, attention: MultiHeadAttention, inputs: tuple) -> None:
            weights = attention.attention_weights(*inputs)[0]  # (heads, queries, frames)
            recorded.update({(layer, head): weights[head] for layer, head in heads if layer == number})

        hooks = [
            self.layers[layer].encoder_attn.register_forward_pre_hook(
                lambda attention, inputs, layer=layer: record(layer, attention, inputs)  # it takes no `partial`
            )
            for layer in {layer for layer, _ in heads}
        ]
        try:
            yield recorded
        finally:
            for hook in hooks:
                hook.remove()

    def graph(self, cache: DynamicCache, rows: int, new: int) -> Callable | None:
        """`forward_layers` compiled for this kind of cache; None where compiling would take longer than it saves.

        Shapes that stay, as a prompt's and a fixed cache's do, need nothing but `jit`: one graph for each set of them.
        A text's at its beginning are few: see `padded_length`. A cache that grows changes its shape from call to call.
        """
        starts, grows = not cache.fixed and not cache.length, not cache.fixed and cache.length > 0
        longest = 1 if grows else PROMPT_TOKENS
        if not self.components.compiled or (new > longest and not starts):
            return None
        key = (type(cache), rows if grows else None)
        if key not in self.graphs:
            self.graphs[key] = (self.growing_graph if grows else self.fixed_graph)(cache)
        return self.graphs[key]

    def fixed_graph(self, cache: DynamicCache) -> Callable:
        """`forward_layers` compiled, once for each set of shapes."""
        layers, append, visible = self.forward_layers, cache.append, cache.visible  # MindSpore takes no `partial`

        def forward_step(tokens, position, *flat):
            return layers(append, visible, tokens, position, *flat)

        return ms.jit(forward_step)

    def growing_graph(self, cache: DynamicCache) -> Callable:
        """`forward_layers` compiled once for pasts of any length. Told by `dynamic=1` that shapes change, MindSpore
        compiles for the first two lengths before it leaves the length open; here it is open from the start.
        """
        layers, append, visible = self.forward_layers, cache.append, cache.visible
        past = flatten(cache.self_kv)
        (rows, heads, _, head_dim), count = past[0].shape, len(past)

        @ms.enable_dynamic(past=tuple(Tensor(shape=[rows, heads, None, head_dim], dtype=past[0].dtype) for _ in past))
        @ms.jit
        def forward_step(tokens, position, cross_kv, past):
            return layers(append, visible, tokens, position, *cross_kv, *past)

        return lambda tokens, position, *flat: forward_step(
            tokens, position, ms.mutable(flat[:count]), ms.mutable(flat[count:])
        )


def flatten(pairs: Sequence[KeysValues | None]) -> list[Tensor]:
    """Keys and values of the layers, one after the other: MindSpore compiles again for every new nested argument."""
    return [tensor for pair in pairs if pair for tensor in pair]


def pair_up(flat: Sequence[Tensor]) -> list[KeysValues]:
    return [(flat[i], flat[i + 1]) for i in range(0, len(flat), 2)]


class Whisper(nn.Cell):
    """Encoder and decoder; see `protocol.WhisperModel`. Tokens, log-mel and logits are NumPy's on every backend."""

    backend = "mindspore"

    def __init__(self, config: Config, components: Components | None = None):
        super().__init__()
        self.config, self.components = config, components or Components()
        self.encoder = Encoder(config, self.components)
        self.decoder = Decoder(config, self.components)

    @property
    def dtype(self):
        return self.decoder.layer_norm.gamma.dtype

    def construct(self, mel: Tensor, tokens: Tensor) -> Tensor:
        """(batch, mels, 3000), (batch, length) -> (batch, length, vocab): the whole text at once."""
        cache = self.new_cache()
        cache.set_cross_kv(self.decoder.project_cross_kv(self.encoder(mel)))
        return self.decoder(tokens, cache)

    def new_cache(self) -> DynamicCache:
        return self.components.cache()

    @functools.cached_property
    def encoder_graph(self) -> Callable:
        """The encoder compiled to a graph, once for each shape of its input."""
        return ms.jit(self.encoder.construct)

    def encode(self, mel: np.ndarray) -> Tensor:
        """(windows, mels, 3000) float32 -> (windows, 1500, d_model)"""
        return self.encoder_graph(Tensor(np.ascontiguousarray(mel)).astype(self.dtype))

    def project_cross_kv(self, encoder_out: Tensor, cache: DynamicCache) -> None:
        """(windows, 1500, d_model): computes cross-attention's keys and values, once for each window."""
        cache.set_cross_kv(self.decoder.project_cross_kv(encoder_out))

    def prefill(self, tokens: np.ndarray, cache: DynamicCache, logits_to_keep: int = 0) -> np.ndarray:
        """(rows, length) int64 tokens after those in the cache -> (rows, length, vocab) logits, see `protocol`"""
        logits = self.decoder(Tensor(tokens), cache)  # of all tokens: a graph has one shape of output
        return logits[:, -logits_to_keep:].astype(ms.float32).asnumpy()

    def decode_step(self, tokens: np.ndarray, cache: DynamicCache) -> np.ndarray:
        """(rows,) int64, each text's next token -> (rows, vocab) float32 logits"""
        return self.prefill(tokens[:, None], cache)[:, 0]

    def reorder_beams(self, rows: np.ndarray, cache: DynamicCache) -> None:
        """Row i goes on from the text of row `rows[i]`, of the same window."""
        cache.reorder_beams(rows)

    def select_rows(self, rows: np.ndarray, cache: DynamicCache) -> None:
        """Keeps or repeats rows: texts that end, windows that become beams."""
        cache.select_rows(rows)

    def cross_attention(self, tokens: np.ndarray, encoder_out: Tensor, heads: Heads) -> np.ndarray:
        """(1, length) int64 tokens, (1, 1500, d_model) -> (heads, length, 1500) float32 weights of these heads"""
        check_heads(heads, self.config)
        cache = DynamicCache()  # a whole text at once gains nothing from another one
        self.project_cross_kv(encoder_out, cache)
        cache.check_step(len(tokens), tokens.shape[1], self.config.text_positions)
        position, cross_kv = ops.arange(tokens.shape[1]), flatten(cache.active_cross_kv())
        with self.decoder.record_cross_attention(heads) as recorded:
            self.decoder.forward_layers(cache.append, cache.visible, Tensor(tokens), position, *cross_kv)
        return np.stack([recorded[pair].asnumpy() for pair in heads])


def parameter_name(name: str) -> str:
    """A Hugging Face tensor's name -> our parameter's: only LayerNorm's differ."""
    name = name.removeprefix("model.")
    return name.replace("layer_norm.weight", "layer_norm.gamma").replace("layer_norm.bias", "layer_norm.beta")


def load_model(checkpoint: Checkpoint, components: Components | None = None) -> Whisper:
    """Builds the model and gives it the checkpoint's tensors (float32).

    Raises:
        CheckpointError: a tensor is missing, superfluous, or of another shape.
    """
    model = Whisper(checkpoint.config, components)
    tensors = {parameter_name(name): Tensor(array) for name, array in checkpoint.tensors() if name != "proj_out.weight"}
    parameters = {name: Parameter(tensor, name=name) for name, tensor in tensors.items()}
    missing, superfluous = ms.load_param_into_net(model, parameters, strict_load=True)
    if missing or superfluous:
        raise CheckpointError(
            f"These tensors do not fit: {', '.join([*missing, *superfluous])}.", where=checkpoint.name
        )
    return model.set_train(False)
