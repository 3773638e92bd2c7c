"""Fused attention against transformers' own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_bark import LENGTH, assert_same
from transformers.models.bark.modeling_bark import BarkSelfAttention

from labsupport.bark import models
from labsupport.bark.attention import BarkSdpaAttention
from labsupport.bark.generator import BarkGenerator

CONFIG = models.make_config("bark-lesson").semantic_config
LOWEST = torch.finfo(torch.float32).min
HEADS, HEAD_DIM = 2, 8


def make_attention(kind, causal):
    attention = kind(CONFIG, is_causal=causal)
    attention.head_dim = HEAD_DIM  # transformers' divides the scores by its root
    return attention


@given(causal=st.booleans(), queries=st.integers(1, 6), past=st.integers(0, 5), rows=st.integers(1, 3), data=st.data())
def test_fused_attention_gives_what_transformers_gives(causal, queries, past, rows, data):
    keys = queries + (past if causal else 0)
    random = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    q, k, v = (torch.randn(rows, HEADS, n, HEAD_DIM, generator=random) for n in (queries, keys, keys))
    visible = torch.tensor(data.draw(st.lists(st.booleans(), min_size=keys, max_size=keys)))
    visible[0] = True
    bias = torch.zeros(rows, 1, 1, keys).masked_fill(~visible, LOWEST)
    theirs, ours = make_attention(BarkSelfAttention, causal), make_attention(BarkSdpaAttention, causal)
    torch.testing.assert_close(ours._attn(q, k, v)[0], theirs._attn(q, k, v)[0])
    masked = theirs._attn(q, k, v, bias)[0]
    torch.testing.assert_close(ours._attn(q, k, v, bias)[0], masked)
    torch.testing.assert_close(ours._attn(q, k, v, visible[None, None, None])[0], masked)


def test_a_head_mask_is_refused():
    x = torch.zeros(1, HEADS, 3, HEAD_DIM)
    with pytest.raises(NotImplementedError, match="eager"):
        make_attention(BarkSdpaAttention, True)._attn(x, x, x, None, head_mask=torch.ones(HEADS))


def test_a_model_with_fused_attention_gives_the_same_output(expected, fused, tokens):
    kinds = {type(module) for module in fused.modules() if hasattr(module, "att_proj")}
    assert kinds == {BarkSdpaAttention}
    assert_same(expected, BarkGenerator(fused).generate(*tokens, LENGTH))
