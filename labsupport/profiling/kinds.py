"""What kind of work an op does, from its name in any of the frameworks."""

from __future__ import annotations

import re

OTHER = "other"
# In order: the first that fits a name counts. "softmax_warp_forward" is a softmax, "CatArrayBatchedCopy" a copy.
PATTERNS = {
    "attention": r"attention|attn|flash|fmha",
    "convolution": r"conv(?!ert)",
    "softmax": r"softmax",
    "normalisation": r"norm",
    "matmul": r"mat_?mul|\b(add)?mm\b|\b(add|b?add)?bmm|gemm|gemv|linear|dense|einsum|nvjet|cublas|cutlass",
    "activation": r"gelu|relu|silu|\berf|tanh|sigmoid",
    "copy and shape": (
        r"copy|clone|\bt\b|\bto\b|cast|contiguous|trans|permute|swapaxes|shape|view|expand|broadcast|tile|repeat"
        r"|squeeze|flatten|slice|select|gather|scatter|index|embedding|narrow|split|chunk|cat\b|catarray|concat|stack"
        r"|pad|stride|alias|detach|resize|empty|zeros|ones|fill|memset|memcpy|lift|result_type"
    ),
}
KINDS = (*PATTERNS, OTHER)
COMPILED = {kind: re.compile(pattern) for kind, pattern in PATTERNS.items()}


def op_kind(name: str) -> str:
    """The kind of the op called `name`, one of `KINDS`: "aten::addmm", "BatchMatMulV2", "softmax_warp_forward"."""
    lowered = re.sub(r"(?<=[a-z\d])(?=[A-Z])", " ", name).lower()
    joined = lowered.replace(" ", "")
    return next((kind for kind, fits in COMPILED.items() if fits.search(joined) or fits.search(lowered)), OTHER)
