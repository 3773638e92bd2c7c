"""Our Triton kernel: on a GPU where there is one, else in Triton's interpreter, on CPU tensors."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from labsupport.base.paths import ROOT
from labsupport.optim.flash_triton import flash_triton

TOLERANCE = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}
KERNEL = "labsupport.optim.flash_triton_kernel"
HAS_TRITON = importlib.util.find_spec("triton") is not None
needs_triton = pytest.mark.skipif(not HAS_TRITON, reason="needs the package triton, which torch for CUDA installs")


@pytest.fixture(scope="module")
def device():
    """Where the kernel runs."""
    if not HAS_TRITON:
        pytest.skip("needs the package triton, which torch for CUDA installs")
    return "cuda" if torch.cuda.is_available() else "cpu"  # where tests/conftest.py has Triton interpret kernels


def make_inputs(device, dtype, heads, queries, keys, dim, batch=1, seed=0):
    """q, k, v as a model has them: the heads of a position side by side in memory."""
    make = torch.Generator().manual_seed(seed)
    shapes = [(batch, length, heads, dim) for length in (queries, keys, keys)]
    return [torch.randn(shape, generator=make).to(device, dtype).transpose(1, 2) for shape in shapes]


def reference(q, k, v, causal, shift=None):
    """The formula in float64; query i attends to keys up to i + shift; shift aligns the ends unless it is given."""
    q, k, v = q.double(), k.double(), v.double()
    scores = q @ k.mT / q.shape[-1] ** 0.5
    if causal:
        shift = k.shape[2] - q.shape[2] if shift is None else shift
        scores = scores.masked_fill(~torch.ones_like(scores, dtype=torch.bool).tril(shift), -torch.inf)
    return scores.softmax(-1).nan_to_num(0.0) @ v


def error(q, k, v, causal, **options):
    return (flash_triton(q, k, v, causal=causal).double() - reference(q, k, v, causal, **options)).abs().max().item()


@pytest.mark.parametrize(
    ("dtype", "dim", "causal"),
    [
        (torch.float32, 16, True),
        (torch.float32, 128, False),
        (torch.float16, 32, False),
        (torch.float16, 64, True),
    ],
)
def test_equals_the_formula_in_float64(device, dtype, dim, causal):
    inputs = make_inputs(device, dtype, 2, 100, 100, dim, batch=2)
    out = flash_triton(*inputs, causal=causal)
    assert (out.shape, out.dtype) == (inputs[0].shape, dtype)
    assert error(*inputs, causal) < TOLERANCE[dtype]


def test_equals_the_formula_in_bfloat16(device):
    if device == "cpu":
        pytest.skip("Triton's interpreter multiplies bfloat16 as if its bits were integers (3.6, 3.7): needs a GPU")
    assert error(*make_inputs(device, torch.bfloat16, 2, 300, 300, 64), causal=True) < TOLERANCE[torch.bfloat16]


@settings(max_examples=15, deadline=None)
@given(queries=st.integers(1, 150), keys=st.integers(1, 200), causal=st.booleans())
def test_any_two_lengths(device, queries, keys, causal):
    assert error(*make_inputs(device, torch.float32, 1, queries, keys, 16), causal) < TOLERANCE[torch.float32]


@pytest.mark.parametrize(("queries", "keys"), [(1500, 1500), (4, 1500), (1, 224)], ids=["encoder", "cross", "step"])
def test_whispers_shapes(device, queries, keys):
    inputs = make_inputs(device, torch.float16, 1, queries, keys, 64)
    assert error(*inputs, causal=queries < keys < 1500) < TOLERANCE[torch.float16]


def test_a_query_without_any_key_gets_zeros(device):
    out = flash_triton(*make_inputs(device, torch.float32, 1, 90, 70, 32), causal=True)
    assert out[:, :, :20].abs().max() == 0
    assert out[:, :, 20:].abs().amin(-1).max() > 0


def test_large_scores_do_not_overflow(device):
    q, k, v = make_inputs(device, torch.float32, 1, 70, 130, 32)
    assert error(100 * q, k, v, False) < 1e-2
    assert error(q, k - 1000, v, True) < 5e-2


def test_any_layout_in_memory(device):
    q, k, v = make_inputs(device, torch.float32, 2, 80, 80, 32)
    turned = [x.mT.contiguous().mT for x in (q, k, v)]  # head_dim is no longer the innermost axis
    assert turned[0].stride(-1) != 1
    torch.testing.assert_close(flash_triton(*turned, causal=True), flash_triton(q, k, v, causal=True))


def test_the_tolerance_shows_first_positions_aligned_instead_of_last(device):
    inputs = make_inputs(device, torch.float16, 1, 60, 61, 64)
    assert error(*inputs, causal=True) < TOLERANCE[torch.float16] < error(*inputs, causal=True, shift=0) / 10


COMPILE = """
import json, triton
from labsupport.optim import flash_triton_kernel as kernel

def instruction(capability, kind):
    shape = {"CAUSAL": True, "PRECISION": "tf32x3", "DIM": 64, "QUERIES": 64, "KEYS": 64}
    types = {n: "constexpr" if n in shape else f"*{kind}" if n in "qkvo" else "i32" for n in kernel.tuned.arg_names}
    source = triton.compiler.ASTSource(kernel.tuned.fn, types | {"scale": "fp32"}, shape)
    compiled = triton.compile(source, target=triton.backends.compiler.GPUTarget("cuda", capability, 32))
    return next((name for name in ("wgmma.mma_async", "mma.sync") if name in compiled.asm["ptx"]), None)

print(json.dumps([instruction(80, "fp16"), instruction(90, "bf16"), instruction(90, "fp32")]))  # Ampere, Hopper
"""


@pytest.mark.slow
@needs_triton
def test_compiles_to_tensor_cores_of_gpus_that_are_not_here(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "LAB_BACKEND": "torch"}
    command = [sys.executable, "-c", COMPILE]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["mma.sync", "wgmma.mma_async", "wgmma.mma_async"]


@needs_triton
def test_the_tuner_tries_blocks_that_fit_the_number_of_queries():
    kernel = importlib.import_module(KERNEL)
    shapes = kernel.make_configs(kernel.LARGE + kernel.SMALL + kernel.FEW_QUERIES)
    step, encoder = (kernel.prune_configs(shapes, {"QUERY_BUCKET": queries}) for queries in (1, 2048))
    assert {config.kwargs["QUERIES"] for config in step} == {16}
    assert min(config.kwargs["QUERIES"] for config in encoder) == 64
    assert len(step) + len(encoder) == len(shapes)


@pytest.mark.weights
def test_a_gpu_transcribes_with_it_as_with_sdpa(jfk):
    if not torch.cuda.is_available():
        pytest.skip("needs CUDA: a whole transcription takes minutes in the interpreter")
    from labsupport import whisper

    texts = [whisper.load("tiny.en", attn_implementation=mode).transcribe(jfk).text for mode in ("sdpa", "triton")]
    assert texts[0] == texts[1]
