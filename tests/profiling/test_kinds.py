"""The kinds of real ops' names, of every framework."""

from __future__ import annotations

from labsupport.profiling.kinds import KINDS, op_kind

NAMES = {
    "matmul": ["aten::addmm", "aten::mm", "BatchMatMulV2", "ampere_sgemm_128x64_tn", "nvjet_hsh_128x64"],
    "convolution": ["aten::mkldnn_convolution", "Conv2D"],
    "attention": ["aten::_scaled_dot_product_flash_attention_for_cpu", "FlashAttentionScore"],
    "softmax": ["softmax_warp_forward"],
    "normalisation": ["aten::native_layer_norm", "LayerNormV3"],
    "activation": ["aten::gelu", "Erf"],
    "copy and shape": ["aten::cat", "CatArrayBatchedCopy", "aten::t", "aten::to", "TransData", "StridedSlice"],
    "other": ["aten::mul", "ConvertElementType", "aten::add", "aten::sort"],
}


def test_the_kind_of_an_op():
    assert set(NAMES) == set(KINDS)
    assert {kind: [op_kind(name) for name in names] for kind, names in NAMES.items()} == {
        kind: [kind] * len(names) for kind, names in NAMES.items()
    }
