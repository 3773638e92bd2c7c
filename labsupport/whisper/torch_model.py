"""The readable Whisper in torch. `mindspore_model.py` is its twin: same classes, same names, same order.

Names of modules are those of Hugging Face's checkpoints. The pieces that the course replaces (attention, conv1d,
cache) are passed in. Source: Radford et al. 2022, section 2.2; Vaswani et al. 2017.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labsupport.checkpoints.config import Config
from labsupport.checkpoints.resolve import Checkpoint
from labsupport.machine.backend import require_compiler
from labsupport.optim.attention import sdpa
from labsupport.optim.checkpointing import in_order
from labsupport.optim.conv1d import native
from labsupport.optim.kv_cache import DynamicCache

KeysValues = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Pieces:
    """What an optimisation may replace.

    attention: (q, k, v, mask, causal) -> (batch, heads, queries, head_dim)
    conv1d: (x, weight, bias, stride, padding) -> (batch, channels, frames)
    cache: () -> an empty cache for one batch of texts
    run: (layers) -> what goes through the encoder one after the other: the layers, or groups of them
    compiled: whether a step of one token runs as one compiled graph, which a cache of fixed shape allows
    """

    attention: Callable = sdpa
    conv1d: Callable = native
    cache: Callable = DynamicCache
    run: Callable = in_order
    compiled: bool = False


class MultiHeadAttention(nn.Module):
    """Projects to heads, attends, projects back. Keys and values come from outside, fresh or out of a cache."""

    def __init__(self, config: Config, pieces: Pieces):
        super().__init__()
        self.heads, self.attend = config.heads, pieces.attention
        self.k_proj = nn.Linear(config.d_model, config.d_model, bias=False)
        self.v_proj = nn.Linear(config.d_model, config.d_model)
        self.q_proj = nn.Linear(config.d_model, config.d_model)
        self.out_proj = nn.Linear(config.d_model, config.d_model)

    def split(self, x: Tensor) -> Tensor:
        """(batch, length, d_model) -> (batch, heads, length, head_dim)"""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def keys_values(self, x: Tensor) -> KeysValues:
        return self.split(self.k_proj(x)), self.split(self.v_proj(x))

    def forward(self, x: Tensor, keys_values: KeysValues, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        out = self.attend(self.split(self.q_proj(x)), *keys_values, mask=mask, causal=causal)
        return self.out_proj(out.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """What encoder and decoder layers share: self-attention and a feed-forward net, each on a residual path."""

    def __init__(self, config: Config, pieces: Pieces):
        super().__init__()
        self.self_attn = MultiHeadAttention(config, pieces)
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.fc1 = nn.Linear(config.d_model, config.ffn_dim)
        self.fc2 = nn.Linear(config.ffn_dim, config.d_model)
        self.final_layer_norm = nn.LayerNorm(config.d_model)

    def feed_forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(F.gelu(self.fc1(self.final_layer_norm(x))))


class EncoderLayer(Layer):
    def forward(self, x: Tensor) -> Tensor:
        h = self.self_attn_layer_norm(x)
        x = x + self.self_attn(h, self.self_attn.keys_values(h))
        return self.feed_forward(x)


class Encoder(nn.Module):
    """Two convolutions halve the frames; then every frame sees every other."""

    def __init__(self, config: Config, pieces: Pieces):
        super().__init__()
        self.conv1d, self.run = pieces.conv1d, pieces.run
        self.conv1 = nn.Conv1d(config.mels, config.d_model, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(config.d_model, config.d_model, kernel_size=3, stride=2, padding=1)
        self.embed_positions = nn.Embedding(config.audio_positions, config.d_model)
        self.layers = nn.ModuleList(EncoderLayer(config, pieces) for _ in range(config.encoder_layers))
        self.layer_norm = nn.LayerNorm(config.d_model)

    def forward(self, mel: Tensor) -> Tensor:
        """(batch, mels, 3000) -> (batch, 1500, d_model)"""
        x = F.gelu(self.conv1d(mel, self.conv1.weight, self.conv1.bias, stride=1, padding=1))
        x = F.gelu(self.conv1d(x, self.conv2.weight, self.conv2.bias, stride=2, padding=1))
        x = x.transpose(1, 2) + self.embed_positions.weight
        for layer in self.run(self.layers):
            x = layer(x)
        return self.layer_norm(x)


class DecoderLayer(Layer):
    def __init__(self, config: Config, pieces: Pieces):
        super().__init__(config, pieces)
        self.encoder_attn = MultiHeadAttention(config, pieces)
        self.encoder_attn_layer_norm = nn.LayerNorm(config.d_model)

    def forward(self, x: Tensor, past: KeysValues | None, cross: KeysValues, position: Tensor, mask, append: Callable):
        """Also gives the layer's own keys and values, those of the past and those of this step: see `optim.kv_cache`.

        Args:
            cross: cross-attention's, (windows, ...). A window's texts are queries of one attention.
        """
        h = self.self_attn_layer_norm(x)
        keys_values = append(past, self.self_attn.keys_values(h), position)
        x = x + self.self_attn(h, keys_values, mask=mask, causal=mask is None and x.shape[1] > 1)
        h = self.encoder_attn_layer_norm(x).reshape(cross[0].shape[0], -1, x.shape[2])
        x = x + self.encoder_attn(h, cross).reshape(x.shape)
        return self.feed_forward(x), keys_values


class Words(nn.Embedding):
    """The table of tokens: read by row on the way in, and as a matrix on the way out."""

    def scores(self, x: Tensor) -> Tensor:
        """(..., d_model) -> (..., vocab) logits"""
        return F.linear(x, self.weight)


class Decoder(nn.Module):
    """Reads the text so far and the encoded sound; scores every token of the vocabulary as the next one."""

    def __init__(self, config: Config, pieces: Pieces):
        super().__init__()
        self.embed_tokens = Words(config.vocab_size, config.d_model)
        self.embed_positions = nn.Embedding(config.text_positions, config.d_model)
        self.layers = nn.ModuleList(DecoderLayer(config, pieces) for _ in range(config.decoder_layers))
        self.layer_norm = nn.LayerNorm(config.d_model)
        self.compiled = pieces.compiled

    def forward(self, tokens: Tensor, audio: Tensor, cache: DynamicCache) -> Tensor:
        """(batch, new) tokens that follow those in the cache -> (batch, new, vocab) logits"""
        rows, new = tokens.shape
        cache.expect(rows, new, audio, self.embed_positions.weight.shape[0])
        if cache.audio is None:
            cache.begin(audio, self.listen(audio))
        position = cache.length + torch.arange(new, device=tokens.device)
        if self.compiled and new == 1 and cache.length > 1:
            logits, own = self.read_compiled(tokens, position, cache)
        else:
            mask = cache.mask(position)
            logits, own = self.read(tokens, position, cache.heard(), cache.past(new), mask, cache.append)
        cache.store(own, new)
        return logits

    def listen(self, audio: Tensor) -> list[KeysValues]:
        """(batch, frames, d_model) -> cross-attention's keys and values of every layer, each head's in one piece"""
        pairs = (layer.encoder_attn.keys_values(audio) for layer in self.layers)
        return [(k.contiguous(), v.contiguous()) for k, v in pairs]

    def read(self, tokens: Tensor, position: Tensor, cross: list, past: list, mask: Tensor | None, append: Callable):
        """The step itself, without the cache's bookkeeping: what a graph can hold.

        Returns:
            logits, and every layer's own keys and values.
        """
        x, own = self.embed_tokens(tokens) + self.embed_positions.weight[position], []
        for layer, heard, before in zip(self.layers, cross, past, strict=True):
            x, keys_values = layer(x, before, heard, position, mask, append)
            own.append(keys_values)
        return self.embed_tokens.scores(self.layer_norm(x)), own

    def read_compiled(self, tokens: Tensor, position: Tensor, cache: DynamicCache) -> tuple[Tensor, list[KeysValues]]:
        """`read` for one token as a graph that serves all lengths of a text: as many places as are filled, a number
        that the graph leaves open. A CUDA graph leaves nothing open: it takes all places, and a mask.
        """
        fixed = cache.fixed and tokens.is_cuda
        past = cache.past(1, ended=True, empty=fixed)
        for tensor in (tensor for pair in past for tensor in pair):
            if fixed:
                torch._dynamo.mark_static_address(tensor)
            elif tensor.shape[2] != cache.capacity:
                torch._dynamo.mark_dynamic(tensor, 2)
        padded = tokens.new_zeros(cache.width, 1)  # also because torch compiles again for other strides
        padded[: len(tokens)] = tokens
        graph = self.graph_on_cuda if fixed else self.graph
        logits, own = graph(padded, position, cache.heard(ended=True), past, cache.mask(position, fixed), cache.append)
        return logits[: len(tokens)], own

    @functools.cached_property
    def graph(self) -> Callable:
        require_compiler()
        torch._dynamo.config.recompile_limit = 64  # a graph for each number of rows and kind of cache
        return torch.compile(self.read, fullgraph=True, dynamic=False)

    @functools.cached_property
    def graph_on_cuda(self) -> Callable:
        return torch.compile(self.read, fullgraph=True, mode="reduce-overhead")


class Whisper(nn.Module):
    """Encoder and decoder. `encode` and `step` speak NumPy, so that decode.py is the same for every backend."""

    backend = "torch"

    def __init__(self, config: Config, pieces: Pieces | None = None):
        super().__init__()
        self.config, self.pieces = config, pieces or Pieces()
        self.encoder = Encoder(config, self.pieces)
        self.decoder = Decoder(config, self.pieces)

    @property
    def device(self) -> torch.device:
        return self.decoder.layer_norm.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.decoder.layer_norm.weight.dtype

    def forward(self, mel: Tensor, tokens: Tensor) -> Tensor:
        """(batch, mels, 3000), (batch, length) -> (batch, length, vocab): the whole text at once."""
        return self.decoder(tokens, self.encoder(mel), self.new_cache())

    def new_cache(self) -> DynamicCache:
        return self.pieces.cache()

    @torch.inference_mode()
    def encode(self, mel: np.ndarray) -> Tensor:
        """(batch, mels, 3000) float32 -> (batch, 1500, d_model) on the model's device"""
        return self.encoder(torch.from_numpy(np.ascontiguousarray(mel)).to(self.device, self.dtype))

    @torch.inference_mode()
    def step(self, tokens: np.ndarray, audio: Tensor, cache: DynamicCache) -> np.ndarray:
        """(batch, new) int64 tokens after those in the cache -> (batch, new, vocab) float32 logits"""
        logits = self.decoder(torch.from_numpy(tokens).to(self.device), audio, cache)
        return logits.float().cpu().numpy()

    @torch.inference_mode()
    def reorder(self, rows: np.ndarray, cache: DynamicCache) -> None:
        """Each row of the batch goes on from the text of the given row, of the same window: beams."""
        cache.reorder(rows)

    @torch.inference_mode()
    def keep(self, rows: np.ndarray, audio: Tensor, cache: DynamicCache) -> Tensor:
        """Keeps or repeats rows of the batch, sound and all, in the cache; gives the audio's rows."""
        return cache.keep(rows, audio)


def load_model(checkpoint: Checkpoint, pieces: Pieces | None = None, device: str = "cpu") -> Whisper:
    """Builds the model without memory of its own, then gives it copies of the checkpoint's tensors (float32).

    Copies, because torch aligns its memory to whole cache lines, and NumPy does not: a decode step, which does little
    but read weights, is slower on NumPy's.
    """
    with torch.device("meta"):
        model = Whisper(checkpoint.config, pieces)
    tensors = {name.removeprefix("model."): torch.from_numpy(array).clone() for name, array in checkpoint.tensors()}
    tensors.pop("proj_out.weight", None)  # tied to the token embedding
    model.load_state_dict(tensors, assign=True)
    return model.eval().to(device)
