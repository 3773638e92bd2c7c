"""Solutions of 09_quantization. They spoil the fun: try first."""

from __future__ import annotations

import numpy as np

from labsupport.course.exercises import Exercise, Mistake, Wrong

# --- 9.1 --------------------------------------------------------------------------------------------------------------


def codes_and_scale(row, bits):
    scale = np.abs(row).max() / (2 ** (bits - 1) - 1) or 1.0
    return np.round(np.asarray(row) / scale).astype(int).tolist(), scale


def codes_and_scale_in_a_loop(row, bits):
    largest = max(abs(float(x)) for x in row)
    scale = largest / (2 ** (bits - 1) - 1) if largest else 1.0
    return [int(np.floor(float(x) / scale + 0.5)) for x in row], scale


def codes_and_scale_by_rint(row, bits):
    highest = (1 << (bits - 1)) - 1
    row = np.asarray(row, np.float64)
    scale = max(row.max(), -row.min()) / highest
    if scale == 0:
        return np.zeros(len(row)), 1
    return np.rint(row / scale), scale


def codes_and_scale_in_torch(row, bits):
    import torch

    row = torch.as_tensor(np.asarray(row), dtype=torch.float64)
    scale = row.abs().max() / (2 ** (bits - 1) - 1)
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    return (row / scale).round().to(torch.int32), scale


def to_the_power(row, bits):
    scale = np.abs(row).max() / 2 ** (bits - 1) or 1.0
    return np.round(np.asarray(row) / scale).astype(int), scale


def cut_off(row, bits):
    scale = codes_and_scale(row, bits)[1]
    return np.trunc(np.asarray(row) / scale).astype(int), scale


def largest_positive(row, bits):
    scale = max(np.max(row), 0) / (2 ** (bits - 1) - 1) or 1.0
    return np.round(np.asarray(row) / scale).astype(int), scale


def eight_bits(row, bits):
    return codes_and_scale(row, 8)


def not_rounded(row, bits):
    scale = codes_and_scale(row, bits)[1]
    return np.asarray(row) / scale, scale


def inverted_scale(row, bits):
    codes, scale = codes_and_scale(row, bits)
    return codes, 1 / scale


def without_zeros(row, bits):
    scale = np.abs(row).max() / (2 ** (bits - 1) - 1)
    return [round(x / float(scale)) for x in np.asarray(row).tolist()], scale


def draw_row(rng):
    """No weight is near the middle of two codes, where two ways of rounding part."""
    bits = int(rng.choice([2, 3, 4, 6, 8]))
    highest = 2 ** (bits - 1) - 1
    codes = rng.integers(-highest, highest + 1, rng.integers(1, 9)) + rng.uniform(-0.45, 0.45)
    codes = np.clip(codes, -highest, highest)
    codes[rng.integers(len(codes))] = rng.choice([-highest, highest])
    row = codes * rng.uniform(0.001, 1)
    return (row.tolist() if rng.random() < 0.5 else row), bits


def run_codes_and_scale(answer):
    """tiny.en, every row of whose linear layers gets its codes and scale from the answer."""
    import torch

    from labsupport import whisper
    from labsupport.course import trials
    from labsupport.whisper.quantized import linear_layers

    transcriber = whisper.load(trials.MODEL, device="cpu")
    weights = [layer.weight for _, layer in linear_layers(transcriber.model)]
    for weight in weights:
        pairs = [answer(row, 8) for row in weight.detach().numpy()]
        codes = np.array([np.asarray(codes) for codes, _ in pairs])
        if np.abs(codes).max() > 127:
            raise Wrong("a code does not fit into 8 bits.")
        scales = np.array([[float(scale)] for _, scale in pairs])
        weight.data = torch.from_numpy((codes * scales).astype(np.float32))
    found = trials.check_tokens(trials.find_tokens(transcriber))
    rows, numbers = sum(len(weight) for weight in weights), sum(weight.numel() for weight in weights)
    return f"{found} The linear layers' {4 * numbers / 1e6:.1f} MB fit into {(numbers + 4 * rows) / 1e6:.1f} MB."


# --- 9.2 --------------------------------------------------------------------------------------------------------------


def bits_a_weight(bits, group, scale_bits):
    return bits + scale_bits / group


def bits_a_weight_by_group(bits, group, scale_bits):
    return (bits * group + scale_bits) / group


