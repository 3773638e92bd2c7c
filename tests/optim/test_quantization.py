"""Codes against their laws, torch's own quantiser and plain integer arithmetic; layers and models against float32."""

from __future__ import annotations

import functools
import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from labsupport import whisper
from labsupport.base.errors import OptimError
from labsupport.checkpoints.config import Config
from labsupport.checkpoints.resolve import Checkpoint
from labsupport.optim import quantization
from labsupport.optim.quantization import Scheme, pack, quantize, unpack
from labsupport.whisper import quantized
from labsupport.whisper.quantized import IntegerLinear, QuantizedLinear, QuantizedWords, quantize_model

SCHEMES = st.builds(Scheme, st.sampled_from([8, 4]), st.sampled_from(["tensor", "channel", 4, 8]), st.booleans())


@st.composite
def matrices(draw):
    rows, columns = draw(st.integers(1, 6)), 8 * draw(st.integers(1, 4))
    values = draw(st.lists(st.floats(-1e4, 1e4, width=32), min_size=rows * columns, max_size=rows * columns))
    return torch.tensor(values).reshape(rows, columns)


# --- codes ------------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(matrices(), SCHEMES)
def test_no_number_moves_further_than_half_a_step(weight, scheme):
    quantized = quantize(weight, scheme)
    groups = weight.reshape(len(quantized.scale), -1)
    moved = (quantized.dequantize().reshape(groups.shape) - groups).abs()
    assert (moved <= 0.501 * quantized.scale + 1e-6 * groups.abs()).all()


@settings(deadline=None)
@given(matrices(), SCHEMES)
def test_zero_stays_zero_and_codes_stay_in_their_bits(weight, scheme):
    weight[0, 0] = 0.0
    quantized = quantize(weight, scheme)
    assert quantized.dequantize()[0, 0] == 0
    codes = unpack(quantized.codes) if scheme.bits == 4 else quantized.codes
    assert scheme.lowest <= codes.min() <= codes.max() <= scheme.highest


@settings(deadline=None)
@given(matrices(), SCHEMES)
def test_what_was_quantised_is_not_changed_by_quantising_again(weight, scheme):
    once = quantize(weight, scheme).dequantize()
    again = quantize(once, scheme).dequantize()
    assert torch.allclose(once, again, rtol=1e-4, atol=1e-4 * float(weight.abs().max()))


@given(st.integers(1, 5), st.integers(1, 9), st.randoms())
def test_packing_loses_nothing(rows, pairs, random):
    codes = torch.tensor([[random.randint(-8, 7) for _ in range(2 * pairs)] for _ in range(rows)], dtype=torch.int8)
    assert pack(codes).shape == (rows, pairs)
    assert torch.equal(unpack(pack(codes)), codes)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")  # deprecated, and still an independent reference
def test_codes_are_those_of_torchs_own_quantiser():
    weight = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    ours = quantize(weight, Scheme())
    theirs = torch.quantize_per_channel(weight, ours.scale.flatten(), torch.zeros(5), axis=0, dtype=torch.qint8)
    assert torch.equal(ours.codes, theirs.int_repr())
    assert torch.allclose(ours.dequantize(), theirs.dequantize())


def test_the_lower_half_of_a_byte_is_the_even_column():
    assert pack(torch.tensor([[1, -1, 7, -8]], dtype=torch.int8)).tolist() == [[0xF1, 0x87]]


def test_finer_groups_cost_more_bytes_and_lose_less():
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    weight[:, 17] *= 30  # an outlier in every row
    made = [quantize(weight, Scheme(4, granularity)) for granularity in ("tensor", "channel", 128, 32)]
    errors = [quantization.relative_error(weight, one.dequantize()) for one in made]
    assert errors == sorted(errors, reverse=True)
    assert [one.nbytes for one in made] == [64 * 128 + 4 * groups for groups in (1, 64, 128, 512)]


def test_a_zero_point_pays_where_numbers_lie_to_one_side():
    weight = torch.rand(8, 64, generator=torch.Generator().manual_seed(0)) + 1
    lost = {s: quantization.relative_error(weight, quantize(weight, Scheme(symmetric=s)).dequantize()) for s in (0, 1)}
    assert lost[0] < 0.6 * lost[1]


@pytest.mark.parametrize(
    ("weight", "scheme", "told"),
    [
        (torch.tensor([[1.0, float("nan")]]), Scheme(), "finite"),
        (torch.ones(3), Scheme(), "matrix"),
        (torch.ones(2, 6), Scheme(granularity=4), "Rows of 6 do not fall into groups of 4"),
        (torch.ones(2, 6), Scheme(granularity="row"), "no granularity 'row'"),
        (torch.ones(2, 3), Scheme(bits=4), "3 codes of four bits"),
    ],
)
def test_what_cannot_be_quantised_is_refused(weight, scheme, told):
    with pytest.raises(OptimError, match=told):
        quantize(weight, scheme)


