"""The array functions against NumPy, on the framework of this process; the twins have the same functions."""

from __future__ import annotations

import ast

import numpy as np
import pytest

from labsupport.arrays import xp
from labsupport.base.paths import ROOT

pytestmark = pytest.mark.both_backends

# Functions that one framework alone has.
ALONE = {"apply_layers", "has_cuda", "scaled_dot_product_attention", "conv1d_operator", "flash_packed", "later_keys"}
X = np.random.default_rng(0).normal(size=(3, 2, 5, 4)).astype(np.float32)


def parameters_of(twin: str) -> dict[str, list[str]]:
    """Each function of the module and the names of its parameters."""
    tree = ast.parse((ROOT / "labsupport" / "arrays" / f"on_{twin}.py").read_text(encoding="utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name not in ALONE]
    return {node.name: [argument.arg for argument in node.args.args] for node in functions}


def test_the_twins_have_the_same_functions():
    assert parameters_of("torch") == parameters_of("mindspore")


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: xp.softmax(x, axis=-1), np.exp(X) / np.exp(X).sum(-1, keepdims=True)),
        (lambda x: xp.max(x, axis=1), X.max(1, keepdims=True)),
        (lambda x: xp.sum(x, axis=2), X.sum(2, keepdims=True)),
        (lambda x: xp.concat([x, x], axis=2), np.concatenate([X, X], 2)),
        (lambda x: xp.take(x, xp.asarray(np.array([2, 0, 2])), axis=2), X[:, :, [2, 0, 2]]),
        (lambda x: xp.put(x, xp.asarray(np.array([2])), x[:1]), X[[0, 1, 0]]),
        (lambda x: xp.pad(x, 2, 1), np.pad(X, [(0, 0)] * 3 + [(2, 1)])),
        (lambda x: xp.full((2, 3), 7.0, x), np.full((2, 3), 7, np.float32)),
        (lambda x: xp.indices(4, x), np.arange(4)),
        (lambda x: xp.widen(xp.cast(x, "float16")), X.astype(np.float16).astype(np.float32)),
    ],
    ids=["softmax", "max", "sum", "concat", "take", "put", "pad", "full", "indices", "cast and widen"],
)
def test_a_function_is_numpys(function, expected):
    found = xp.to_numpy(function(xp.asarray(X)))
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_a_buffer_is_written_in_place():
    buffer, expected = xp.buffer(X.shape, xp.asarray(X)), np.zeros_like(X)
    xp.fill_rows(buffer, xp.asarray(X[:, :, :2]))
    xp.write(buffer, xp.asarray(X[:, :, :1]), xp.asarray(np.array([3])))
    expected[:, :, :2], expected[:, :, 3:4] = X[:, :, :2], X[:, :, :1]
    assert np.array_equal(xp.to_numpy(buffer), expected)
    xp.move_rows(buffer, np.array([2, 0]), np.array([0, 1]), stop=None)
    assert np.array_equal(xp.to_numpy(buffer), expected[[2, 0, 2]])


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_lowest_number_is_finite_in_its_dtype(dtype):
    lowest = xp.lowest(xp.cast(xp.asarray(X), dtype))
    assert np.isfinite(np.array(lowest, dtype))
    assert lowest < -60_000
