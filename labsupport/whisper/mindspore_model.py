"""The readable Whisper in MindSpore, the twin of `torch_model.py`: same classes, same names, same order.

What differs, and why: `nn.Cell` computes in `construct`; LayerNorm has names (gamma, beta) and an epsilon of its own;
GELU is written with `erf`, which takes half the time of MindSpore's GELU on a CPU; and the encoder, whose shapes never
change, is compiled to a graph on its first use.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from labsupport.base.errors import CheckpointError
from labsupport.checkpoints.config import Config
from labsupport.checkpoints.resolve import Checkpoint
from labsupport.optim.attention import eager
from labsupport.optim.checkpointing import in_order
from labsupport.optim.conv1d import framework
from labsupport.optim.kv_cache import DynamicCache

KeysValues = tuple[Tensor, Tensor]
PROMPT_TOKENS = 4  # of the longest prompt; compiling for each length of a longer text takes longer than running it


@dataclass(frozen=True)
class Pieces:
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
    run: Callable = in_order
    compiled: bool = True  # op by op MindSpore takes several times as long


def gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + ops.erf(x * math.sqrt(0.5)))  # no division: see optim.attention.scale


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

    def __init__(self, config: Config, pieces: Pieces):
        super().__init__()
        self.heads, self.attend = config.heads, pieces.attention
        self.k_proj = nn.Dense(config.d_model, config.d_model, has_bias=False)
        self.v_proj = nn.Dense(config.d_model, config.d_model)
        self.q_proj = nn.Dense(config.d_model, config.d_model)
        self.out_proj = nn.Dense(config.d_model, config.d_model)

    def split(self, x: Tensor) -> Tensor:
        """(batch, length, d_model) -> (batch, heads, length, head_dim)"""
        return x.reshape(x.shape[0], x.shape[1], self.heads, -1).swapaxes(1, 2)

    def keys_values(self, x: Tensor) -> KeysValues:
        return self.split(self.k_proj(x)), self.split(self.v_proj(x))

    def construct(self, x: Tensor, keys_values: KeysValues, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        k, v = keys_values
        out = self.attend(self.split(self.q_proj(x)), k, v, mask, causal)
        return self.out_proj(out.swapaxes(1, 2).reshape(x.shape))


class Layer(nn.Cell):
    """What encoder and decoder layers share: self-attention and a feed-forward net, each on a residual path."""

    def __init__(self, config: Config, pieces: Pieces):
        super().__init__()
        self.self_attn = MultiHeadAttention(config, pieces)
        self.self_attn_layer_norm = layer_norm(config.d_model)
        self.fc1 = nn.Dense(config.d_model, config.ffn_dim)
        self.fc2 = nn.Dense(config.ffn_dim, config.d_model)
        self.final_layer_norm = layer_norm(config.d_model)

    def feed_forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(gelu(self.fc1(self.final_layer_norm(x))))


class EncoderLayer(Layer):
    def construct(self, x: Tensor) -> Tensor:
        h = self.self_attn_layer_norm(x)
        x = x + self.self_attn(h, self.self_attn.keys_values(h))
        return self.feed_forward(x)


class Encoder(nn.Cell):
    """Two convolutions halve the frames; then every frame sees every other."""

    def __init__(self, config: Config, pieces: Pieces):
        super().__init__()
        self.conv1d, self.run = pieces.conv1d, pieces.run
        self.conv1 = Weights((config.d_model, config.mels, 3), config.d_model)
        self.conv2 = Weights((config.d_model, config.d_model, 3), config.d_model)
        self.embed_positions = Weights((config.audio_positions, config.d_model))
        self.layers = nn.CellList([EncoderLayer(config, pieces) for _ in range(config.encoder_layers)])
        self.layer_norm = layer_norm(config.d_model)

    def construct(self, mel: Tensor) -> Tensor:
        """(batch, mels, 3000) -> (batch, 1500, d_model)"""
        x = gelu(self.conv1d(mel, self.conv1.weight, self.conv1.bias, 1, 1))
        x = gelu(self.conv1d(x, self.conv2.weight, self.conv2.bias, 2, 1))
        x = x.swapaxes(1, 2) + self.embed_positions.weight
        for layer in self.run(self.layers):
            x = layer(x)
        return self.layer_norm(x)


class DecoderLayer(Layer):
    def __init__(self, config: Config, pieces: Pieces):
        super().__init__(config, pieces)
        self.encoder_attn = MultiHeadAttention(config, pieces)
        self.encoder_attn_layer_norm = layer_norm(config.d_model)

    def construct(
        self, x: Tensor, past: KeysValues | None, cross: KeysValues, position: Tensor, mask, append: Callable
    ) -> tuple[Tensor, KeysValues]:
        """Also gives the layer's own keys and values, those of the past and those of this step: see `optim.kv_cache`.

        Args:
            cross: cross-attention's, (windows, ...). A window's texts are queries of one attention.
        """
        h = self.self_attn_layer_norm(x)
        keys_values = append(past, self.self_attn.keys_values(h), position)
        x = x + self.self_attn(h, keys_values, mask, mask is None and x.shape[1] > 1)
        h = self.encoder_attn_layer_norm(x).reshape(cross[0].shape[0], -1, x.shape[2])
        x = x + self.encoder_attn(h, cross).reshape(x.shape)
        return self.feed_forward(x), keys_values


class Decoder(nn.Cell):
    """Reads the text so far and the encoded sound; scores every token of the vocabulary as the next one."""

    def __init__(self, config: Config, pieces: Pieces):
        super().__init__()
        self.embed_tokens = Weights((config.vocab_size, config.d_model))
        self.embed_positions = Weights((config.text_positions, config.d_model))
        self.layers = nn.CellList([DecoderLayer(config, pieces) for _ in range(config.decoder_layers)])
        self.layer_norm = layer_norm(config.d_model)
        self.pieces, self.graphs = pieces, {}  # see graph

    def construct(self, tokens: Tensor, audio: Tensor, cache: DynamicCache) -> Tensor:
        """(batch, new) tokens that follow those in the cache -> (batch, new, vocab) logits"""
        rows, new = tokens.shape
        cache.expect(rows, new, audio, self.embed_positions.weight.shape[0])
        if cache.audio is None:
            cache.begin(audio, pair_up(self.listen(audio)))
        position = ops.arange(new) + cache.length
        tokens = ops.pad(tokens, (0, 0, 0, cache.width - rows)) if cache.width > rows else tokens
        past = flatten(cache.past(new, ended=True, empty=True))
        read = self.graph(cache, len(tokens), new) or functools.partial(self.read, cache.append, cache.seen)
        logits, *own = read(tokens, position, *flatten(cache.heard(ended=True)), *past)
        cache.store(pair_up(own), new)
        return logits[:rows]

    @ms.jit
    def listen(self, audio: Tensor) -> tuple[Tensor, ...]:
        """(batch, frames, d_model) -> cross-attention's keys and values of every layer, one after the other"""
        flat = ()
        for layer in self.layers:
            flat = flat + layer.encoder_attn.keys_values(audio)
        return flat

    def read(
        self, append: Callable, seen: Callable, tokens: Tensor, position: Tensor, *flat: Tensor
    ) -> tuple[Tensor, ...]:
        """The step itself, without the cache's bookkeeping: a graph takes and gives tensors, one after the other.

        Args:
            append, seen: the cache's, see `optim.kv_cache`.
            flat: cross-attention's keys and values of every layer, then their own so far, if there are any.

        Returns:
            logits, then keys and values of every layer.
        """
        x = ops.gather(self.embed_tokens.weight, tokens, 0) + ops.gather(self.embed_positions.weight, position, 0)
        own, cross_end = (), 2 * len(self.layers)
        mask = seen(position, flat[cross_end].shape[2]) if len(flat) > cross_end else None
        for i, layer in enumerate(self.layers):
            past = flat[cross_end + 2 * i : cross_end + 2 * i + 2] if len(flat) > cross_end else None
            x, keys_values = layer(x, past, flat[2 * i : 2 * i + 2], position, mask, append)
            own = own + keys_values
        rows = ops.MatMul(transpose_b=True)(self.layer_norm(x).reshape(-1, x.shape[2]), self.embed_tokens.weight)
        return (rows.reshape(x.shape[0], x.shape[1], -1), *own)

    def graph(self, cache: DynamicCache, rows: int, new: int) -> Callable | None:
        """`read` compiled for this kind of cache; None where compiling would take longer than it saves.

        Shapes that stay, as a prompt's and a fixed cache's do, need nothing but `jit`: one graph for each set of them.
        A cache that grows changes its shape from call to call, which MindSpore leaves open if told to (`dynamic`). It
        fails if the number of rows changes too: one graph for each.
        """
        grows = not cache.fixed and cache.length > 0
        if not self.pieces.compiled or new > (1 if grows else PROMPT_TOKENS):
            return None
        key = (type(cache), rows if grows else None)
        if key not in self.graphs:
            read, append, seen = self.read, cache.append, cache.seen

            def read_step(tokens, position, *flat):
                return read(append, seen, tokens, position, *flat)

            self.graphs[key] = ms.jit(read_step, dynamic=1) if grows else ms.jit(read_step)
        return self.graphs[key]


