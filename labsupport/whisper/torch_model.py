"""The readable Whisper in torch. `mindspore_model.py` is its twin: same classes, same names, same order.

Names of modules are those of Hugging Face's checkpoints. The components that the course replaces (attention, conv1d,
cache) are passed in. Source: Radford et al. 2022, section 2.2; Vaswani et al. 2017.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labsupport.base.errors import CheckpointError
from labsupport.checkpoints.config import Config
from labsupport.checkpoints.resolve import Checkpoint
from labsupport.machine.backend import require_compiler
from labsupport.optim.attention import sdpa, softmax_scale
from labsupport.optim.checkpointing import uncheckpointed
from labsupport.optim.conv1d import native
from labsupport.optim.kv_cache import DynamicCache
from labsupport.whisper.protocol import Heads, check_heads

KeysValues = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Components:
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
    run: Callable = uncheckpointed
    compiled: bool = False


class Embedding(nn.Embedding):
    """torch's table, except that it draws no random numbers on the meta device: that imports torch's compiler."""

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:
            super().reset_parameters()


class MultiHeadAttention(nn.Module):
    """Projects to heads, attends, projects back. Keys and values come from outside, fresh or out of a cache."""

    def __init__(self, config: Config, components: Components):
        super().__init__()
        self.heads, self.attention = config.heads, components.attention
        self.k_proj = nn.Linear(config.d_model, config.d_model, bias=False)
        self.v_proj = nn.Linear(config.d_model, config.d_model)
        self.q_proj = nn.Linear(config.d_model, config.d_model)
        self.out_proj = nn.Linear(config.d_model, config.d_model)

    def split_heads(self, x: Tensor) -> Tensor:
        """(batch, length, d_model) -> (batch, heads, length, head_dim)"""
        x = x.unflatten(-1, (self.heads, -1))  # (batch, length, heads, head_dim)
        return x.transpose(1, 2)  # (batch, heads, length, head_dim)

    def project_kv(self, x: Tensor) -> KeysValues:
        """(batch, length, d_model) -> keys and values, (batch, heads, length, head_dim) each"""
        return self.split_heads(self.k_proj(x)), self.split_heads(self.v_proj(x))

    def forward(self, x: Tensor, keys_values: KeysValues, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        query = self.split_heads(self.q_proj(x))  # (batch, heads, queries, head_dim)
        out = self.attention(query, *keys_values, mask=mask, causal=causal)  # (batch, heads, queries, head_dim)
        return self.out_proj(out.transpose(1, 2).flatten(2))  # (batch, queries, d_model)

    def attention_weights(self, x: Tensor, keys_values: KeysValues) -> Tensor:
        """(batch, queries, d_model) -> (batch, heads, queries, keys) float32, which no fused kernel writes down."""
        query, key = self.split_heads(self.q_proj(x)).float(), keys_values[0].float()
        return (query @ key.mT * softmax_scale(query)).softmax(-1)


class Layer(nn.Module):
    """What encoder and decoder layers share: self-attention and a feed-forward net, each on a residual path."""

    def __init__(self, config: Config, components: Components):
        super().__init__()
        self.self_attn = MultiHeadAttention(config, components)
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.fc1 = nn.Linear(config.d_model, config.ffn_dim)
        self.fc2 = nn.Linear(config.ffn_dim, config.d_model)
        self.final_layer_norm = nn.LayerNorm(config.d_model)

    def feed_forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(F.gelu(self.fc1(self.final_layer_norm(x))))


class EncoderLayer(Layer):
    def forward(self, x: Tensor) -> Tensor:
        h = self.self_attn_layer_norm(x)
        x = x + self.self_attn(h, self.self_attn.project_kv(h))
        return self.feed_forward(x)


class Encoder(nn.Module):
    """Two convolutions halve the frames; then every frame sees every other."""

    def __init__(self, config: Config, components: Components):
        super().__init__()
        self.conv1d, self.run = components.conv1d, components.run
        self.conv1 = nn.Conv1d(config.mels, config.d_model, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(config.d_model, config.d_model, kernel_size=3, stride=2, padding=1)
        self.embed_positions = Embedding(config.audio_positions, config.d_model)
        self.layers = nn.ModuleList(EncoderLayer(config, components) for _ in range(config.encoder_layers))
        self.layer_norm = nn.LayerNorm(config.d_model)

    def forward(self, mel: Tensor) -> Tensor:
        """(batch, mels, 3000) -> (batch, 1500, d_model); fewer frames, an even number, give half as many."""
        x = F.gelu(self.conv1d(mel, self.conv1.weight, self.conv1.bias, stride=1, padding=1))  # (batch, d_model, 3000)
        x = F.gelu(self.conv1d(x, self.conv2.weight, self.conv2.bias, stride=2, padding=1))  # (batch, d_model, 1500)
        x = x.transpose(1, 2) + self.embed_positions.weight[: x.shape[2]]  # (batch, 1500, d_model)
        for layer in self.run(self.layers):
            x = layer(x)
        return self.layer_norm(x)


class DecoderLayer(Layer):
    def __init__(self, config: Config, components: Components):
        super().__init__(config, components)
        self.encoder_attn = MultiHeadAttention(config, components)
        self.encoder_attn_layer_norm = nn.LayerNorm(config.d_model)

    def forward(
        self, x: Tensor, past: KeysValues | None, cross_kv: KeysValues, position: Tensor, mask, append: Callable
    ):
        """(rows, new, d_model) -> the same, and the layer's keys and values, past and new: see `optim.kv_cache`.

        Args:
            cross_kv: (windows, heads, frames, head_dim) each. The texts of a window are queries of one attention.
        """
        h = self.self_attn_layer_norm(x)
        self_kv = append(past, self.self_attn.project_kv(h), position)
        x = x + self.self_attn(h, self_kv, mask=mask, causal=mask is None and x.shape[1] > 1)
        h = self.encoder_attn_layer_norm(x)
        h = h.reshape(cross_kv[0].shape[0], -1, x.shape[2])  # (windows, texts * new, d_model)
        x = x + self.encoder_attn(h, cross_kv).reshape(x.shape)  # (rows, new, d_model)
        return self.feed_forward(x), self_kv


class TokenEmbedding(Embedding):
    """The table of tokens: read by row at the decoder's input, and as a matrix at its output."""

    def logits(self, x: Tensor) -> Tensor:
        """(..., d_model) -> (..., vocab)"""
        return F.linear(x, self.weight)


