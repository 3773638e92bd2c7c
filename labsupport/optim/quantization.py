"""Weights as integers of eight or four bits: codes, scales, zero points, groups, and GPTQ. For torch.

A number x becomes a code q, a small integer: x is about scale * (q - zero). Symmetric schemes have no zero point. How
many numbers share a scale is the **granularity**: a whole matrix, one row (an output channel), or a group in a row.

Source: Jacob et al. 2018 (affine codes, integer products); Frantar et al. 2022 (GPTQ).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from labsupport.base.errors import OptimError


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
        """The smallest code; a symmetric scheme does without the lowest integer, so that -x has a code where x has."""
        return -(2 ** (self.bits - 1)) + self.symmetric

    @property
    def highest(self) -> int:
        return 2 ** (self.bits - 1) - 1

    def group_size(self, columns: int, rows: int = 1) -> int:
        """How many numbers share a scale in a (rows, columns) matrix.

        Raises:
            OptimError: rows do not fall into whole groups, or there is no such granularity.
        """
        named: dict[str | int, int] = {"tensor": rows * columns, "channel": columns}
        size = named.get(self.granularity, self.granularity)
        if not isinstance(size, int) or size < 1:
            hint = 'Take "tensor", "channel" or a number.'
            raise OptimError(f"There is no granularity {self.granularity!r}.", hint=hint)
        if self.granularity != "tensor" and columns % size:
            raise OptimError(f"Rows of {columns} do not fall into groups of {size}.", hint="Take a divisor.")
        return size


@dataclass(frozen=True)
class QuantizedTensor:
    """A (rows, columns) matrix as codes.

    Attributes:
        codes: (rows, columns) int8; of four bits (rows, columns / 2) uint8, two in a byte.
        scale, zero: (groups, 1) float32, row by row; zero points are whole numbers, None in a symmetric scheme.
    """

    codes: Tensor
    scale: Tensor
    zero: Tensor | None
    scheme: Scheme
    shape: tuple[int, int]

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in (self.codes, self.scale, self.zero) if part is not None)

    def dequantize(self) -> Tensor:
        """(rows, columns) float32: the numbers that the codes stand for."""
        return dequantize_groups(self.codes, self.scale, self.zero, self.scheme, self.shape)


def quantize(weight: Tensor, scheme: Scheme) -> QuantizedTensor:
    """Rounds a (rows, columns) matrix to codes, each at most half a scale away.

    Raises:
        OptimError: it is no matrix, holds numbers that are not finite, or its shape does not suit the scheme.
    """
    if weight.ndim != 2:
        raise OptimError(f"A matrix is needed, not a tensor of shape {tuple(weight.shape)}.")
    if not torch.isfinite(weight).all():
        raise OptimError("The matrix holds numbers that are not finite.", hint="Something overflowed before.")
    rows, columns = weight.shape
    groups = weight.detach().float().reshape(-1, scheme.group_size(columns, rows))  # (groups, size)
    scale, zero = choose_scale(groups, scheme)
    codes = (groups / scale).round() + (0 if zero is None else zero)
    codes = codes.clamp(scheme.lowest, scheme.highest).to(torch.int8).reshape(rows, columns)
    return QuantizedTensor(pack(codes) if scheme.bits == 4 else codes, scale, zero, scheme, (rows, columns))


def choose_scale(groups: Tensor, scheme: Scheme) -> tuple[Tensor, Tensor | None]:
    """(groups, size) float32 -> the finest scales (groups, 1) with which all numbers have a code, and zero points."""
    tiny = torch.finfo(torch.float32).tiny  # the scale of a group of zeros
    if scheme.symmetric:
        return (groups.abs().amax(1, keepdim=True) / scheme.highest).clamp(min=tiny), None
    low, high = groups.amin(1, keepdim=True).clamp(max=0), groups.amax(1, keepdim=True).clamp(min=0)
    scale = ((high - low) / (scheme.highest - scheme.lowest)).clamp(min=tiny)
    return scale, (scheme.lowest - low / scale).round()


def dequantize_groups(
    codes: Tensor, scale: Tensor, zero: Tensor | None, scheme: Scheme, shape: tuple[int, int]
) -> Tensor:
    """Codes -> `shape` float32; arguments as the fields of `QuantizedTensor`."""
    whole = unpack(codes) if scheme.bits == 4 else codes  # (rows, columns)
    groups = whole.reshape(len(scale), -1).float()  # (groups, size)
    return ((groups if zero is None else groups - zero) * scale).reshape(shape)


def pack(codes: Tensor) -> Tensor:
    """(rows, columns) int8 codes of four bits -> (rows, columns / 2) uint8: the even column is the lower half.

    Raises:
        OptimError: an odd number of columns.
    """
    if codes.shape[1] % 2:
        raise OptimError(f"{codes.shape[1]} codes of four bits do not fill whole bytes.")
    nibbles = (codes.to(torch.int16) & 15).to(torch.uint8)
    return nibbles[:, 0::2] | (nibbles[:, 1::2] << 4)


def unpack(packed: Tensor) -> Tensor:
    """(rows, columns / 2) uint8 from `pack` -> (rows, columns) int8"""
    nibbles = torch.stack([packed & 15, packed >> 4], dim=-1).flatten(1).to(torch.int8)  # (rows, columns)
    return torch.where(nibbles > 7, nibbles - 16, nibbles)


def relative_error(exact: Tensor, approximate: Tensor) -> float:
    """The difference's root mean square over that of the exact numbers."""
    return ((exact - approximate).norm() / exact.norm().clamp(min=torch.finfo(torch.float32).tiny)).item()


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """(rows, columns) float32 -> int8 codes and (rows, 1) float32 scales: `quantize` by channel without its checks."""
    scale, _ = choose_scale(x, Scheme())
    return (x / scale).round().to(torch.int8), scale


