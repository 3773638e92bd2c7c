"""Weights of eight or four bits, and matrix products in integers: written out, for torch.

A number x becomes a code q, a small integer: x is about scale * (q - zero). Symmetric schemes have no zero point. How
many numbers share a scale is the **granularity**: all of a matrix, one row (an output channel), or a group of a row.

Source: Jacob et al. 2018 (affine codes, integer products); Dettmers et al. 2022 (outliers kept in higher precision).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import LabError
from ..whisper.torch_model import Words

Maker = Callable[[nn.Linear], nn.Module]  # a linear layer -> its replacement


class QuantizationError(LabError):
    """These numbers cannot be quantised in this way."""


@dataclass(frozen=True)
class Scheme:
    """How numbers become codes.

    Args:
        bits: 8 or 4.
        granularity: "tensor", "channel" (a row), or how many neighbours of a row share a scale: 32, 64, 128.
        symmetric: without a zero point; codes then reach as far below zero as above.
    """

    bits: int = 8
    granularity: str | int = "channel"
    symmetric: bool = True

    @property
    def lowest(self) -> int:
        """The smallest code: symmetric ones leave the lowest integer out, so that -x has a code where x has one."""
        return -(2 ** (self.bits - 1)) + self.symmetric

    @property
    def highest(self) -> int:
        return 2 ** (self.bits - 1) - 1

    def group_size(self, columns: int, rows: int = 1) -> int:
        """How many numbers share a scale in a (rows, columns) matrix.

        Raises:
            QuantizationError: rows do not fall into whole groups, or there is no such granularity.
        """
        size = {"tensor": rows * columns, "channel": columns}.get(self.granularity, self.granularity)
        if not isinstance(size, int) or size < 1:
            raise QuantizationError(
                f"There is no granularity {self.granularity!r}.", hint='Take "tensor", "channel" or a number.'
            )
        if self.granularity != "tensor" and columns % size:
            raise QuantizationError(f"Rows of {columns} do not fall into groups of {size}.", hint="Take a divisor.")
        return size


@dataclass(frozen=True)
class Quantized:
    """A matrix as codes. `codes`: (rows, columns) int8, or, of four bits, (rows, columns / 2) uint8, two in a byte.

    scale: (groups, 1) float32; zero: (groups, 1) float32 whole numbers, or None; the groups follow each other in the
    order of the matrix' rows.
    """

    codes: Tensor
    scale: Tensor
    zero: Tensor | None
    scheme: Scheme
    shape: tuple[int, int]

    @property
    def nbytes(self) -> int:
        """Codes, scales and zero points."""
        return sum(part.nbytes for part in (self.codes, self.scale, self.zero) if part is not None)

    def dequantize(self) -> Tensor:
        """(rows, columns) float32, as near to the first numbers as the codes come."""
        return decode_groups(self.codes, self.scale, self.zero, self.scheme, self.shape)


def quantize(weight: Tensor, scheme: Scheme) -> Quantized:
    """Rounds a (rows, columns) matrix to codes, each at most half a scale away.

    Raises:
        QuantizationError: it holds numbers that are not finite, or its shape does not suit the scheme.
    """
    if weight.ndim != 2:
        raise QuantizationError(f"A matrix is needed, not a tensor of shape {tuple(weight.shape)}.")
    if not torch.isfinite(weight).all():
        raise QuantizationError("The matrix holds numbers that are not finite.", hint="Look for overflow before.")
    groups = weight.detach().float().reshape(-1, scheme.group_size(weight.shape[1], weight.shape[0]))
    scale, zero = fit(groups, scheme)
    codes = (groups / scale).round() + (0 if zero is None else zero)
    codes = codes.clamp(scheme.lowest, scheme.highest).to(torch.int8).reshape(weight.shape)
    return Quantized(pack(codes) if scheme.bits == 4 else codes, scale, zero, scheme, tuple(weight.shape))


def fit(groups: Tensor, scheme: Scheme) -> tuple[Tensor, Tensor | None]:
    """The finest scale, and the zero point, with which each group's numbers all have a code.

    Args:
        groups: (groups, size) float32.

    Returns:
        (groups, 1) float32 scales, and zero points of the same shape, or None.
    """
    tiny = torch.finfo(torch.float32).tiny  # a group of zeros needs a scale, too
    if scheme.symmetric:
        return (groups.abs().amax(1, keepdim=True) / scheme.highest).clamp(min=tiny), None
    low, high = groups.amin(1, keepdim=True).clamp(max=0), groups.amax(1, keepdim=True).clamp(min=0)
    scale = ((high - low) / (scheme.highest - scheme.lowest)).clamp(min=tiny)
    return scale, (scheme.lowest - low / scale).round()


def decode_groups(codes: Tensor, scale: Tensor, zero: Tensor | None, scheme: Scheme, shape: tuple[int, int]) -> Tensor:
    """Codes back to float32; arguments as the fields of `Quantized`."""
    whole = unpack(codes) if scheme.bits == 4 else codes
    groups = whole.reshape(len(scale), -1).float()
    return ((groups if zero is None else groups - zero) * scale).reshape(shape)


def pack(codes: Tensor) -> Tensor:
    """(rows, columns) int8 codes of four bits -> (rows, columns / 2) uint8: the even column is the lower half.

    Raises:
        QuantizationError: an odd number of columns.
    """
    if codes.shape[1] % 2:
        raise QuantizationError(f"{codes.shape[1]} codes of four bits do not fill whole bytes.")
    nibbles = (codes.to(torch.int16) & 15).to(torch.uint8)
    return nibbles[:, 0::2] | (nibbles[:, 1::2] << 4)


def unpack(packed: Tensor) -> Tensor:
    """What `pack` packed."""
    nibbles = torch.stack([packed & 15, packed >> 4], dim=-1).flatten(1).to(torch.int8)
    return torch.where(nibbles > 7, nibbles - 16, nibbles)


def relative_error(exact: Tensor, near: Tensor) -> float:
    """The difference's root mean square over that of the exact numbers; 0 where nothing is lost."""
    return ((exact - near).norm() / exact.norm().clamp(min=torch.finfo(torch.float32).tiny)).item()