class Decoder(nn.Module):
    """Reads the text so far and the encoded sound; scores every token of the vocabulary as the next one."""

    def __init__(self, config: Config, components: Components):
        super().__init__()
        self.embed_tokens = TokenEmbedding(config.vocab_size, config.d_model)
        self.embed_positions = Embedding(config.text_positions, config.d_model)
        layers = (DecoderLayer(config, components) for _ in range(config.decoder_layers))
        self.layers: Any = nn.ModuleList(layers)  # of DecoderLayer, which a ModuleList's type cannot say
        self.layer_norm = nn.LayerNorm(config.d_model)
        self.compiled = components.compiled

    def forward(self, tokens: Tensor, cache: DynamicCache, logits_to_keep: int = 0) -> Tensor:
        """(rows, new) int64 tokens that follow those in the cache -> (rows, new, vocab) logits; or of the last alone

        Raises:
            OptimError: the cache holds no window yet, other rows, or has no room.
        """
        rows, new = tokens.shape
        cache.check_step(rows, new, self.embed_positions.weight.shape[0])
        position = cache.length + torch.arange(new, device=tokens.device)  # (new,)
        if self.compiled and new == 1 and cache.length > 1:
            logits, self_kv = self.forward_compiled(tokens, position, cache)
        else:
            mask = cache.mask(position)
            logits, self_kv = self.forward_layers(
                tokens, position, cache.active_cross_kv(), cache.past_kv(new), mask, cache.append, logits_to_keep
            )
        cache.update(self_kv, new)
        return logits

    def project_cross_kv(self, encoder_out: Tensor) -> list[KeysValues]:
        """(windows, frames, d_model) -> every layer's (windows, heads, frames, head_dim) pair, each in one piece"""
        pairs = (layer.encoder_attn.project_kv(encoder_out) for layer in self.layers)
        return [(k.contiguous(), v.contiguous()) for k, v in pairs]

    def forward_layers(
        self, tokens: Tensor, position: Tensor, cross_kv: list, past: list, mask: Tensor | None, append: Callable,
        logits_to_keep: int = 0,
    ) -> tuple[Tensor, list[KeysValues]]:  # fmt: skip
        """All layers, without the cache's bookkeeping: what a graph can hold.

        Returns:
            (rows, new, vocab) logits, or (rows, logits_to_keep, vocab); and every layer's keys and values.
        """
        x, self_kv = self.embed_tokens(tokens) + self.embed_positions.weight[position], []  # (rows, new, d_model)
        for layer, layer_cross_kv, layer_past in zip(self.layers, cross_kv, past, strict=True):
            x, keys_values = layer(x, layer_past, layer_cross_kv, position, mask, append)
            self_kv.append(keys_values)
        x = x[:, -logits_to_keep:]  # those of a long prompt are large: 51,864 numbers a token
        return self.embed_tokens.logits(self.layer_norm(x)), self_kv

    @contextmanager
    def record_cross_attention(self, heads: Heads) -> Iterator[dict[tuple[int, int], Tensor]]:
        """(layer, head) -> its (queries, frames) weights for the first window, once a text has run inside the block."""
        recorded: dict[tuple[int, int], Tensor] = {}

        def record(number: int, attention: MultiHeadAttention, inputs: tuple) -> None:
            weights = attention.attention_weights(*inputs)[0]  # (heads, queries, frames)
            recorded.update({(layer, head): weights[head].clone() for layer, head in heads if layer == number})

        hooks = [
            self.layers[layer].encoder_attn.register_forward_pre_hook(functools.partial(record, layer))
            for layer in {layer for layer, _ in heads}
        ]
        try:
            yield recorded
        finally:
            for hook in hooks:
                hook.remove()

    def forward_compiled(
        self, tokens: Tensor, position: Tensor, cache: DynamicCache
    ) -> tuple[Tensor, list[KeysValues]]:
        """`forward_layers` for one token as a graph that serves all lengths of a text: it takes as many places as are
        filled, a number that the graph leaves open. A CUDA graph leaves nothing open: it takes all places, and a mask.
        """
        fixed = cache.fixed and tokens.is_cuda
        past = cache.past_kv(1, all_rows=True, all_places=fixed)
        for tensor in (tensor for pair in past for tensor in pair):
            if fixed:
                torch._dynamo.mark_static_address(tensor)
            elif tensor.shape[2] != cache.capacity:
                torch._dynamo.mark_dynamic(tensor, 2)
        padded = tokens.new_zeros(cache.buffer_rows, 1)  # also because torch compiles again for other strides
        padded[: len(tokens)] = tokens
        cross_kv, mask = cache.active_cross_kv(all_rows=True), cache.mask(position, fixed)
        graph = self.cuda_graph if fixed else self.graph
        logits, self_kv = graph(padded, position, cross_kv, past, mask, cache.append)
        return logits[: len(tokens)], self_kv  # (rows, 1, vocab)

    @functools.cached_property
    def graph(self) -> Callable:
        require_compiler()
        torch._dynamo.config.recompile_limit = 64  # a graph for each number of rows and kind of cache
        return torch.compile(self.forward_layers, fullgraph=True, dynamic=False)

    @functools.cached_property
    def cuda_graph(self) -> Callable:
        return torch.compile(self.forward_layers, fullgraph=True, mode="reduce-overhead")


