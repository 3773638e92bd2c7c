"""Convolution over time, several forms of it: one signature, so that the encoder takes any of them.

x: (batch, channels, frames); weight: (out, channels, kernel); bias: (out,); zeros around both ends. The result is
(batch, out, 1 + (frames + 2 * padding - kernel) // stride), and there must be a kernel's length of frames and zeros.
"""

from __future__ import annotations

from labsupport.arrays import xp
from labsupport.base.errors import NotAvailable, OptimError
from labsupport.machine.backend import on_ascend


def native(x, weight, bias, stride=1, padding=0):
    """The framework's operator for one dimension: torch's, or MindSpore's `Conv1DExt`, which only Ascend has."""
    return xp.conv1d_operator(x, weight, bias, stride, padding)  # (batch, out, frames out)


def framework(x, weight, bias, stride=1, padding=0):
    """The framework's function that runs everywhere: in torch `native`; in MindSpore 2.7 itself `via_conv2d`."""
    return xp.conv1d(x, weight, bias, stride, padding)  # (batch, out, frames out)


def via_conv2d(x, weight, bias, stride=1, padding=0):
    """An image one row high, Conv2D, the bias, and back: step by step what MindSpore's `nn.Conv1d` does.

    Source: MindSpore 2.7.0, mindspore/nn/layer/conv.py; MindNLP 0.4, mindnlp/core/nn/modules/conv.py.
    """
    image = xp.conv2d(x[:, :, None], weight[:, :, None], (1, stride), (0, padding))  # (batch, out, 1, frames out)
    return (image + bias[:, None, None])[:, :, 0]  # (batch, out, frames out)


def via_conv2d_transposed(x, weight, bias, stride=1, padding=0):
    """`via_conv2d` where Conv2D needs another layout, as on Ascend: a copy with the channels last, and one back."""
    channels_last = x.swapaxes(1, 2).contiguous()  # (batch, frames, channels)
    return via_conv2d(channels_last.swapaxes(1, 2), weight, bias, stride, padding).contiguous()


def im2col(x, weight, bias, stride=1, padding=0):
    """Each output frame's inputs, `kernel * channels` numbers, in a column; then one matrix product."""
    out, channels, kernel = weight.shape
    x = xp.pad(x, padding, padding)  # (batch, channels, frames + 2 * padding)
    span = (x.shape[2] - kernel) // stride * stride + 1  # from the first frame of a tap to its last
    columns = xp.concat([x[:, :, tap : tap + span : stride] for tap in range(kernel)], axis=1)
    matrix = weight.swapaxes(1, 2).reshape(out, kernel * channels)  # columns: (batch, kernel * channels, frames out)
    return matrix @ columns + bias[:, None]  # (batch, out, frames out)


FORMS = {form.__name__: form for form in (via_conv2d_transposed, via_conv2d, im2col, framework, native)}


def get_conv1d(name: str):
    """The form called `name`, for `whisper.load(conv1d=...)`; OptimError if there is none, NotAvailable if not here."""
    if name not in FORMS:
        raise OptimError(f"There is no convolution {name!r}.", hint=f"Choose one of {', '.join(FORMS)}.")
    if name == "native" and xp.name == "mindspore" and not on_ascend():
        raise NotAvailable(
            "MindSpore's own one-dimensional convolution needs Ascend: its kernel, Conv1DExt, is unregistered here.",
            where="mindspore.mint.nn.functional.conv1d",
            hint='Use "framework": ops.conv1d, which runs everywhere, through Conv2D.',
        )
    return FORMS[name]