# --- layers -----------------------------------------------------------------------------------------------------------


class QuantizedLinear(nn.Module):
    """Weight-only: codes in memory, made float32 again for every product. It saves memory, and costs time, unless
    torch.compile decodes inside of the product, which it can where the input is one row: a decode step.
    """

    def __init__(self, quantized: Quantized, bias: Tensor | None) -> None:
        super().__init__()
        self.scheme, self.shape, self.bias = quantized.scheme, quantized.shape, bias
        for name in ("codes", "scale", "zero"):
            self.register_buffer(name, getattr(quantized, name))

    @classmethod
    def of(cls, linear: nn.Linear, scheme: Scheme | None = None) -> QuantizedLinear:
        """A linear layer's replacement; int8 by channel unless a scheme is given."""
        return cls(quantize(linear.weight, scheme or Scheme()), linear.bias)

    @property
    def weight(self) -> Tensor:
        """(out, in) float32, made anew."""
        return decode_groups(self.codes, self.scale, self.zero, self.scheme, self.shape)

    def rows(self, chosen: Tensor) -> Tensor:
        """(n,) int64 -> (n, in) float32: rows of the weight."""
        scale, zero = (
            part if part is None or len(part) == 1 else part.reshape(self.shape[0], -1)[chosen].reshape(-1, 1)
            for part in (self.scale, self.zero)
        )
        return decode_groups(self.codes[chosen], scale, zero, self.scheme, (len(chosen), self.shape[1]))

    def forward(self, x: Tensor) -> Tensor:
        if x.numel() != x.shape[-1]:
            return F.linear(x, self.weight, self.bias)
        out = (self.weight * x.flatten()).sum(-1).view(*x.shape[:-1], -1)  # one loop when compiled: no weights written
        return out if self.bias is None else out + self.bias


class IntegerLinear(QuantizedLinear):
    """Dynamic: every row of the input gets codes of its own, and the product is one of integers.

    int8 times int8 adds up in int32 without any rounding; the two scales come in at the end. Rows and output channels
    each have one scale, for a scale can only be taken out of a sum that it is common to.

    Raises:
        QuantizationError: the weight's scheme is another than int8, symmetric, by channel.
    """

    def __init__(self, quantized: Quantized, bias: Tensor | None) -> None:
        if quantized.scheme != Scheme():
            raise QuantizationError(f"Integer products need int8, symmetric, by channel, not {quantized.scheme}.")
        super().__init__(quantized, bias)

    def forward(self, x: Tensor) -> Tensor:
        codes, scale = quantize_rows(x.flatten(0, -2))
        out = torch._int_mm(codes, self.codes.t()) * scale * self.scale.t()
        return (out if self.bias is None else out + self.bias).unflatten(0, x.shape[:-1])


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """(rows, columns) float32 -> int8 codes, and (rows, 1) float32 scales: `quantize` by channel without its checks."""
    scale, _ = fit(x, Scheme())
    return (x / scale).round().to(torch.int8), scale


