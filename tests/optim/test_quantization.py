"""Codes against their laws, torch's own quantiser, and what GPTQ must and must not change."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from labsupport.base.errors import OptimError
from labsupport.optim import quantization
from labsupport.optim.quantization import Scheme, pack, quantize, unpack

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


@settings(deadline=None)
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
    ("weight", "scheme", "message"),
    [
        (torch.tensor([[1.0, float("nan")]]), Scheme(), "finite"),
        (torch.ones(3), Scheme(), "matrix"),
        (torch.ones(2, 6), Scheme(granularity=4), "Rows of 6 do not fall into groups of 4"),
        (torch.ones(2, 6), Scheme(granularity="row"), "no granularity 'row'"),
        (torch.ones(2, 3), Scheme(bits=4), "3 codes of four bits"),
    ],
)
def test_what_cannot_be_quantised_is_refused(weight, scheme, message):
    with pytest.raises(OptimError, match=message):
        quantize(weight, scheme)


# --- GPTQ -------------------------------------------------------------------------------------------------------------


def draw_weight() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.nn.Linear(64, 48).weight.detach()


def correlated_inputs(rows=400, columns=64):
    """Inputs with correlated columns, as a layer's are."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(rows, 8, generator=generator) @ torch.randn(8, columns, generator=generator)


@pytest.mark.parametrize("scheme", [Scheme(4), Scheme(4, 32), Scheme(4, 16, False), Scheme(8)])
def test_gptq_makes_the_product_more_exact_and_the_weight_less(scheme):
    weight, x = draw_weight(), correlated_inputs()
    plain, better = quantize(weight, scheme), quantization.gptq_quantize(weight, x.T @ x, scheme, damping=0.01)
    products = [quantization.relative_error(x @ weight.T, x @ made.dequantize().T) for made in (plain, better)]
    weights = [quantization.relative_error(weight, made.dequantize()) for made in (plain, better)]
    assert products[1] < 0.5 * products[0]
    assert weights[1] > weights[0]
    assert (better.codes.shape, better.scale.shape) == (plain.codes.shape, plain.scale.shape)


@pytest.mark.parametrize("scheme", [Scheme(4, 16), Scheme(8, "channel", False)])
def test_on_uncorrelated_inputs_gptq_is_plain_rounding(scheme):
    weight = draw_weight()
    plain, same = quantize(weight, scheme), quantization.gptq_quantize(weight, torch.eye(64), scheme)
    assert torch.equal(plain.codes, same.codes)
    assert torch.equal(plain.scale, same.scale)
