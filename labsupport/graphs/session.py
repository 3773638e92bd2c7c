"""ONNX Runtime sessions on the CPU."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from labsupport.base.errors import NotAvailable
from labsupport.machine.os_info import asked_threads, count_physical_cores, usable_cores

if TYPE_CHECKING:
    import onnx
    from onnxruntime import InferenceSession, OrtValue


def open_session(
    graph: Path | bytes | onnx.ModelProto,
    *,
    threads: int | None = None,
    optimise: bool = True,
    prepack: bool = True,
    profile: Path | None = None,
) -> InferenceSession:
    """A session on the CPU.

    Args:
        graph: a file, or a model, serialised or not.
        threads: for one op; by default `OMP_NUM_THREADS`, as torch does, else the physical cores.
        optimise: let ONNX Runtime's optimiser rewrite the graph (all levels), or not at all.
        prepack: hold a copy of the weights in the order in which matrix products read them fastest.
        profile: the beginning of a file name for ONNX Runtime's profile; none is written without it.
    """
    require_runtime()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or count_threads()
    options.log_severity_level = 3  # errors
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if not prepack:
        options.add_session_config_entry("session.disable_prepacking", "1")
    if profile:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    source = str(graph) if isinstance(graph, Path) else graph if isinstance(graph, bytes) else graph.SerializeToString()
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def require_runtime() -> None:
    """Raises NotAvailable unless ONNX Runtime is installed."""
    if importlib.util.find_spec("onnxruntime") is None:
        raise NotAvailable("ONNX Runtime is not installed.", hint="Run ./lab setup, or take --engine torch.")


def count_threads() -> int:
    return asked_threads() or count_physical_cores(usable_cores())


def as_value(array: np.ndarray) -> OrtValue:
    """The array's own memory, for ONNX Runtime to read and to write. No binding keeps it alive: the caller must."""
    from onnxruntime import OrtValue

    return OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))


def to_numpy(value: OrtValue) -> np.ndarray:
    """A copy. The array that `OrtValue.numpy` gives is the value's own memory, which is freed with the value."""
    return value.numpy().copy()


def run_bound(session: InferenceSession, inputs: Mapping[str, np.ndarray]) -> dict[str, OrtValue]:
    """Runs a graph, and gives its outputs where ONNX Runtime has put them: nothing is copied."""
    binding, names = session.io_binding(), [output.name for output in session.get_outputs()]
    values = {name: as_value(array) for name, array in inputs.items()}
    for name, value in values.items():
        binding.bind_ortvalue_input(name, value)
    for name in names:
        binding.bind_output(name)
    session.run_with_iobinding(binding)
    return dict(zip(names, binding.get_outputs(), strict=True))