class QuantizedWords(nn.Module):
    """The table of tokens in codes: rows are looked up and made float32; as the output layer it is a linear layer."""

    def __init__(self, scores: QuantizedLinear) -> None:
        super().__init__()
        self.scores = scores

    @classmethod
    def of(cls, table: nn.Embedding, make: Maker) -> QuantizedWords:
        """Replaces a table; `make` makes the output layer, whose rows are those looked up."""
        linear = nn.Linear(table.embedding_dim, table.num_embeddings, bias=False, device="meta")
        linear.weight = table.weight
        return cls(make(linear))

    def forward(self, tokens: Tensor) -> Tensor:
        """(...) int64 -> (..., d_model) float32"""
        return self.scores.rows(tokens.flatten()).unflatten(0, tokens.shape)


# --- models -----------------------------------------------------------------------------------------------------------


def linears(model: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """Name and module of every plain linear layer."""
    return ((name, module) for name, module in model.named_modules() if type(module) is nn.Linear)


def quantize_model(model: nn.Module, make: Maker, keep: Iterable[str] = (), words: Maker | None = None) -> nn.Module:
    """Replaces the linear layers of our Whisper in place; gives the model.

    Args:
        make: gives a linear layer's replacement: `IntegerLinear.of`, or `partial(QuantizedLinear.of, scheme=...)`.
        keep: names of layers that stay in float32, for example those with outliers.
        words: gives that of the table of tokens; None keeps the table in float32.
    """
    kept = set(keep)
    for name, linear in list(linears(model)):
        if name not in kept:
            model.set_submodule(name, make(linear))
    if words:
        model.decoder.embed_tokens = QuantizedWords.of(model.decoder.embed_tokens, words)
    return model


def quantize_by_side(model: nn.Module) -> nn.Module:
    """Integer products in the encoder, where arithmetic counts and little is lost; int8 weights in the decoder."""
    quantize_model(model.encoder, IntegerLinear.of)
    return quantize_model(model, QuantizedLinear.of, words=QuantizedLinear.of)


def decode_model(model: nn.Module) -> nn.Module:
    """Makes weight-only layers plain again, in place, with the numbers that their codes stand for; gives the model.

    For judging a text: it stays the same, and no weight is decoded twice.
    """
    for name, layer in list(model.named_modules()):
        if type(layer) is QuantizedLinear and layer is not getattr(model.decoder.embed_tokens, "scores", None):
            linear = nn.Linear(layer.shape[1], layer.shape[0], device="meta")
            linear.weight, linear.bias = nn.Parameter(layer.weight, requires_grad=False), layer.bias
            model.set_submodule(name, linear)
    words = model.decoder.embed_tokens
    if isinstance(words, QuantizedWords) and type(words.scores) is QuantizedLinear:
        model.decoder.embed_tokens = Words.from_pretrained(words.scores.weight)
    return model


@torch.inference_mode()
def layer_errors(model: nn.Module, run: Callable[[], object], make: Maker) -> dict[str, float]:
    """How wrong each linear layer's output becomes on its own input: name -> relative error, largest first.

    Args:
        run: does some work with the model, on which the layers are judged: an encoding, a few decode steps.
    """
    squares: dict[str, list[float]] = {}

    def judge(name: str, replacement: nn.Module) -> Callable:
        def hook(_module, inputs, output):
            wrong = replacement(*inputs) - output
            sums = squares.setdefault(name, [0.0, 0.0])
            sums[0] += wrong.square().sum().item()
            sums[1] += output.square().sum().item()

        return hook

    hooks = [linear.register_forward_hook(judge(name, make(linear))) for name, linear in linears(model)]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    errors = {name: math.sqrt(wrong / max(all_, 1e-30)) for name, (wrong, all_) in squares.items()}
    return dict(sorted(errors.items(), key=lambda item: -item[1]))


INT4 = {size: partial(QuantizedLinear.of, scheme=Scheme(4, size)) for size in ("channel", 128, 64, 32)}
WAYS: dict[str, Callable[[nn.Module], nn.Module]] = {  # name -> what does it to a model of ours, in place
    "int8 weights": partial(quantize_model, make=QuantizedLinear.of, words=QuantizedLinear.of),
    "int8 weights, tokens in groups of 64": partial(
        quantize_model, make=QuantizedLinear.of, words=partial(QuantizedLinear.of, scheme=Scheme(8, 64))
    ),
    "int8 integers": partial(quantize_model, make=IntegerLinear.of, words=IntegerLinear.of),
    "int8 integers, weights in the decoder": quantize_by_side,
    **{
        f"int4 weights, {size if size == 'channel' else f'groups of {size}'}": partial(
            quantize_model, make=make, words=QuantizedLinear.of
        )
        for size, make in INT4.items()
    },
}


# --- rounding with correction -----------------------------------------------------------------------------------------


@torch.inference_mode()
def record_inputs(model: nn.Module, run: Callable[[], object]) -> dict[str, Tensor]:
    """What `correct` needs of every linear layer's inputs: name -> (in, in) float32 sum of their outer products."""
    sums: dict[str, Tensor] = {}

    def hook_for(name: str) -> Callable:
        def hook(_module, inputs):
            rows = inputs[0].flatten(0, -2)
            sums[name] = sums.get(name, 0) + rows.T @ rows

        return hook

    hooks = [linear.register_forward_pre_hook(hook_for(name)) for name, linear in linears(model)]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return sums


def correct(weight: Tensor, products: Tensor, scheme: Scheme, damping: float = 1.0) -> Quantized:
    """Rounds column by column, and lets the columns that are still to come make up for each rounding's error.

    What counts is not the weight but its product with real inputs. Where inputs of two columns go together, the second
    can take back what the first one did. Scales are fitted when a group's first column is reached.

    Args:
        weight: (rows, columns) float32.
        products: (columns, columns), from `record_inputs`.
        damping: part of the mean diagonal that is added to it. The less speech the products are from, the more: one
            clip's few words span few directions, and in all others a correction is free to do harm. The paper's 0.01
            is for a quarter of a million tokens.

    Source: Frantar et al. 2022 (GPTQ), algorithm 1.
    """
    left, size = weight.detach().float().clone(), scheme.group_size(weight.shape[1])
    spread = upper_inverse(products, damping)
    codes = torch.empty(weight.shape, dtype=torch.int8)
    scales, zeros = [], []
    for column in range(weight.shape[1]):
        if column % size == 0:
            scale, zero = fit(left[:, column : column + size], scheme)
            scales.append(scale)
            zeros.append(zero)
        shift = 0 if zero is None else zero[:, 0]
        code = ((left[:, column] / scale[:, 0]).round() + shift).clamp(scheme.lowest, scheme.highest)
        codes[:, column] = code.to(torch.int8)
        wrong = (left[:, column] - (code - shift) * scale[:, 0]) / spread[column, column]
        left[:, column:] -= wrong[:, None] * spread[column, column:]
    scale, zero = (None if part[0] is None else torch.cat(part, dim=1).reshape(-1, 1) for part in (scales, zeros))
    return Quantized(pack(codes) if scheme.bits == 4 else codes, scale, zero, scheme, tuple(weight.shape))


def upper_inverse(products: Tensor, damping: float) -> Tensor:
    """The upper Cholesky factor of the damped matrix' inverse, in float64 while it is made."""
    damped = products.double()
    damped = damped + damping * damped.diagonal().mean().clamp(min=1e-12) * torch.eye(len(damped), dtype=torch.float64)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    return torch.linalg.cholesky(inverse, upper=True).float()


def corrected(model: nn.Module, products: dict[str, Tensor], scheme: Scheme, damping: float = 1.0) -> Maker:
    """For `quantize_model`: rounds every linear layer of this model with `correct`, by its own inputs.

    Args:
        products: from `record_inputs` on the same model.
        damping: see `correct`.
    """
    own = {linear: products[name] for name, linear in linears(model)}
    return lambda linear: QuantizedLinear(correct(linear.weight, own[linear], scheme, damping), linear.bias)
