"""What the fast engine rounds where: each field is one rung of notebook 15's ladder."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Rounding:
    """Every field is off in `EXACT`, which computes in float32 throughout, and on in `FAST`.

    bfloat16: arithmetic in bfloat16, where the processor multiplies it, and so cross-attention's keys and values.
    encoder_weights: the encoder's weights in eight bits.
    encoder_inputs: the inputs of its layers, too, and its output where the decoder's cross-attention reads it, by
        calibration: then products are of integers.
    decoder_weights: the decoder's weights in eight bits.
    cache: self-attention's keys and values in eight bits.
    """

    bfloat16: bool = True
    encoder_weights: bool = True
    encoder_inputs: bool = True
    decoder_weights: bool = True
    cache: bool = True

    def describe(self) -> list[bool]:
        return list(asdict(self).values())


FAST = Rounding()
EXACT = Rounding(*[False] * 5)