def bits_a_weight_by_fraction(bits, group, scale_bits):
    from fractions import Fraction

    return float(bits + Fraction(scale_bits, group))


def bits_a_weight_counted(bits, group, scale_bits):
    return sum([bits] * group + [scale_bits]) / group


def draw_group(rng):
    return int(rng.integers(1, 9)), int(rng.integers(1, 300)), int(rng.choice([8, 16, 32]))


# --- 9.3 --------------------------------------------------------------------------------------------------------------


def integer_product(x, codes, scales):
    x_scales = np.abs(x).max(axis=1, keepdims=True) / 127  # (rows, 1)
    x_codes = np.round(x / x_scales).astype(np.int32)
    return (x_codes @ codes.T.astype(np.int32)) * x_scales * scales  # (rows, out)


def integer_product_row_by_row(x, codes, scales):
    rows = []
    for row in x:
        scale = np.abs(row).max() / 127
        rows.append(
            [
                scale * s * (np.rint(row / scale) @ code.astype(np.float64))
                for s, code in zip(scales, codes, strict=True)
            ]
        )
    return rows


def integer_product_by_einsum(x, codes, scales):
    x_scales = np.max(np.abs(x), -1) / 127
    x_codes = np.rint(x / x_scales[:, None]).astype(np.int64)
    return np.einsum("ri,oi,r,o->ro", x_codes, codes, x_scales, scales, optimize=True)


def integer_product_by_matmul(x, codes, scales):
    x_scales = np.abs(x).max(1) / 127
    x_codes = (x.T / x_scales).T.round().astype(int)
    return np.diag(x_scales) @ (x_codes @ codes.T) @ np.diag(scales)


def in_eight_bits(x, codes, scales):
    x_scales = np.abs(x).max(axis=1, keepdims=True) / 127
    return (np.round(x / x_scales).astype(np.int8) @ codes.T.astype(np.int8)) * x_scales * scales


def one_scale_for_all(x, codes, scales):
    x_scale = np.abs(x).max() / 127
    return (np.round(x / x_scale) @ codes.T) * x_scale * scales


def without_x_scale(x, codes, scales):
    x_scales = np.abs(x).max(axis=1, keepdims=True) / 127
    return (np.round(x / x_scales) @ codes.T) * scales


def without_weight_scales(x, codes, scales):
    x_scales = np.abs(x).max(axis=1, keepdims=True) / 127
    return (np.round(x / x_scales) @ codes.T) * x_scales


def weight_only(x, codes, scales):
    return (x @ codes.T.astype(x.dtype)) * scales


def first_row(x, codes, scales):
    return integer_product(x[:1], codes, scales)


def scaled_in_place(x, codes, scales):
    x_scales = np.abs(x).max(axis=1, keepdims=True) / 127
    x /= x_scales
    return (np.round(x) @ codes.T) * x_scales * scales


def draw_product(rng):
    """No number of x is near the middle of two codes, where two ways of rounding part."""
    rows, columns, out = rng.integers(1, [5, 9, 6])
    x = rng.integers(-126, 127, (rows, columns)) + rng.uniform(-0.4, 0.4, (rows, columns))
    x[:, rng.integers(columns)] = rng.choice([-127, 127], rows)
    x *= rng.uniform(0.001, 0.1, (rows, 1))
    codes = rng.integers(-127, 128, (out, columns)).astype(np.int8)
    return x.astype(np.float32), codes, rng.uniform(0.001, 0.1, out).astype(np.float32)


def run_integer_product(answer):
    """tiny.en, whose decoder's linear layers multiply by the answer."""
    import torch

    from labsupport import whisper
    from labsupport.course import trials
    from labsupport.optim.quantization import Scheme, quantize
    from labsupport.whisper.quantized import linear_layers

    class Product(torch.nn.Module):
        def __init__(self, linear):
            super().__init__()
            stored = quantize(linear.weight.detach(), Scheme())
            self.codes, self.scales, self.bias = stored.codes.numpy(), stored.scale.numpy().ravel(), linear.bias

        def forward(self, x):
            out = np.asarray(answer(x.flatten(0, -2).detach().numpy(), self.codes, self.scales), np.float32)
            out = torch.from_numpy(out).unflatten(0, x.shape[:-1])
            return out if self.bias is None else out + self.bias

    transcriber = whisper.load(trials.MODEL, device="cpu")
    project = {"k_proj", "v_proj"}  # of the sound: 1500 rows, which NumPy's integers are slow for
    replaced = 0
    for name, linear in list(linear_layers(transcriber.model.decoder)):
        if not ("encoder_attn" in name and name.rpartition(".")[2] in project):
            transcriber.model.decoder.set_submodule(name, Product(linear))
            replaced += 1
    found = trials.check_tokens(trials.find_tokens(transcriber))
    return f"{found} {replaced} layers of the decoder multiply integers."


