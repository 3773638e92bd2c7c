"""What the encoder's layers read in real speech: from it, the ranges of eight-bit inputs and how to smooth them.

Source: Xiao et al. 2022 (SmoothQuant), section 4.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from openvino import Node

from labsupport.checkpoints.config import Config
from labsupport.engine.encoder import build_encoder
from labsupport.engine.quantization import Range, smoothing, symmetric_range
from labsupport.engine.rounding import EXACT
from labsupport.engine.runtime import compile_graph
from labsupport.engine.weights import PARTS, Weights


def calibrate(
    config: Config, tensors: Mapping[str, np.ndarray], mels: Iterable[np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, Range]]:
    """The encoder's tensors, smoothed, and the ranges of those layers whose inputs are rounded to eight bits.

    And, as "encoder_out", that of its output, which the decoder's cross-attention reads. A feed-forward net's second
    layer is none of them: in some layers GELU's output has single values a hundred times as large as the others, and
    one scale for all rounds those away.

    Args:
        mels: windows of speech, (mels, frames) float32 each.
    """
    smoothed, maxima = smooth(config, tensors, channel_maxima(config, tensors, mels))
    return smoothed, {
        name: symmetric_range(float(each.max())) for name, each in maxima.items() if not name.endswith("fc2")
    }


def channel_maxima(
    config: Config, tensors: Mapping[str, np.ndarray], mels: Iterable[np.ndarray]
) -> dict[str, np.ndarray]:
    """The largest absolute value of each input channel, (in,) float32, by linear layer of the encoder; and of its
    output, as "encoder_out".

    Args:
        mels: (mels, frames) float32 each: windows of speech.
    """
    observed: dict[str, Node] = {}
    model = build_encoder(config, Weights(tensors, int8=False).layer, tensors, observed.__setitem__)
    model.add_outputs([node.output(0) for node in observed.values()])
    request = compile_graph(model, EXACT).create_infer_request()
    names = ["encoder_out", *observed]
    maxima = {name: np.zeros(1, np.float32) for name in names}
    for mel in mels:
        for name, inputs in zip(names, request.infer([mel[None]]).values(), strict=True):
            maxima[name] = np.maximum(maxima[name], np.abs(inputs).max(axis=(0, 1)))  # (in,)
    return maxima


def smooth(
    config: Config, tensors: Mapping[str, np.ndarray], maxima: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The same encoder in float32, with input channels of like size; and the maxima of its layers.

    What divides a layer's inputs goes into the norm before it, or into the values that attention averages; nothing
    stands before a feed-forward net's second layer that could take it, for GELU is not linear.
    """
    tensors, maxima = dict(tensors), dict(maxima)
    for number in range(config.encoder_layers):
        name = f"encoder.layers.{number}"
        attention = f"{name}.self_attn"
        sources = {
            "out": f"{attention}.v_proj",
            "qkv": f"{name}.self_attn_layer_norm",
            "fc1": f"{name}.final_layer_norm",
        }
        for part, source in sources.items():
            targets = [f"{name}.{target}.weight" for target in PARTS[part]]
            weight = tensors[f"{source}.weight"]  # (out, in), or a norm's (in,)
            factors = smoothing(maxima[f"{name}.{part}"], np.concatenate([tensors[target] for target in targets]))
            tensors[f"{source}.weight"] = weight / (factors[:, None] if weight.ndim == 2 else factors)
            tensors[f"{source}.bias"] = tensors[f"{source}.bias"] / factors
            tensors |= {target: tensors[target] * factors for target in targets}
            maxima[f"{name}.{part}"] = maxima[f"{name}.{part}"] / factors
    return tensors, maxima
