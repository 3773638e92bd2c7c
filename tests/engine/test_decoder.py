"""The decoder's graphs by their inputs and variables, and cross-attention; `test_model` compares what they compute."""

from __future__ import annotations

import numpy as np
import openvino as ov
import pytest
import torch
from exact_engine import exact_graphs
from openvino import opset15 as ops
from small_whisper import SMALL
from torch.nn.functional import scaled_dot_product_attention

from labsupport.engine.decoder import INPUTS, attend_windows, build_decoder, cross_names
from labsupport.engine.rounding import EXACT
from labsupport.engine.runtime import compile_graph
from labsupport.engine.weights import Weights, read_tensors

CONFIG = SMALL.config


def attend(q, k, v):
    arrays = [np.asarray(array, np.float32) for array in (q, k, v)]
    parameters = [ops.parameter(array.shape, np.float32) for array in arrays]
    attended, weights = attend_windows(*parameters, CONFIG.heads, CONFIG.head_dim)
    return list(compile_graph(ov.Model([attended, weights], parameters), EXACT)(arrays).values())


@pytest.mark.parametrize("texts", [1, 3])
@pytest.mark.parametrize("length", [1, 4])
def test_the_texts_of_a_window_attend_to_it_as_torch_has_it(texts, length):
    rng = np.random.default_rng(texts + length)
    windows, frames, heads, head_dim = 2, 30, CONFIG.heads, CONFIG.head_dim
    q = rng.normal(size=(windows * texts, length, CONFIG.d_model))
    k, v = rng.normal(size=(2, windows, heads, frames, head_dim))
    attended, weights = attend(q, k, v)
    split = torch.from_numpy(q).reshape(windows * texts, length, heads, head_dim).transpose(1, 2)
    theirs = scaled_dot_product_attention(split, *(torch.from_numpy(each.repeat(texts, 0)) for each in (k, v)))
    np.testing.assert_allclose(attended, theirs.transpose(1, 2).reshape(q.shape), atol=1e-5)
    assert weights.shape == (windows, heads, texts * length, frames)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)


def test_the_step_holds_the_texts_keys_and_values_and_is_given_the_sounds():
    decoder = exact_graphs(SMALL)["decoder"]
    names = {state.name for state in decoder.create_infer_request().query_state()}
    assert names == {f"decoder.layers.{layer}.{part}" for layer in range(2) for part in "kv"}
    assert [given.get_node().friendly_name for given in decoder.inputs] == [*INPUTS, *cross_names(CONFIG)]


@pytest.mark.parametrize("stored", ["f32", "bf16"])
def test_the_sounds_keys_and_values_have_the_type_that_is_asked_for(stored):
    tensors = read_tensors(SMALL)
    graph = build_decoder(CONFIG, Weights(tensors, int8=False).layer, tensors, stored)
    assert {given.element_type.get_type_name() for given in graph.inputs[len(INPUTS) :]} == {stored}