EXERCISES = [
    Exercise(
        id="9.1",
        title="Codes and their scale, for every layer",
        hints=(
            "The weight that is largest by size must get the largest code. Which is that, with so many bits?",
            "Codes of n bits reach as far below zero as above; the scale is what one step of a code is worth.",
            "Divide by the scale and round to the nearest whole number. A row of zeros needs a scale, too.",
        ),
        solution=codes_and_scale,
        variants=[codes_and_scale_in_a_loop, codes_and_scale_by_rint, codes_and_scale_in_torch],
        draw=draw_row,
        draws=40,
        edges=[([0.5, -0.1, 0.003, -0.24], 8), ([1.2, -2.0, 0.3], 4), ([0.0, 0.0], 8)],
        trial=run_codes_and_scale,
        mistakes=[
            Mistake(to_the_power, "Eight bits reach to 127, not to 128: the largest weight would have no code."),
            Mistake(cut_off, "That cuts off. Round to the nearest code: the error is half as large."),
            Mistake(largest_positive, "The largest weight by size may be negative."),
            Mistake(eight_bits, "How far codes reach depends on `bits`."),
            Mistake(not_rounded, "Codes are whole numbers."),
            Mistake(inverted_scale, "The scale is what a code is multiplied by to get the weight back."),
            Mistake(without_zeros, "A row of zeros: its largest weight is 0, and nothing can be divided by that."),
        ],
    ),
    Exercise(
        id="9.2",
        title="Bits a weight",
        hints=(
            "A group has as many weights, and one scale.",
            "How many bits does a whole group take, its scale included? And how many weights share them?",
            "Each weight has its own bits, and its part of the scale's.",
        ),
        solution=bits_a_weight,
        variants=[bits_a_weight_by_group, bits_a_weight_by_fraction, bits_a_weight_counted],
        draw=draw_group,
        edges=[(4, 32, 32), (8, 1, 16)],
        mistakes=[
            Mistake(lambda bits, group, scale_bits: bits, "The scales take room, too."),
            Mistake(
                lambda bits, group, scale_bits: bits + scale_bits, "The scale is shared by the whole group: divide it."
            ),
            Mistake(
                lambda bits, group, scale_bits: bits + group / scale_bits,
                "The other way round: the larger the group, the less of a scale each weight pays.",
            ),
            Mistake(lambda bits, group, scale_bits: bits + scale_bits // group, "A part of a bit counts: use `/`."),
            Mistake(lambda bits, group, scale_bits: bits * group + scale_bits, "That is the whole group."),
        ],
    ),
    Exercise(
        id="9.3",
        title="A product of integers, in the decoder",
        hints=(
            "Make `x` whole numbers first, each row with its own scale, as you did with a row of weights.",
            "Multiply whole numbers by whole numbers; the sums need more than eight bits.",
            "Put the scales in at the end: a row's on its row of the result, an output's on its column.",
        ),
        solution=integer_product,
        variants=[integer_product_row_by_row, integer_product_by_einsum, integer_product_by_matmul],
        draw=draw_product,
        rtol=1e-4,
        trial=run_integer_product,
        mistakes=[
            Mistake(without_x_scale, "The scale of x is missing."),
            Mistake(weight_only, "That is weight-only: x was not rounded to codes."),
            Mistake(without_weight_scales, "The scales of the weights' rows are missing."),
            Mistake(one_scale_for_all, "Each row of x has its own scale: a loud row would make the others coarse."),
            Mistake(in_eight_bits, "Products of codes do not fit into eight bits: add up in 32."),
            Mistake(first_row, "Every row of x gives a row of the result."),
            Mistake(scaled_in_place, "The caller's `x` must stay as it was."),
        ],
    ),
]
