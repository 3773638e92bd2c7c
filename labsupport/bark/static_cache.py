"""Bark's two causal stages with caches of fixed size, and a step that a compiler can take whole.

transformers' Bark grows its cache by a concatenation a step, and cannot take transformers' own static cache: its causal
mask counts from the last key, which there is an empty place. This is beyond article D.
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

Allowed = Callable[[int], slice]  # the number of a new token -> the part of the vocabulary that it may be from


class StaticStage:
    """A causal stage that reads and writes caches of fixed size.

    Args:
        model: transformers' semantic or coarse stage, whose weights it uses.
        compiled: whether a step of one token runs as one compiled graph.
    """

    def __init__(self, model: BarkCausalModel, compiled: bool = False) -> None:
        self.model = model
        self.step = self.read
        if compiled:
            require_compiler()
            self.step = torch.compile(self.read, fullgraph=True, dynamic=False)

    def read(self, embedded: Tensor, position: Tensor, past: list[KeysValues]) -> Tensor:
        """(rows, new, width) at the places `position` (new,) -> the last one's scores (rows, vocabulary); writes what
        it computes into `past`, a pair (rows, heads, capacity, head_dim) for each layer.
        """
        hidden = embedded + self.model.position_embeds_layer(position)
        visible = StaticCache.visible(position, past[0][0].shape[2])  # (new, capacity)
        for block, pair in zip(self.model.layers, past, strict=True):
            hidden = hidden + attend(block, hidden, position, pair, visible)
            hidden = hidden + block.mlp(block.layernorm_2(hidden))
        return self.model.lm_head(self.model.layernorm_final(hidden[:, -1]))

    @torch.inference_mode()
    def generate(self, embedded: Tensor, length: int, capacity: int, allowed: Allowed, sampling: dict) -> Tensor:
        """(rows, prefix, width) -> (rows, length) int64 tokens.

        Args:
            capacity: places of the cache; the prefix and all tokens but the last must fit. Equal ones share memory.
        """
        config, (rows, prefix, _) = self.model.config, embedded.shape
        shape = (rows, config.num_heads, capacity, config.hidden_size // config.num_heads)
        past = BUFFER_POOL.acquire(shape, config.num_layers, embedded)
        places = torch.arange(capacity, device=embedded.device)  # (capacity,)
        tokens: list[Tensor] = []
        scores = self.read(embedded, places[:prefix], past)
        while True:
            tokens.append(sample_token(scores, allowed(len(tokens)), sampling))
            if len(tokens) == length:
                break
            place = prefix + len(tokens) - 1
            scores = self.step(self.model.input_embeds_layer(tokens[-1]), places[place : place + 1], past)
        BUFFER_POOL.release(past)
        return torch.cat(tokens, dim=1)  # (rows, length)


def attend(block: BarkBlock, hidden: Tensor, position: Tensor, pair: KeysValues, visible: Tensor) -> Tensor:
    """A block's attention over all places of the cache; `visible`, (new, capacity) bool, says which hold something."""
    rows, new, width = hidden.shape
    heads = block.attn.num_heads
    parts = block.attn.att_proj(block.layernorm_1(hidden)).split(width, dim=2)
    # (rows, heads, new, head_dim) each
    query, key, value = (part.view(rows, new, heads, width // heads).transpose(1, 2) for part in parts)
    keys, values = StaticCache.append(pair, (key, value), position)
    mixed = F.scaled_dot_product_attention(query, keys, values, visible)  # (rows, heads, new, head_dim)
    return block.attn.out_proj(mixed.transpose(1, 2).reshape(rows, new, width))  # (rows, new, width)


def sample_token(scores: Tensor, allowed: slice, sampling: dict) -> Tensor:
    """(rows, vocabulary) -> (rows, 1): the best of the allowed tokens, or one drawn by `sampling`'s temperature.

    Drawn from the whole vocabulary, though only the allowed part has any chance: so a seed gives transformers' tokens.
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
        self.causal = {
            stage: StaticStage(model, self.compiled)
            for stage, model in (("semantic", self.model.semantic), ("coarse", self.model.coarse_acoustics))
        }

    @torch.inference_mode()
    def semantic(self, tokens: Tensor, mask: Tensor, length: int) -> Tensor:
        settings, embed = self.semantic_settings, self.model.semantic.input_embeds_layer
        text = (tokens + settings.text_encoding_offset).masked_fill(mask == 0, settings.text_pad_token)
        before = torch.full_like(text[:1], settings.semantic_pad_token)
        if self.voice:
            history = self.voice.tensors(text.device)["semantic_prompt"][-before.shape[1] :]
            before[0, : len(history)] = history
        infer = embed(torch.full_like(text[:, :1], settings.semantic_infer_token))
        prefix = torch.cat([embed(text) + embed(before), infer], dim=1)  # (rows, 257, width)
        capacity = prefix.shape[1] + length
        vocabulary = slice(0, settings.semantic_vocab_size)
        return self.causal["semantic"].generate(prefix, length, capacity, lambda _: vocabulary, self.sampling)

    @torch.inference_mode()
    def coarse(self, semantic: Tensor) -> Tensor:
        settings, embed = self.coarse_settings, self.model.coarse_acoustics.input_embeds_layer
        first = self.semantic_settings.semantic_vocab_size
        parts = slice(first, first + self.codebook_size), slice(first + self.codebook_size, None)
        window = settings.sliding_window_len
        capacity = settings.max_coarse_input_length + 1 + settings.max_coarse_history + window
        generate = self.causal["coarse"].generate
        given, codes, before = self.begin_coarse(semantic)
        for done, new in self.windows(semantic.shape[1]):
            prefix = embed(self.window_input(given, codes, before, done))
            made = generate(prefix, new, capacity, lambda number: parts[number % 2], self.sampling)
            codes = torch.cat([codes, made], dim=1)  # (rows, voice's + 2 * frames so far)
        return codes[:, codes.shape[1] - sum(new for _, new in self.windows(semantic.shape[1])) :]

    def begin_coarse(self, semantic: Tensor) -> tuple[Tensor, Tensor, int]:
        """The semantic tokens and coarse codes with the voice's in front, and how many of the first are the voice's."""
        history, codes = self.model.coarse_acoustics.preprocess_histories(
            self.coarse_settings.max_coarse_history,
            self.ratio,
            len(semantic),
            self.semantic_settings,
            self.codebook_size,
            self.history,
        )
        return torch.cat([history.long(), semantic], dim=1), codes.long(), history.shape[1]

    @property
    def ratio(self) -> float:
        """Coarse codes for each semantic token."""
        settings = self.coarse_settings
        return settings.coarse_rate_hz / self.semantic_settings.semantic_rate_hz * settings.n_coarse_codebooks

    def windows(self, tokens: int) -> Iterator[tuple[int, int]]:
        """How many codes there are before each window, and how many it adds, for so many semantic tokens."""
        books, window = self.coarse_settings.n_coarse_codebooks, self.coarse_settings.sliding_window_len
        total = int(tokens * self.ratio / books) * books
        return ((done, min(window, total - done)) for done in range(0, total, window))

    def window_input(self, given: Tensor, codes: Tensor, before: int, done: int) -> Tensor:
        """What a window reads: 256 semantic tokens around its time, the infer token, and the newest 630 codes."""
        settings = self.coarse_settings
        longest = settings.max_coarse_input_length
        now = before + round(done / self.ratio)
        start = max(0, now - int(settings.max_coarse_history / self.ratio))
        semantic = given[:, start : start + longest]
        padding = longest - semantic.shape[1]
        semantic = F.pad(semantic, (0, padding), value=settings.coarse_semantic_pad_token)  # (rows, 256)
        infer = torch.full_like(given[:, :1], settings.coarse_infer_token)
        return torch.cat([semantic, infer, codes[:, -settings.max_coarse_history :]], dim=1)
