"""The limits: the better library's peak counts, whichever it is."""

from __future__ import annotations

import numpy as np
import pytest

from labsupport.engine.race import limits
from labsupport.machine.roofline import Roofline


@pytest.mark.parametrize(("runtime", "expected"), [(250e9, 250e9), (50e9, 100e9), (None, 100e9)])
def test_float32s_peak_is_the_better_of_the_two(monkeypatch, runtime, expected):
    asked = []

    def find(**how):
        asked.append(how)
        return Roofline("planted", 1e9, 1e9, {"float32": 100e9, "int8": 1e12})

    monkeypatch.setattr(limits, "find_roofline", find)
    monkeypatch.setattr(limits, "matmul_peak", lambda prepare: runtime)
    assert limits.find_limits().matmul == {"float32": expected, "int8": 1e12}
    assert asked == [{"refresh": True, "chosen": "torch"}]


def test_the_product_is_one():
    (product,) = limits.multiply(8)()
    np.testing.assert_allclose(product, np.full((8, 8), 8.0))
