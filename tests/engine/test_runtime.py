"""How graphs are compiled here: the processor's precision, the threads that are asked for."""

from __future__ import annotations

import pytest

from labsupport.base.errors import NotAvailable
from labsupport.engine import runtime
from labsupport.engine.rounding import EXACT, FAST


def test_threads_are_those_that_are_asked_for(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert runtime.options(FAST)["INFERENCE_NUM_THREADS"] == 3


@pytest.mark.parametrize(("abilities", "precision"), [(["FP32", "BF16"], "bf16"), (["FP32", "INT8"], "f32")])
def test_bfloat16_is_taken_where_the_processor_multiplies_it(monkeypatch, abilities, precision):
    class Core:
        def get_property(self, device, name):
            return abilities

    monkeypatch.setattr(runtime, "core", Core)
    assert runtime.options(FAST)["INFERENCE_PRECISION_HINT"] == precision
    assert runtime.options(EXACT)["INFERENCE_PRECISION_HINT"] == "f32"
    assert (runtime.options(FAST)["KV_CACHE_PRECISION"], runtime.options(EXACT)["KV_CACHE_PRECISION"]) == ("u8", "f32")


def test_the_description_names_version_processor_and_abilities():
    version, processor, *abilities = runtime.describe_runtime()
    assert version[:4].isdigit()
    assert processor
    assert "FP32" in abilities


def test_without_openvino_the_error_names_another_engine(monkeypatch):
    monkeypatch.setattr(runtime.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(NotAvailable, match="OpenVINO is not installed"):
        runtime.require_openvino()
