"""The readable Whisper in torch. `mindspore_model.py` is its twin: same classes, same names, same order.

Names of modules are those of Hugging Face's checkpoints. The pieces that the course replaces (attention, conv1d,
cache) are passed in. Source: Radford et al. 2022, section 2.2; Vaswani et al. 2017.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checkpoints import Checkpoint
from ..optim.attention import sdpa
from ..optim.conv1d import native
from ..optim.kv_cache import DynamicCache
from .config import Config

KeysValues = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Pieces:
    """What an optimisation may replace.

    attention: (q, k, v, mask, causal) -> (batch, heads, queries, head_dim)
    conv1d: (x, weight, bias, stride, padding) -> (batch, channels, frames)
    cache: () -> an empty cache for one batch of texts
    """

    attention: Callable = sdpa
    conv1d: Callable = native
    cache: Callable = DynamicCache


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
        self.conv1d = pieces.conv1d
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
        for layer in self.layers:
            x = layer(x)
        return self.layer_norm(x)


class DecoderLayer(Layer):
    def __init__(self, config: Config, pieces: Pieces):
        super().__init__(config, pieces)
        self.encoder_attn = MultiHeadAttention(config, pieces)
        self.encoder_attn_layer_norm = nn.LayerNorm(config.d_model)

    def forward(self, x: Tensor, audio: Tensor, cache: DynamicCache, number: int) -> Tensor:
        h = self.self_attn_layer_norm(x)
        keys_values = cache.update(number, self.self_attn.keys_values(h))
        x = x + self.self_attn(h, keys_values, causal=x.shape[1] > 1)
        if number not in cache.cross:
            cache.cross[number] = self.encoder_attn.keys_values(audio)
        x = x + self.encoder_attn(self.encoder_attn_layer_norm(x), cache.cross[number])
        return self.feed_forward(x)


class Decoder(nn.Module):
    """Reads the text so far and the encoded sound; scores every token of the vocabulary as the next one."""

    def __init__(self, config: Config, pieces: Pieces):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.embed_positions = nn.Embedding(config.text_positions, config.d_model)
        self.layers = nn.ModuleList(DecoderLayer(config, pieces) for _ in range(config.decoder_layers))
        self.layer_norm = nn.LayerNorm(config.d_model)

    def forward(self, tokens: Tensor, audio: Tensor, cache: DynamicCache) -> Tensor:
        """(batch, new) tokens that follow those in the cache -> (batch, new, vocab) logits"""
        positions = self.embed_positions.weight[cache.length : cache.length + tokens.shape[1]]
        x = self.embed_tokens(tokens) + positions
        for number, layer in enumerate(self.layers):
            x = layer(x, audio, cache, number)
        cache.advance(tokens.shape[1])
        return F.linear(self.layer_norm(x), self.embed_tokens.weight)


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
        cache.reorder(torch.from_numpy(rows).to(self.device))

    @torch.inference_mode()
    def keep(self, rows: np.ndarray, audio: Tensor, cache: DynamicCache) -> Tensor:
        """Keeps or repeats rows of the batch, sound and all, in the cache; gives the audio's rows."""
        index = torch.from_numpy(rows).to(self.device)
        cache.keep(index)
        return audio.index_select(0, index)


def load_model(checkpoint: Checkpoint, pieces: Pieces | None = None, device: str = "cpu") -> Whisper:
    """Builds the model without memory of its own, then gives it the checkpoint's tensors (float32, no copy)."""
    with torch.device("meta"):
        model = Whisper(checkpoint.config, pieces)
    tensors = {name.removeprefix("model."): torch.from_numpy(array) for name, array in checkpoint.tensors()}
    tensors.pop("proj_out.weight", None)  # tied to the token embedding
    model.load_state_dict(tensors, assign=True)
    return model.eval().to(device)
