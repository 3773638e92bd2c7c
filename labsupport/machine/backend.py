"""Which framework this process computes with, and on which kind of device."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys

from labsupport.base.errors import MachineError, NotAvailable

FRAMEWORKS = ("torch", "mindspore")


def choose_backend(chosen: str | None = None) -> str:
    """The framework of this process: `chosen`, else `LAB_BACKEND`, else the one loaded already, else the one installed,
    torch first. MachineError where the name is unknown or its framework not installed.
    """
    name = chosen or os.environ.get("LAB_BACKEND") or loaded_framework() or next(filter(is_installed, FRAMEWORKS), None)
    if name is None:
        raise MachineError("Neither torch nor mindspore is installed.", hint="`./lab run` makes the environment.")
    if name not in FRAMEWORKS:
        raise MachineError(f"There is no backend {name!r}.", hint=f"Choose one of: {', '.join(FRAMEWORKS)}.")
    if not is_installed(name):
        raise MachineError(f"The backend {name!r} is not installed here.", hint=f"Install {name}, or take the other.")
    return name


def loaded_framework() -> str | None:
    """The framework that this process has imported. mindnlp puts a `torch` of its own beside mindspore."""
    return next((name for name in reversed(FRAMEWORKS) if name in sys.modules), None)


def is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def synchronise() -> None:
    """Waits until all that the framework was given is done (MindSpore queues on CPU too). Imports no framework."""
    if on_ascend():
        sys.modules["mindspore"].runtime.synchronize()
    elif "mindspore" in sys.modules:  # its public synchronize() logs an error on CPU, and does not wait the first time
        sys.modules["mindspore.common.api"]._pynative_executor.sync()
    elif on_cuda():
        sys.modules["torch"].cuda.synchronize()


def on_cuda() -> bool:
    """Whether this process has used a CUDA device so far. Imports no framework."""
    torch = None if "mindspore" in sys.modules else sys.modules.get("torch")
    return torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized()


def on_ascend() -> bool:
    """Whether this process computes on an Ascend NPU. Imports no framework."""
    mindspore = sys.modules.get("mindspore")
    return mindspore is not None and mindspore.get_context("device_target") == "Ascend"


def has_accelerator_driver() -> bool:
    """Whether the driver of an NVIDIA or an Ascend device is here. What the device can do, only a framework says."""
    return shutil.which("nvidia-smi") is not None or os.path.exists("/dev/davinci_manager")


def let_threads_sleep() -> None:
    """Lets torch's threads sleep while they wait, unless `OMP_WAIT_POLICY` is set; call it before torch is imported.

    By default they spin. On an idle machine that costs nothing; beside other programs the threads of one transcription
    take the cores from each other, and it lasts two to three times as long.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def use_threads(count: int) -> None:
    """Lets torch and ONNX Runtime compute with so many CPU threads; call it before they are imported.

    MindSpore decides by itself.
    """
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(count)


def require_compiler() -> None:
    """Raises NotAvailable if there is no C++ compiler: the one that torch.compile calls on a CPU."""
    name = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if not shutil.which(name):
        hint = "Install one (Debian: `apt install g++`), or load the model without `compiled=True`."
        raise NotAvailable("torch.compile needs a C++ compiler on a CPU, and finds none.", where=name, hint=hint)
