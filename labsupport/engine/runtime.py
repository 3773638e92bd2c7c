"""OpenVINO on the CPU: how graphs are compiled, and read again from what was compiled before."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

import numpy as np

from labsupport.base.errors import NotAvailable
from labsupport.engine.rounding import Rounding
from labsupport.graphs.session import count_threads

DEVICE = "CPU"


def require_openvino() -> None:
    """Raises NotAvailable unless OpenVINO is installed."""
    if importlib.util.find_spec("openvino") is None:
        raise NotAvailable("OpenVINO is not installed.", hint="Run ./lab setup, or take --engine onnx or torch.")


@functools.cache
def core():
    """OpenVINO's entry, one for a process: it holds the plugin's threads."""
    import openvino

    return openvino.Core()


def describe_runtime() -> list[str]:
    """What compiled graphs depend on: OpenVINO's version, the processor and what it can do."""
    import openvino

    abilities = core().get_property(DEVICE, "OPTIMIZATION_CAPABILITIES")
    return [openvino.__version__, core().get_property(DEVICE, "FULL_DEVICE_NAME"), *sorted(abilities)]


def can_multiply_bfloat16() -> bool:
    return "BF16" in core().get_property(DEVICE, "OPTIMIZATION_CAPABILITIES")


def computed_type(rounding: Rounding) -> str:
    """OpenVINO's name of the type that graphs compute floats in: "bf16", "f32"."""
    return "bf16" if rounding.bfloat16 and can_multiply_bfloat16() else "f32"


def options(rounding: Rounding) -> dict[str, object]:
    """How graphs run: one request at a time, on all threads."""
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": count_threads(),
        "INFERENCE_PRECISION_HINT": computed_type(rounding),
        "KV_CACHE_PRECISION": "u8" if rounding.cache else "f32",
    }


def compile_graph(graph, rounding: Rounding):
    return core().compile_model(graph, DEVICE, options(rounding))


def import_graph(file: Path, rounding: Rounding):
    """A compiled graph from a file that `CompiledModel.export_model` gave; its weights are mapped, not copied."""
    import openvino

    return core().import_model(openvino.Tensor(np.memmap(file, np.uint8, "r")), DEVICE, options(rounding))
