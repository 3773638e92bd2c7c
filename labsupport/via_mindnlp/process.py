"""A process of its own for MindNLP, whose import takes the place of torch."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

from labsupport.base.errors import MindnlpError, NotAvailable
from labsupport.base.paths import ROOT
from labsupport.machine.backend import is_installed

# transformers and diffusers would see these, and ask mindtorch for what it has not: the import would fail.
HIDDEN = ("torchao", "onnx", "onnxruntime", "onnxscript", "optimum")
ENVIRONMENT = {"GLOG_v": "3", "TRANSFORMERS_VERBOSITY": "error", "PYTHONPATH": str(ROOT)}  # errors only, no warnings
KNOWN_FAILURES = (AttributeError, ImportError, NotImplementedError, RuntimeError, TypeError, ValueError)


def require_mindnlp() -> None:
    """Raises NotAvailable where it is not installed."""
    if not (is_installed("mindnlp") and is_installed("mindspore")):
        hint = "It comes with the extra `mindspore` of this project's environment; see README.md."
        raise NotAvailable("MindNLP is not installed.", hint=hint)


def run_to_end(command: list[str], folder: str, timeout: float) -> None:
    """Runs the trip's process; `folder` is its working directory."""
    environment = os.environ | ENVIRONMENT
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired as error:
        hint = "A busy machine makes it many times slower: try again on a quiet one, or with more time."
        raise MindnlpError(f"The trip through MindNLP took more than {timeout:g} s.", hint=hint) from error
    if done.returncode:
        last = "\n".join(done.stderr.strip().splitlines()[-3:])
        raise MindnlpError("The trip through MindNLP failed.", where=last, hint="Are the pinned versions installed?")


def import_mindnlp() -> None:
    """From here on `import torch` gives mindtorch."""
    for name in HIDDEN:
        sys.modules[name] = None
    import mindnlp  # noqa: F401


def try_out(work: Callable[[], object]) -> str | None:
    """The error's kind and first sentence, or None if there is none."""
    try:
        work()
    except KNOWN_FAILURES as error:
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    return None