# --- layers -----------------------------------------------------------------------------------------------------------

SCHEMES_OF_LAYERS = [Scheme(), Scheme(4, 32), Scheme(8, "tensor", False), Scheme(4, 64, False)]
MAKERS = [IntegerLinear.of, *(functools.partial(QuantizedLinear.of, scheme=scheme) for scheme in SCHEMES_OF_LAYERS)]


def linear(rows=48, columns=64, bias=True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(columns, rows, bias=bias)


@pytest.mark.parametrize("scheme", SCHEMES_OF_LAYERS)
def test_a_weight_only_layer_computes_with_the_decoded_weight(scheme):
    layer, x = linear(), torch.randn(2, 3, 64)
    made = QuantizedLinear.of(layer, scheme)
    expected = nn.functional.linear(x, quantize(layer.weight, scheme).dequantize(), layer.bias)
    assert torch.equal(made(x), expected)
    assert torch.allclose(made(x[:1, :1]), expected[:1, :1], atol=1e-5), "one row, which torch.compile decodes inside"


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("rows", [1, 3])
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
    assert quantization.relative_error(layer(x), made(x)) < 0.02


class OneStepTooFar(IntegerLinear):
    def forward(self, x):
        return super().forward(x) + self.scale.t()


def test_a_planted_fault_is_seen():
    layer, x = linear(), 0.01 * torch.randn(5, 64)
    assert quantization.relative_error(layer(x) - layer.bias, IntegerLinear.of(layer)(x) - layer.bias) < 0.02
    assert quantization.relative_error(layer(x) - layer.bias, OneStepTooFar.of(layer)(x) - layer.bias) > 0.1


@pytest.mark.parametrize("make", MAKERS)
def test_words_are_looked_up_as_they_are_scored(make):
    words, tokens = QuantizedWords.of(nn.Embedding(20, 64), make), torch.tensor([[3, 19], [0, 3]])
    weight = words.scores.rows(torch.arange(20))
    assert words(tokens).shape == (2, 2, 64)
    assert torch.equal(words(tokens), weight[tokens])
    x = torch.randn(3, 64)
    assert quantization.relative_error(x @ weight.T, words.scores(x)) < 0.02


# --- models -----------------------------------------------------------------------------------------------------------

SMALL = Checkpoint("small", None, Config(64, 2, 2, 2, 90, audio_positions=40), random=True)
WIDE = Checkpoint("wide", None, Config(128, 1, 1, 2, 90, audio_positions=40), random=True)
MEL = np.random.default_rng(0).normal(size=(1, 80, 80)).astype(np.float32)
TOKENS = np.array([[1, 5, 9, 20]])


def small():
    return whisper.load_model(SMALL, "cpu")


def scores(model) -> np.ndarray:
    return model.step(TOKENS, model.encode(MEL), model.new_cache())


@pytest.mark.parametrize(
    ("make", "most"), [(IntegerLinear.of, 0.05), (functools.partial(QuantizedLinear.of, scheme=Scheme()), 0.03)]
)
def test_a_quantised_model_says_nearly_the_same(make, most):
    exact, near = scores(small()), scores(quantize_model(small(), make, words=make))
    assert 0 < np.linalg.norm(exact - near) / np.linalg.norm(exact) < most


@pytest.mark.parametrize("way", [*quantized.WAYS])
def test_every_way_quantises_all_layers_and_words(way):
    model = quantized.WAYS[way](whisper.load_model(WIDE, "cpu"))
    assert not list(quantized.linears(model))
    expected = Scheme(8, 64) if "tokens in groups" in way else Scheme()
    assert model.decoder.embed_tokens.scores.scheme == expected
    bits = {layer.scheme.bits for layer in model.encoder.modules() if isinstance(layer, QuantizedLinear)}
    assert bits == {int(way[3])}


def test_by_side_only_the_encoder_multiplies_integers():
    model = quantized.WAYS["int8 integers, weights in the decoder"](whisper.load_model(WIDE, "cpu"))
    sides = {side: {type(m) for m in getattr(model, side).modules()} for side in ("encoder", "decoder")}
    assert [kind in sides["encoder"] for kind in (IntegerLinear, QuantizedLinear)] == [True, False]
    assert [kind in sides["decoder"] for kind in (IntegerLinear, QuantizedLinear)] == [False, True]


@pytest.mark.parametrize("way", ["int8 weights", "int4 weights, groups of 32"])
def test_a_decoded_model_says_what_the_quantised_one_says(way):
    made = quantized.WAYS[way](whisper.load_model(WIDE, "cpu"))
    before = scores(made)
    plain = quantized.decode_model(made)
    assert not any(isinstance(layer, QuantizedLinear) for layer in plain.modules())
    assert np.abs(scores(plain) - before).max() < 1e-5


def test_integer_layers_are_no_weight_only_layers():
    made = quantized.WAYS["int8 integers"](whisper.load_model(WIDE, "cpu"))
    layers = sum(isinstance(layer, IntegerLinear) for layer in made.modules())
    again = quantized.decode_model(made)
    assert sum(isinstance(layer, IntegerLinear) for layer in again.modules()) == layers


def test_kept_layers_stay_and_all_others_go():
    model = quantize_model(small(), IntegerLinear.of, keep=["encoder.layers.0.fc1"])
    assert [name for name, _ in quantized.linears(model)] == ["encoder.layers.0.fc1"]
    assert isinstance(model.decoder.embed_tokens, nn.Embedding)
    everything = quantize_model(small(), IntegerLinear.of, words=IntegerLinear.of)
    assert not list(quantized.linears(everything))
    assert isinstance(everything.decoder.embed_tokens, QuantizedWords)


def test_the_layer_with_a_planted_outlier_is_the_worst():
    model = small()
    with torch.no_grad():
        model.encoder.layers[1].fc2.weight[:, 3] *= 1000
    errors = quantized.layer_errors(
        model, lambda: scores(model), functools.partial(QuantizedLinear.of, scheme=Scheme(4, "tensor"))
    )
    assert len(errors) == len(list(quantized.linears(model)))
    assert list(errors.values()) == sorted(errors.values(), reverse=True)
    weight_only = quantized.layer_errors(model, lambda: scores(model), IntegerLinear.of)
    assert all(0 < error < 0.2 for error in weight_only.values())
    assert errors["encoder.layers.1.fc2"] > 5 * weight_only["encoder.layers.1.fc2"]
    assert not any(module._forward_hooks for module in model.modules())


# --- rounding with correction -----------------------------------------------------------------------------------------


def related_inputs(rows=400, columns=64):
    """Inputs whose columns go together, as a layer's do."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(rows, 8, generator=generator) @ torch.randn(8, columns, generator=generator)


@pytest.mark.parametrize("scheme", [Scheme(4), Scheme(4, 32), Scheme(4, 16, False), Scheme(8)])
def test_correction_makes_the_product_nearer_and_the_weight_farther(scheme):
    weight, x = linear().weight.detach(), related_inputs()
    plain, better = quantize(weight, scheme), quantization.gptq_quantize(weight, x.T @ x, scheme, damping=0.01)
    products = [quantization.relative_error(x @ weight.T, x @ made.dequantize().T) for made in (plain, better)]
    weights = [quantization.relative_error(weight, made.dequantize()) for made in (plain, better)]
    assert products[1] < 0.5 * products[0]
    assert weights[1] > weights[0]
    assert (better.codes.shape, better.scale.shape) == (plain.codes.shape, plain.scale.shape)


@pytest.mark.parametrize("scheme", [Scheme(4, 16), Scheme(8, "channel", False)])
def test_without_relations_correction_is_plain_rounding(scheme):
    weight = linear().weight.detach()
    plain, same = quantize(weight, scheme), quantization.gptq_quantize(weight, torch.eye(64), scheme)
    assert torch.equal(plain.codes, same.codes)
    assert torch.equal(plain.scale, same.scale)


def test_inputs_are_recorded_for_every_layer():
    model, seen = small(), []
    fc1 = model.encoder.layers[0].fc1
    hook = fc1.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0].flatten(0, -2)))
    products = quantized.record_inputs(model, lambda: scores(model))
    hook.remove()
    assert set(products) == {name for name, _ in quantized.linears(model)}
    assert torch.allclose(products["encoder.layers.0.fc1"], seen[0].T @ seen[0])
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_corrected_model_is_nearer_than_a_plain_one():
    exact, scheme = scores(small()), Scheme(4, 32)
    plain = scores(quantize_model(small(), functools.partial(QuantizedLinear.of, scheme=scheme)))
    model = small()
    products = quantized.record_inputs(model, lambda: scores(model))
    better = scores(quantize_model(model, quantized.corrected(model, products, scheme)))
    assert np.linalg.norm(better - exact) < 0.9 * np.linalg.norm(plain - exact)


def test_a_state_dict_goes_out_and_in(tmp_path):
    made = quantize_model(small(), functools.partial(QuantizedLinear.of, scheme=Scheme(4, 32)))
    stored = io.BytesIO()
    torch.save(made.state_dict(), stored)
    stored.seek(0)
    other = quantize_model(small(), functools.partial(QuantizedLinear.of, scheme=Scheme(4, 32)))
    with torch.no_grad():
        other.encoder.layers[0].fc1.codes.zero_()
    assert np.abs(scores(other) - scores(made)).max() > 0
    other.load_state_dict(torch.load(stored, weights_only=True))
    assert np.array_equal(scores(other), scores(made))
