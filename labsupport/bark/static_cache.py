"""Bark's two causal stages with caches of fixed size, and a step that a compiler can take whole.

transformers' Bark grows its cache by a concatenation a step, and cannot use transformers' own static cache: its causal
mask takes the last key for the newest, and in a static cache that place is empty. This goes beyond article D.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.models.bark.modeling_bark import BarkBlock, BarkCausalModel

from labsupport.bark.generator import BarkGenerator
from labsupport.machine.backend import require_compiler
from labsupport.optim.kv_cache import BUFFER_POOL, KeysValues, StaticCache

Allowed = Callable[[int], slice]  # the number of a new token -> its part of the vocabulary


class StaticStage:
    """A causal stage with a cache of fixed size; `compiled`: a step of one token runs as one compiled graph."""

    def __init__(self, model: BarkCausalModel, compiled: bool = False) -> None:
        self.model = model
        self.decode_step = self.forward
        if compiled:
            require_compiler()
            self.decode_step = torch.compile(self.forward, fullgraph=True, dynamic=False)

    def forward(self, embedded: Tensor, position: Tensor, past: list[KeysValues]) -> Tensor:
        """(rows, new, width) at `position` (new,) int64 -> the last one's scores (rows, vocabulary).

        Keys and values are written into `past`, a pair (rows, heads, capacity, head_dim) for each layer.
        """
        hidden = embedded + self.model.position_embeds_layer(position)  # (rows, new, width)
        visible = StaticCache.visible(position, past[0][0].shape[2])  # (new, capacity)
        for block, pair in zip(self.model.layers, past, strict=True):
            hidden = hidden + attend(block, hidden, position, pair, visible)
            hidden = hidden + block.mlp(block.layernorm_2(hidden))
        return self.model.lm_head(self.model.layernorm_final(hidden[:, -1]))  # (rows, vocabulary)

    @torch.inference_mode()
    def generate(self, embedded: Tensor, length: int, capacity: int, allowed: Allowed, sampling: dict) -> Tensor:
        """(rows, prefix, width) -> (rows, length) int64 tokens.

        Args:
            capacity: of the cache: the prefix and all tokens but the last. Caches of one capacity share memory.
        """
        config, (rows, prefix, _) = self.model.config, embedded.shape
        shape = (rows, config.num_heads, capacity, config.hidden_size // config.num_heads)
        past = BUFFER_POOL.acquire(shape, config.num_layers, embedded)
        positions = torch.arange(capacity, device=embedded.device)  # (capacity,)
        scores = self.forward(embedded, positions[:prefix], past)  # (rows, vocabulary)
        tokens = [sample_token(scores, allowed(0), sampling)]
        for number in range(1, length):
            position = positions[prefix + number - 1 : prefix + number]  # (1,)
            scores = self.decode_step(self.model.input_embeds_layer(tokens[-1]), position, past)
            tokens.append(sample_token(scores, allowed(number), sampling))  # (rows, 1) each
        BUFFER_POOL.release(past)
        return torch.cat(tokens, dim=1)  # (rows, length)


def attend(block: BarkBlock, hidden: Tensor, position: Tensor, pair: KeysValues, visible: Tensor) -> Tensor:
    """A block's attention, (rows, new, width) -> the same shape, over the cache's places that are `visible`."""
    rows, new, width = hidden.shape
    heads = block.attn.num_heads
    parts = block.attn.att_proj(block.layernorm_1(hidden)).split(width, dim=2)  # 3 x (rows, new, width)
    # 3 x (rows, heads, new, head_dim)
    query, key, value = (part.view(rows, new, heads, width // heads).transpose(1, 2) for part in parts)
    keys, values = StaticCache.append(pair, (key, value), position)  # (rows, heads, capacity, head_dim)
    mixed = F.scaled_dot_product_attention(query, keys, values, visible)  # (rows, heads, new, head_dim)
    return block.attn.out_proj(mixed.transpose(1, 2).reshape(rows, new, width))  # (rows, new, width)


def sample_token(scores: Tensor, allowed: slice, sampling: dict) -> Tensor:
    """(rows, vocabulary) -> (rows, 1): the likeliest of the allowed tokens, or one sampled at a temperature.

    Sampled over the whole vocabulary, the rest of it at probability 0, so that a seed gives transformers' tokens.
    """
    filtered = torch.full_like(scores, -torch.inf)
    filtered[:, allowed] = scores[:, allowed]
    if not sampling["do_sample"]:
        return filtered.argmax(-1, keepdim=True)
    return torch.multinomial((filtered / sampling["temperature"]).softmax(-1), 1)


@dataclass
class StaticBarkGenerator(BarkGenerator):
    """A generator whose causal stages have caches of fixed size, and compiled steps if `compiled`; the same tokens."""

    compiled: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        parts = {"semantic": self.model.semantic, "coarse": self.model.coarse_acoustics}
        self.causal = {stage: StaticStage(model, self.compiled) for stage, model in parts.items()}

    @torch.inference_mode()
    def semantic(self, tokens: Tensor, mask: Tensor, length: int) -> Tensor:
        settings, embed = self.semantic_settings, self.model.semantic.input_embeds_layer
        text = (tokens + settings.text_encoding_offset).masked_fill(mask == 0, settings.text_pad_token)
        before = torch.full_like(text[:1], settings.semantic_pad_token)  # (1, 256)
        if self.history:
            newest = self.history["semantic_prompt"][-before.shape[1] :]
            before[0, : len(newest)] = newest
        infer = embed(torch.full_like(text[:, :1], settings.semantic_infer_token))  # (rows, 1, width)
        prefix = torch.cat([embed(text) + embed(before), infer], dim=1)  # (rows, 257, width)
        capacity = prefix.shape[1] + length
        vocabulary = slice(0, settings.semantic_vocab_size)
        return self.causal["semantic"].generate(prefix, length, capacity, lambda _: vocabulary, self.sampling)

    @torch.inference_mode()
    def coarse(self, semantic: Tensor) -> Tensor:
        settings, embed = self.coarse_settings, self.model.coarse_acoustics.input_embeds_layer
        first = self.semantic_settings.semantic_vocab_size
        books = slice(first, first + self.codebook_size), slice(first + self.codebook_size, None)
        capacity = settings.max_coarse_input_length + 1 + settings.max_coarse_history + settings.sliding_window_len
        generate = self.causal["coarse"].generate
        history, codes = self.coarse_history(len(semantic))
        given = torch.cat([history, semantic], dim=1)  # (rows, the voice's + tokens)
        start = codes.shape[1]
        for done, new in self.windows(semantic.shape[1]):
            prefix = embed(self.window_input(given, codes, history.shape[1], done))  # (rows, prefix, width)
            made = generate(prefix, new, capacity, lambda number: books[number % 2], self.sampling)  # (rows, new)
            codes = torch.cat([codes, made], dim=1)  # (rows, the voice's + done + new)
        return codes[:, start:]  # (rows, 2 * frames)

    def coarse_history(self, rows: int) -> tuple[Tensor, Tensor]:
        """The voice's semantic tokens (rows, tokens) and coarse codes (rows, codes); without a voice none of either."""
        longest = self.coarse_settings.max_coarse_history
        semantic, codes = self.model.coarse_acoustics.preprocess_histories(
            longest, self.ratio, rows, self.semantic_settings, self.codebook_size, self.history
        )
        return semantic.long(), codes.long()

    @property
    def ratio(self) -> float:
        """Coarse codes for each semantic token."""
        settings = self.coarse_settings
        return settings.coarse_rate_hz / self.semantic_settings.semantic_rate_hz * settings.n_coarse_codebooks

    def windows(self, tokens: int) -> Iterator[tuple[int, int]]:
        """For each window of so many semantic tokens: how many codes come before it, and how many it adds."""
        books, window = self.coarse_settings.n_coarse_codebooks, self.coarse_settings.sliding_window_len
        total = int(tokens * self.ratio / books) * books
        return ((done, min(window, total - done)) for done in range(0, total, window))

    def window_input(self, given: Tensor, codes: Tensor, before: int, done: int) -> Tensor:
        """A window's input: 256 semantic tokens around its time, the infer token, and the newest 630 codes."""
        settings = self.coarse_settings
        longest = settings.max_coarse_input_length
        now = before + round(done / self.ratio)
        start = max(0, now - int(settings.max_coarse_history / self.ratio))
        semantic = given[:, start : start + longest]  # (rows, up to 256)
        padding = longest - semantic.shape[1]
        semantic = F.pad(semantic, (0, padding), value=settings.coarse_semantic_pad_token)  # (rows, 256)
        infer = torch.full_like(given[:, :1], settings.coarse_infer_token)  # (rows, 1)
        return torch.cat([semantic, infer, codes[:, -settings.max_coarse_history :]], dim=1)  # (rows, 257 to 887)
