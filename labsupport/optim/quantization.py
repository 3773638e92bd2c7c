"""Numbers as integers of eight or four bits: codes, scales, groups, and rounding with correction. For torch.

A number x becomes a code q, a small integer: x is about scale * (q - zero). Symmetric schemes have no zero point. How
many numbers share a scale is the **granularity**: all of a matrix, one row (an output channel), or a group of a row.

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
        """The smallest code: symmetric ones leave the lowest integer out, so that -x has a code where x has one."""
        return -(2 ** (self.bits - 1)) + self.symmetric

    @property
    def highest(self) -> int:
        return 2 ** (self.bits - 1) - 1

    def group_size(self, columns: int, rows: int = 1) -> int:
        """How many numbers share a scale in a (rows, columns) matrix.

        Raises:
            OptimError: rows do not fall into whole groups, or there is no such granularity.
        """
        size = {"tensor": rows * columns, "channel": columns}.get(self.granularity, self.granularity)
        if not isinstance(size, int) or size < 1:
            raise OptimError(
                f"There is no granularity {self.granularity!r}.", hint='Take "tensor", "channel" or a number.'
            )
        if self.granularity != "tensor" and columns % size:
            raise OptimError(f"Rows of {columns} do not fall into groups of {size}.", hint="Take a divisor.")
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
        OptimError: it holds numbers that are not finite, or its shape does not suit the scheme.
    """
    if weight.ndim != 2:
        raise OptimError(f"A matrix is needed, not a tensor of shape {tuple(weight.shape)}.")
    if not torch.isfinite(weight).all():
        raise OptimError("The matrix holds numbers that are not finite.", hint="Look for overflow before.")
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
        OptimError: an odd number of columns.
    """
    if codes.shape[1] % 2:
        raise OptimError(f"{codes.shape[1]} codes of four bits do not fill whole bytes.")
    nibbles = (codes.to(torch.int16) & 15).to(torch.uint8)
    return nibbles[:, 0::2] | (nibbles[:, 1::2] << 4)


def unpack(packed: Tensor) -> Tensor:
    """What `pack` packed."""
    nibbles = torch.stack([packed & 15, packed >> 4], dim=-1).flatten(1).to(torch.int8)
    return torch.where(nibbles > 7, nibbles - 16, nibbles)


def relative_error(exact: Tensor, near: Tensor) -> float:
    """The difference's root mean square over that of the exact numbers; 0 where nothing is lost."""
    return ((exact - near).norm() / exact.norm().clamp(min=torch.finfo(torch.float32).tiny)).item()


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """(rows, columns) float32 -> int8 codes, and (rows, 1) float32 scales: `quantize` by channel without its checks."""
    scale, _ = fit(x, Scheme())
    return (x / scale).round().to(torch.int8), scale


def gptq_quantize(weight: Tensor, products: Tensor, scheme: Scheme, damping: float = 1.0) -> Quantized:
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
