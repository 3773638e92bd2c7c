"""Fused attention for transformers' Bark, which has none: `attn_implementation="sdpa"`.

BetterTransformer, article D's first trick, was one line that replaced each attention by torch's fused one. optimum 2
and transformers 5 dropped it, since most models call `scaled_dot_product_attention` themselves now. Bark does not yet.

Source: article D, section 1; Dao et al. 2022 for what the kernels do.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.models.bark import modeling_bark
from transformers.models.bark.modeling_bark import BarkSelfAttention
from transformers.models.encodec.modeling_encodec import EncodecPreTrainedModel


class BarkSdpaAttention(BarkSelfAttention):
    """Bark's attention, causal or not, as one fused call: the scores are never stored."""

    def _attn(self, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None = None, head_mask=None):
        """(rows, heads, queries, head_dim), key and value (rows, heads, keys, head_dim) -> the query's shape, and None.

        Args:
            attention_mask: None, or what broadcasts to (rows, heads, queries, keys): bool, or added to the scores.

        Raises:
            NotImplementedError: with a head mask, which a fused kernel cannot apply to weights that it does not return.
        """
        if head_mask is not None:
            raise NotImplementedError('A fused attention has no weights to mask: take attn_implementation="eager".')
        queries, keys = query.shape[-2], key.shape[-2]
        causal = self.is_causal and queries > 1  # a single query is the newest, and attends to every key
        if causal and (attention_mask is not None or queries < keys):
            attention_mask, causal = self.merge(attention_mask, queries, keys), False
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, attention_mask, dropout, is_causal=causal)
        return mixed, None  # (rows, heads, queries, head_dim)

    def merge(self, attention_mask: Tensor | None, queries: int, keys: int) -> Tensor:
        """The causal mask and the given one as one, (1 or rows, 1, queries, keys): what both allow."""
        bias: Tensor = self.bias  # type: ignore[assignment]  # a buffer, (1, 1, longest, longest) bool
        allowed = bias[:, :, keys - queries : keys, :keys]  # (1, 1, queries, keys)
        if attention_mask is None:
            return allowed
        if attention_mask.dtype == torch.bool:
            return allowed & attention_mask
        return attention_mask.masked_fill(~allowed, torch.finfo(attention_mask.dtype).min)


def register() -> None:
    """Lets `BarkModel` take `attn_implementation="sdpa"`. A second call changes nothing."""
    modeling_bark.BARK_ATTENTION_CLASSES["sdpa"] = BarkSdpaAttention
    modeling_bark.BarkPreTrainedModel._supports_sdpa = True
    EncodecPreTrainedModel._supports_sdpa = True  # it has no attention, but transformers checks it with the rest