class Whisper(nn.Module):
    """Encoder and decoder; see `protocol.WhisperModel`. Tokens, log-mel and logits are NumPy's on every backend."""

    backend = "torch"

    def __init__(self, config: Config, components: Components | None = None):
        super().__init__()
        self.config, self.components = config, components or Components()
        self.encoder = Encoder(config, self.components)
        self.decoder = Decoder(config, self.components)

    @property
    def device(self) -> torch.device:
        return self.decoder.layer_norm.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.decoder.layer_norm.weight.dtype

    def forward(self, mel: Tensor, tokens: Tensor) -> Tensor:
        """(batch, mels, 3000), (batch, length) -> (batch, length, vocab): the whole text at once."""
        cache = self.new_cache()
        cache.set_cross_kv(self.decoder.project_cross_kv(self.encoder(mel)))
        return self.decoder(tokens, cache)

    def new_cache(self) -> DynamicCache:
        return self.components.cache()

    @torch.inference_mode()
    def encode(self, mel: np.ndarray) -> Tensor:
        """(windows, mels, 3000) float32 -> (windows, 1500, d_model) on the model's device"""
        return self.encoder(torch.from_numpy(np.ascontiguousarray(mel)).to(self.device, self.dtype))

    @torch.inference_mode()
    def project_cross_kv(self, encoder_out: Tensor, cache: DynamicCache) -> None:
        """(windows, 1500, d_model): computes cross-attention's keys and values, once for each window."""
        cache.set_cross_kv(self.decoder.project_cross_kv(encoder_out))

    @torch.inference_mode()
    def prefill(self, tokens: np.ndarray, cache: DynamicCache, logits_to_keep: int = 0) -> np.ndarray:
        """(rows, length) int64 tokens after those in the cache -> (rows, length, vocab) logits, see `protocol`"""
        return self.decoder(torch.from_numpy(tokens).to(self.device), cache, logits_to_keep).float().cpu().numpy()

    def decode_step(self, tokens: np.ndarray, cache: DynamicCache) -> np.ndarray:
        """(rows,) int64, each text's next token -> (rows, vocab) float32 logits"""
        return self.prefill(tokens[:, None], cache)[:, 0]

    @torch.inference_mode()
    def reorder_beams(self, rows: np.ndarray, cache: DynamicCache) -> None:
        """Row i goes on from the text of row `rows[i]`, of the same window."""
        cache.reorder_beams(rows)

    @torch.inference_mode()
    def select_rows(self, rows: np.ndarray, cache: DynamicCache) -> None:
        """Keeps or repeats rows: texts that end, windows that become beams."""
        cache.select_rows(rows)

    @torch.inference_mode()
    def cross_attention(self, tokens: np.ndarray, encoder_out: Tensor, heads: Heads) -> np.ndarray:
        """(1, length) int64 tokens, (1, 1500, d_model) -> (heads, length, 1500) float32 weights of these heads"""
        check_heads(heads, self.config)
        cache = DynamicCache()  # a whole text at once gains nothing from another one
        self.project_cross_kv(encoder_out, cache)
        with self.decoder.record_cross_attention(heads) as recorded:
            self.prefill(tokens, cache)
        return torch.stack([recorded[pair] for pair in heads]).cpu().numpy()


def load_model(checkpoint: Checkpoint, components: Components | None = None, device: str = "cpu") -> Whisper:
    """Builds the model without memory of its own, then gives it copies of the checkpoint's tensors (float32).

    Copies, because torch aligns its memory to whole cache lines, and NumPy does not: a decode step, which does little
    but read weights, is slower on NumPy's.

    Raises:
        CheckpointError: a tensor is missing, superfluous, or of another shape.
    """
    with torch.device("meta"):
        model = Whisper(checkpoint.config, components)
    tensors = {name.removeprefix("model."): torch.from_numpy(array).clone() for name, array in checkpoint.tensors()}
    tensors.pop("proj_out.weight", None)  # tied to the token embedding
    try:
        model.load_state_dict(tensors, assign=True)
    except RuntimeError as error:
        raise CheckpointError(f"The tensors do not fit: {error}.", where=checkpoint.label) from error
    return model.eval().to(device)
