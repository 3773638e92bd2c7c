"""Every form of the convolution against scipy's correlation in float64, alone and inside the encoder."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import correlate
from small_whisper import SMALL

from labsupport import whisper
from labsupport.arrays import xp
from labsupport.base.errors import NotAvailable, OptimError
from labsupport.optim import conv1d

pytestmark = pytest.mark.both_backends


def is_available(name: str) -> bool:
    try:
        conv1d.get_conv1d(name)
    except NotAvailable:
        return False
    return True


AVAILABLE = [name for name in conv1d.FORMS if is_available(name)]  # test_conv1d_mindspore.py holds which ones must be


def reference(x, weight, bias, stride, padding):
    """The definition in float64: a sum over channels of scipy's correlations, of which every stride-th frame counts."""
    x = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (padding, padding)))
    sums = [[sum(map(correlate_valid, item, out)) for out in weight] for item in x]
    return np.array(sums)[:, :, ::stride] + bias[:, None]


def correlate_valid(row, taps):
    return correlate(row, taps.astype(np.float64), "valid")


def make_inputs(batch, channels, out, frames, kernel, seed=0):
    random = np.random.default_rng(seed)
    shapes = (batch, channels, frames), (out, channels, kernel), (out,)
    return [random.uniform(-1, 1, shape).astype(np.float32) for shape in shapes]


def assert_right(form, inputs, stride, padding):
    got = xp.to_numpy(form(*map(xp.asarray, inputs), stride, padding))
    np.testing.assert_allclose(got, reference(*inputs, stride, padding), rtol=0, atol=1e-5)


@st.composite
def cases(draw):
    """Inputs, stride and padding, of which at least one output frame comes."""
    kernel, padding = draw(st.integers(1, 5)), draw(st.integers(0, 3))
    frames = draw(st.integers(max(1, kernel - 2 * padding), 20))
    batch, channels, out = (draw(st.integers(1, most)) for most in (3, 5, 4))
    inputs = make_inputs(batch, channels, out, frames, kernel, draw(st.integers(0, 2**16)))
    return inputs, draw(st.integers(1, 4)), padding


@pytest.mark.parametrize("name", AVAILABLE)
@settings(max_examples=40 if xp.name == "torch" else 15, deadline=None)
@given(case=cases())
def test_every_form_is_the_correlation(name, case):
    assert_right(conv1d.get_conv1d(name), *case)


@pytest.mark.parametrize("name", AVAILABLE)
def test_whispers_own_shapes(name):
    # as many terms in a sum as Whisper has; weights as small as its own, so that the sums stay as small
    x, weight, bias = make_inputs(1, 384, 4, 3000, 3)
    assert_right(conv1d.get_conv1d(name), (x, weight / np.float32(384**0.5), bias), 2, 1)


def test_stride_and_padding_have_defaults():
    inputs = make_inputs(1, 2, 3, 9, 3)
    for name in AVAILABLE:
        got = xp.to_numpy(conv1d.get_conv1d(name)(*map(xp.asarray, inputs)))
        np.testing.assert_allclose(got, reference(*inputs, 1, 0), atol=1e-5)


def forget_the_last_channel(x, weight, bias, stride, padding):
    return conv1d.im2col(x[:, :-1], weight[:, :-1], bias, stride, padding)


def mix_taps_with_channels(x, weight, bias, stride, padding):
    out, channels, kernel = weight.shape
    mixed = weight.swapaxes(1, 2).reshape(out, channels, kernel)  # the weight of im2col's product, not turned
    return conv1d.via_conv2d(x, mixed, bias, stride, padding)


def pad_one_side(x, weight, bias, stride, padding):
    return conv1d.im2col(xp.pad(x, 2 * padding, 0), weight, bias, stride, 0)


def drop_the_bias(x, weight, bias, stride, padding):
    return conv1d.framework(x, weight, 0 * bias, stride, padding)


def start_one_late(x, weight, bias, stride, padding):
    return conv1d.framework(x, weight, bias, 1, padding)[:, :, stride - 1 :: stride]


FAULTS = [forget_the_last_channel, mix_taps_with_channels, pad_one_side, drop_the_bias, start_one_late]


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_show(fault):
    inputs = make_inputs(2, 3, 4, 16, 3)
    assert_right(conv1d.framework, inputs, 2, 1)
    with pytest.raises(AssertionError):
        assert_right(fault, inputs, 2, 1)


def test_changes_of_shape_copy_nothing():
    x = xp.asarray(make_inputs(1, 2, 3, 9, 3)[0])
    assert x[:, :, None].data_ptr() == x.data_ptr()
    assert x[:, :, None][:, :, 0].data_ptr() == x.data_ptr()
    assert x.swapaxes(1, 2).contiguous().data_ptr() != x.data_ptr()  # what the transposed form adds is a copy


def encode(**components) -> np.ndarray:
    mel = np.random.default_rng(0).normal(size=(1, SMALL.config.mels, 2 * SMALL.config.audio_positions))
    return xp.to_numpy(whisper.load_model(SMALL, **components).encode(mel.astype(np.float32)))


@pytest.fixture(scope="module")
def expected():
    return encode()


@pytest.mark.parametrize("name", AVAILABLE)
def test_the_encoder_gives_the_same_with_each_form(name, expected):
    assert np.abs(encode(conv1d=conv1d.get_conv1d(name)) - expected).max() < 1e-4


def test_an_unknown_form_names_those_there_are():
    with pytest.raises(OptimError, match=", ".join(conv1d.FORMS)):
        conv1d.get_conv1d("winograd")


def test_forms_that_run_everywhere_are_available():
    assert {"framework", "via_conv2d", "via_conv2d_transposed", "im2col"} <= set(AVAILABLE)
