"""Solutions of 09_quantization. They spoil the fun: try first."""

from __future__ import annotations

import numpy as np

from labsupport.course.exercises import Exercise, Mistake


def codes_and_scale(row, bits):
    scale = np.abs(row).max() / (2 ** (bits - 1) - 1) or 1.0
    return np.round(np.asarray(row) / scale), scale


def codes_and_scale_in_a_loop(row, bits):
    largest = max(abs(x) for x in row)
    scale = largest / (2 ** (bits - 1) - 1) if largest else 1.0
    return np.array([float(np.rint(x / scale)) for x in row]), scale


def bits_a_weight(bits, group, scale_bits):
    return bits + scale_bits / group


def bits_a_weight_by_group(bits, group, scale_bits):
    return (bits * group + scale_bits) / group


def integer_row(x, codes, scales):
    scale = np.abs(x).max() / 127
    whole = np.asarray(codes) @ np.round(np.asarray(x) / scale).astype(int)
    return whole * scale * np.asarray(scales)


def integer_row_in_a_loop(x, codes, scales):
    scale = max(abs(value) for value in x) / 127
    rounded = [round(value / scale) for value in x]
    products = [
        scale * row_scale * sum(code * value for code, value in zip(row, rounded, strict=True))
        for row, row_scale in zip(codes, scales, strict=True)
    ]
    return np.array(products)


CODES = [[3, -120, 7], [127, 1, -64]]

EXERCISES = [
    Exercise(
        id="9.1",
        title="Codes and their scale",
        hint="The largest code of n bits is 2^(n-1) - 1, and the largest weight must get it.",
        solution=codes_and_scale,
        variant=codes_and_scale_in_a_loop,
        cases=[([0.5, -0.1, 0.003, -0.25], 8), ([1.0, -2.0, 0.4], 4), ([0.0, 0.0], 8)],
        mistakes=[
            Mistake(
                lambda row, bits: (
                    np.round(np.asarray(row) / (np.abs(row).max() / 2 ** (bits - 1) or 1.0)),
                    np.abs(row).max() / 2 ** (bits - 1) or 1.0,
                ),
                "Eight bits reach to 127, not to 128: the largest weight would have no code.",
            ),
            Mistake(
                lambda row, bits: (
                    np.trunc(np.asarray(row) / (np.abs(row).max() / (2 ** (bits - 1) - 1) or 1.0)),
                    np.abs(row).max() / (2 ** (bits - 1) - 1) or 1.0,
                ),
                "That cuts off. Round to the nearest code: the error is half as large.",
            ),
            Mistake(
                lambda row, bits: (
                    np.round(np.asarray(row) / (max(np.max(row), 0) / (2 ** (bits - 1) - 1) or 1.0)),
                    max(np.max(row), 0) / (2 ** (bits - 1) - 1) or 1.0,
                ),
                "The largest weight by size may be negative.",
            ),
        ],
    ),
    Exercise(
        id="9.2",
        title="Bits a weight",
        hint="A group has as many weights, and one scale.",
        solution=bits_a_weight,
        variant=bits_a_weight_by_group,
        cases=[(4, 32, 32), (4, 128, 16), (8, 64, 32)],
        mistakes=[
            Mistake(lambda bits, group, scale_bits: bits, "The scales take room, too."),
            Mistake(
                lambda bits, group, scale_bits: bits + scale_bits, "The scale is shared by the whole group: divide it."
            ),
            Mistake(
                lambda bits, group, scale_bits: bits + group / scale_bits,
                "The other way round: the larger the group, the less of a scale each weight pays.",
            ),
        ],
    ),
    Exercise(
        id="9.3",
        title="A product of integers",
        hint="Round x to codes with one scale; multiply whole numbers; then put in both scales.",
        solution=integer_row,
        variant=integer_row_in_a_loop,
        cases=[([0.3, -1.1, 0.25], CODES, [0.01, 0.002]), ([5.0, 0.02, -3.3], CODES, [0.1, 0.03])],
        mistakes=[
            Mistake(
                lambda x, codes, scales: (
                    (np.asarray(codes) @ np.round(np.asarray(x) / (np.abs(x).max() / 127))) * np.asarray(scales)
                ),
                "The scale of x is missing.",
            ),
            Mistake(
                lambda x, codes, scales: (np.asarray(codes) @ np.asarray(x)) * np.asarray(scales),
                "That is weight-only: x was not rounded to codes.",
            ),
            Mistake(
                lambda x, codes, scales: (
                    (np.asarray(codes) @ np.round(np.asarray(x) / (np.abs(x).max() / 127))) * (np.abs(x).max() / 127)
                ),
                "The scales of the weights' rows are missing.",
            ),
        ],
    ),
]