def flatten(pairs: Sequence[KeysValues | None]) -> list[Tensor]:
    """Keys and values of the layers, one after the other: MindSpore compiles again for every new nested argument."""
    return [tensor for pair in pairs if pair for tensor in pair]


def pair_up(flat: Sequence[Tensor]) -> list[KeysValues]:
    return [(flat[i], flat[i + 1]) for i in range(0, len(flat), 2)]


class Whisper(nn.Cell):
    """Encoder and decoder. `encode` and `step` speak NumPy, so that decode.py is the same for every backend."""

    backend = "mindspore"

    def __init__(self, config: Config, pieces: Pieces | None = None):
        super().__init__()
        self.config, self.pieces = config, pieces or Pieces()
        self.encoder = Encoder(config, self.pieces)
        self.decoder = Decoder(config, self.pieces)

    @property
    def dtype(self):
        return self.decoder.layer_norm.gamma.dtype

    def construct(self, mel: Tensor, tokens: Tensor) -> Tensor:
        """(batch, mels, 3000), (batch, length) -> (batch, length, vocab): the whole text at once."""
        return self.decoder(tokens, self.encoder(mel), self.new_cache())

    def new_cache(self) -> DynamicCache:
        return self.pieces.cache()

    @functools.cached_property
    def encoder_graph(self) -> Callable:
        """The encoder compiled to a graph, once for each shape of its input."""
        return ms.jit(self.encoder.construct)

    def encode(self, mel: np.ndarray) -> Tensor:
        """(batch, mels, 3000) float32 -> (batch, 1500, d_model)"""
        return self.encoder_graph(Tensor(np.ascontiguousarray(mel)).astype(self.dtype))

    def step(self, tokens: np.ndarray, audio: Tensor, cache: DynamicCache) -> np.ndarray:
        """(batch, new) int64 tokens after those in the cache -> (batch, new, vocab) float32 logits"""
        return self.decoder(Tensor(tokens), audio, cache).astype(ms.float32).asnumpy()

    def reorder(self, rows: np.ndarray, cache: DynamicCache) -> None:
        """Each row of the batch goes on from the text of the given row, of the same window: beams."""
        cache.reorder(rows)

    def keep(self, rows: np.ndarray, audio: Tensor, cache: DynamicCache) -> Tensor:
        """Keeps or repeats rows of the batch, sound and all, in the cache; gives the audio's rows."""
        return cache.keep(rows, audio)


def parameter_name(name: str) -> str:
    """A Hugging Face tensor's name -> our parameter's: only LayerNorm's differ."""
    name = name.removeprefix("model.")
    return name.replace("layer_norm.weight", "layer_norm.gamma").replace("layer_norm.bias", "layer_norm.beta")


def load_model(checkpoint: Checkpoint, pieces: Pieces | None = None) -> Whisper:
    """Builds the model and gives it the checkpoint's tensors (float32).

    Raises:
        CheckpointError: a tensor is missing, superfluous, or of another shape.
    """
    model = Whisper(checkpoint.config, pieces)
    tensors = {parameter_name(name): Tensor(array) for name, array in checkpoint.tensors() if name != "proj_out.weight"}
    parameters = {name: Parameter(tensor, name=name) for name, tensor in tensors.items()}
    missing, superfluous = ms.load_param_into_net(model, parameters, strict_load=True)
    if missing or superfluous:
        raise CheckpointError(
            f"These tensors do not fit: {', '.join([*missing, *superfluous])}.", where=checkpoint.name
        )
    return model.set_train(False)
