"""Quantised layers against plain integer arithmetic, quantised models against float32."""

from __future__ import annotations

import functools
import io

import numpy as np
import pytest
import torch
from torch import nn

from labsupport import whisper
from labsupport.checkpoints.config import Config
from labsupport.checkpoints.resolve import Checkpoint
from labsupport.optim.quantization import Scheme, quantize, relative_error
from labsupport.whisper import quantized
from labsupport.whisper.quantized import IntegerLinear, QuantizedEmbedding, QuantizedLinear, quantize_model

# --- layers -----------------------------------------------------------------------------------------------------------

SCHEMES = [Scheme(), Scheme(4, 32), Scheme(8, "tensor", False), Scheme(4, 64, False)]
MAKERS = [IntegerLinear.of, *(functools.partial(QuantizedLinear.of, scheme=scheme) for scheme in SCHEMES)]


def linear(rows=48, columns=64, bias=True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(columns, rows, bias=bias)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_weight_only_layer_computes_with_the_dequantised_weight(scheme):
    layer, x = linear(), torch.randn(2, 3, 64)
    made = QuantizedLinear.of(layer, scheme)
    expected = nn.functional.linear(x, quantize(layer.weight, scheme).dequantize(), layer.bias)
    assert torch.equal(made(x), expected)
    assert torch.allclose(made(x[:1, :1]), expected[:1, :1], atol=1e-5), (
        "one row, which torch.compile dequantises inside"
    )


@pytest.mark.slow
@pytest.mark.parametrize(("make", "rows"), [*((make, 1) for make in MAKERS[1:]), (MAKERS[0], 3), (MAKERS[-1], 3)])
def test_compiled_layers_compute_the_same(make, rows):
    layer, x = make(linear()), torch.randn(rows, 1, 64)
    with torch.no_grad():
        assert torch.allclose(torch.compile(layer)(x), layer(x), atol=1e-5)


@pytest.mark.parametrize("rows", [1, 5, 40])
@pytest.mark.parametrize("bias", [True, False])
def test_the_integer_product_is_that_of_whole_numbers(rows, bias):
    layer, x = linear(bias=bias), torch.randn(rows, 64)
    made, found = IntegerLinear.of(layer), quantize(x, Scheme())
    whole = found.codes.numpy().astype(np.int64) @ made.codes.numpy().astype(np.int64).T
    expected = whole * found.scale.numpy() * made.scale.numpy().T
    if bias:
        expected = expected + layer.bias.detach().numpy()
    assert np.allclose(made(x).detach().numpy(), expected, rtol=1e-6, atol=1e-6)
    assert relative_error(layer(x), made(x)) < 0.02


class OneStepTooFar(IntegerLinear):
    def forward(self, x):
        return super().forward(x) + self.scale.t()


def test_a_planted_fault_is_found():
    layer, x = linear(), 0.01 * torch.randn(5, 64)
    assert relative_error(layer(x) - layer.bias, IntegerLinear.of(layer)(x) - layer.bias) < 0.02
    assert relative_error(layer(x) - layer.bias, OneStepTooFar.of(layer)(x) - layer.bias) > 0.1


@pytest.mark.parametrize("make", MAKERS)
def test_embedding_and_output_layer_have_the_same_weights(make):
    table, tokens = QuantizedEmbedding.of(nn.Embedding(20, 64), make), torch.tensor([[3, 19], [0, 3]])
    weight = table.linear.rows(torch.arange(20))
    assert table(tokens).shape == (2, 2, 64)
    assert torch.equal(table(tokens), weight[tokens])
    x = torch.randn(3, 64)
    assert relative_error(x @ weight.T, table.logits(x)) < 0.02


# --- models -----------------------------------------------------------------------------------------------------------

SMALL = Checkpoint("small", None, Config(64, 2, 2, 2, 90, audio_positions=40), random=True)
WIDE = Checkpoint("wide", None, Config(128, 1, 1, 2, 90, audio_positions=40), random=True)
MEL = np.random.default_rng(0).normal(size=(1, 80, 80)).astype(np.float32)
TOKENS = np.array([[1, 5, 9, 20]])


def small():
    return whisper.load_model(SMALL, "cpu")


def logits(model) -> np.ndarray:
    cache = model.new_cache()
    model.project_cross_kv(model.encode(MEL), cache)
    return model.prefill(TOKENS, cache)


@pytest.mark.parametrize(
    ("make", "most"), [(IntegerLinear.of, 0.05), (functools.partial(QuantizedLinear.of, scheme=Scheme()), 0.03)]
)
def test_a_quantised_model_gives_nearly_the_same_logits(make, most):
    exact, near = logits(small()), logits(quantize_model(small(), make, embedding=make))
    assert 0 < np.linalg.norm(exact - near) / np.linalg.norm(exact) < most


@pytest.mark.parametrize("name", quantized.RECIPES)
def test_every_recipe_quantises_all_layers_and_the_embedding(name):
    model = quantized.RECIPES[name](whisper.load_model(WIDE, "cpu"))
    assert not list(quantized.linear_layers(model))
    expected = Scheme(8, 64) if "tokens in groups" in name else Scheme()
    assert model.decoder.embed_tokens.linear.scheme == expected
    bits = {layer.scheme.bits for layer in model.encoder.modules() if isinstance(layer, QuantizedLinear)}
    assert bits == {int(name[3])}


def test_by_side_only_the_encoder_multiplies_integers():
    model = quantized.RECIPES["int8 integers, weights in the decoder"](whisper.load_model(WIDE, "cpu"))
    sides = {side: {type(m) for m in getattr(model, side).modules()} for side in ("encoder", "decoder")}
    assert [kind in sides["encoder"] for kind in (IntegerLinear, QuantizedLinear)] == [True, False]
    assert [kind in sides["decoder"] for kind in (IntegerLinear, QuantizedLinear)] == [False, True]


@pytest.mark.parametrize("name", ["int8 weights", "int4 weights, groups of 32"])
def test_a_dequantised_model_gives_the_logits_of_the_quantised_one(name):
    made = quantized.RECIPES[name](whisper.load_model(WIDE, "cpu"))
    before = logits(made)
    plain = quantized.dequantize_model(made)
    assert not any(isinstance(layer, QuantizedLinear) for layer in plain.modules())
    assert np.abs(logits(plain) - before).max() < 1e-5


def test_cross_attention_of_a_quantised_model_is_that_of_its_weights():
    made = quantized.RECIPES["int8 weights"](whisper.load_model(WIDE, "cpu"))
    encoder_out, heads = made.encode(MEL), [(0, 0), (0, 1)]
    before = made.cross_attention(TOKENS, encoder_out, heads)
    assert np.abs(quantized.dequantize_model(made).cross_attention(TOKENS, encoder_out, heads) - before).max() < 1e-5


def test_integer_layers_are_not_dequantised():
    made = quantized.RECIPES["int8 integers"](whisper.load_model(WIDE, "cpu"))
    layers = sum(isinstance(layer, IntegerLinear) for layer in made.modules())
    again = quantized.dequantize_model(made)
    assert sum(isinstance(layer, IntegerLinear) for layer in again.modules()) == layers


def test_skipped_layers_stay_and_all_others_go():
    model = quantize_model(small(), IntegerLinear.of, skip=["encoder.layers.0.fc1"])
    assert [name for name, _ in quantized.linear_layers(model)] == ["encoder.layers.0.fc1"]
    assert isinstance(model.decoder.embed_tokens, nn.Embedding)
    everything = quantize_model(small(), IntegerLinear.of, embedding=IntegerLinear.of)
    assert not list(quantized.linear_layers(everything))
    assert isinstance(everything.decoder.embed_tokens, QuantizedEmbedding)


def test_the_layer_with_a_planted_outlier_is_the_worst():
    model = small()
    with torch.no_grad():
        model.encoder.layers[1].fc2.weight[:, 3] *= 1000
    errors = quantized.layer_errors(
        model, lambda: logits(model), functools.partial(QuantizedLinear.of, scheme=Scheme(4, "tensor"))
    )
    assert len(errors) == len(list(quantized.linear_layers(model)))
    assert list(errors.values()) == sorted(errors.values(), reverse=True)
    weight_only = quantized.layer_errors(model, lambda: logits(model), IntegerLinear.of)
    assert all(0 < error < 0.2 for error in weight_only.values())
    assert errors["encoder.layers.1.fc2"] > 5 * weight_only["encoder.layers.1.fc2"]
    assert not any(module._forward_hooks for module in model.modules())


# --- GPTQ -------------------------------------------------------------------------------------------------------------


def test_hessians_are_recorded_for_every_layer():
    model, inputs = small(), []
    fc1 = model.encoder.layers[0].fc1
    hook = fc1.register_forward_pre_hook(lambda _module, given: inputs.append(given[0].flatten(0, -2)))
    hessians = quantized.record_hessians(model, lambda: logits(model))
    hook.remove()
    assert set(hessians) == {name for name, _ in quantized.linear_layers(model)}
    assert torch.allclose(hessians["encoder.layers.0.fc1"], inputs[0].T @ inputs[0])
    assert not any(module._forward_hooks for module in model.modules())


def test_gptq_brings_the_logits_nearer():
    exact, scheme = logits(small()), Scheme(4, 32)
    plain = logits(quantize_model(small(), functools.partial(QuantizedLinear.of, scheme=scheme)))
    model = small()
    hessians = quantized.record_hessians(model, lambda: logits(model))
    better = logits(quantize_model(model, quantized.gptq_factory(model, hessians, scheme)))
    assert np.linalg.norm(better - exact) < 0.9 * np.linalg.norm(plain - exact)


def test_a_state_dict_is_saved_and_loaded():
    made = quantize_model(small(), functools.partial(QuantizedLinear.of, scheme=Scheme(4, 32)))
    stored = io.BytesIO()
    torch.save(made.state_dict(), stored)
    stored.seek(0)
    other = quantize_model(small(), functools.partial(QuantizedLinear.of, scheme=Scheme(4, 32)))
    with torch.no_grad():
        other.encoder.layers[0].fc1.codes.zero_()
    assert np.abs(logits(other) - logits(made)).max() > 0
    other.load_state_dict(torch.load(stored, weights_only=True))
    assert np.array_equal(logits(other), logits(made))