def gptq_quantize(weight: Tensor, hessian: Tensor, scheme: Scheme, damping: float = 1.0) -> QuantizedTensor:
    """Rounds column by column; the columns that are still to come are changed to make up for each rounding's error.

    What counts is the product of the weight with real inputs: where inputs of two columns are correlated, the second
    can cancel the first one's error. A group's scale is chosen when its first column is reached.

    Args:
        weight: (rows, columns) float32.
        hessian: (columns, columns) float32, from `whisper.quantized.record_hessians`.
        damping: part of the mean diagonal that is added to it. One clip spans few directions, and in all others a
            correction can do harm, so it takes more than the paper's 0.01, which is for a quarter of a million tokens.

    Source: Frantar et al. 2022 (GPTQ), algorithm 1.
    """
    rows, columns = weight.shape
    remaining, size = weight.detach().float().clone(), scheme.group_size(columns)
    inverse = inverse_cholesky(hessian, damping)  # (columns, columns)
    codes = torch.empty(rows, columns, dtype=torch.int8)
    scales, zeros = [], []
    for column in range(columns):
        if column % size == 0:
            scale, zero = choose_scale(remaining[:, column : column + size], scheme)  # (rows, 1) each
            shift = torch.zeros_like(scale) if zero is None else zero
            scales.append(scale)
            zeros.append(shift)
        exact = remaining[:, column : column + 1]  # (rows, 1)
        code = ((exact / scale).round() + shift).clamp(scheme.lowest, scheme.highest)
        codes[:, column] = code[:, 0].to(torch.int8)
        error = (exact - (code - shift) * scale) / inverse[column, column]
        remaining[:, column:] -= error * inverse[column, column:]  # (rows, columns from this one on)
    scale, shift = (torch.cat(part, dim=1).reshape(-1, 1) for part in (scales, zeros))  # (groups, 1) each
    packed = pack(codes) if scheme.bits == 4 else codes
    return QuantizedTensor(packed, scale, None if scheme.symmetric else shift, scheme, (rows, columns))


def inverse_cholesky(hessian: Tensor, damping: float) -> Tensor:
    """The upper Cholesky factor of the damped Hessian's inverse, computed in float64: (columns, columns) float32."""
    damped = hessian.double()
    damped = damped + damping * damped.diagonal().mean().clamp(min=1e-12) * torch.eye(len(damped), dtype=torch.float64)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    return torch.linalg.cholesky(inverse, upper=True).float()
