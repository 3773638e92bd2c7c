"""Measuring under MindSpore: its queue is waited for, and its pool hides the peak."""

import mindspore as ms
import numpy as np
import pytest

from labsupport.results import timing

pytestmark = pytest.mark.mindspore


def test_a_peak_that_the_pool_hides_is_told_as_unknown_and_its_column_left_out():
    x = ms.Tensor(np.ones((64, 64), np.float32))
    result = timing.compare({"product": lambda: x @ x}, runs=2)
    assert result["product"].peak_bytes is None
    assert "peak memory" not in result.table()[0]


def test_a_time_ends_when_the_queue_is_done():
    x = ms.Tensor(np.ones((1500, 1500), np.float32))

    def products(count):
        y = x
        for _ in range(count):
            y = ms.ops.matmul(y, x)
        return y

    result = timing.compare({"8": lambda: products(8), "32": lambda: products(32)}, runs=5)
    assert result.speedup("32", "8").value > 2
