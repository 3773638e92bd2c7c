"""A process of its own for MindNLP, whose import takes the place of torch."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from labsupport.base.errors import MindnlpError, NotAvailable
from labsupport.base.paths import ROOT, atomic_write
from labsupport.machine import children
from labsupport.machine.backend import is_installed

# transformers and diffusers would detect these, and ask mindtorch for what it lacks: the import would fail.
HIDDEN = ("torchao", "onnx", "onnxruntime", "onnxscript", "optimum")
ENVIRONMENT = {"GLOG_v": "3", "TRANSFORMERS_VERBOSITY": "error", "PYTHONPATH": str(ROOT)}  # errors only, no warnings
CALL = "import sys; from labsupport.via_mindnlp.process import write_measured; write_measured(*sys.argv[1:])"
KNOWN_FAILURES = (AttributeError, ImportError, NotImplementedError, RuntimeError, TypeError, ValueError)


def require_mindnlp() -> None:
    """Raises NotAvailable where it is not installed."""
    if not (is_installed("mindnlp") and is_installed("mindspore")):
        hint = "It comes with the extra `mindspore` of this project's environment; see README.md."
        raise NotAvailable("MindNLP is not installed.", hint=hint)


def run_to_end(command: list[str], folder: str, timeout: float) -> None:
    """Runs the command in `folder`.

    Raises:
        MindnlpError: it failed, with its last lines, or did not end in `timeout` seconds.
    """
    environment, command = os.environ | ENVIRONMENT, children.guarded(command)
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired as error:
        hint = "A busy machine makes it many times slower: try again on a quiet one, or with more time."
        raise MindnlpError(f"The run through MindNLP took more than {timeout:g} s.", hint=hint) from error
    if done.returncode:
        last = "\n".join(done.stderr.strip().splitlines()[-3:])
        raise MindnlpError("The run through MindNLP failed.", where=last, hint="Are the pinned versions installed?")


def import_mindnlp() -> None:
    """From here on `import torch` gives mindtorch."""
    sys.modules |= dict.fromkeys(HIDDEN)  # type: ignore[arg-type]  # None: Python's mark of a module not to import
    import mindnlp  # noqa: F401


def measure_apart(module: str, arguments: Sequence[Any], folder: str, timeout: float) -> dict:
    """`module.measure(*arguments)` in a process of its own; raises as `run_to_end`. JSON carries both ways.

    Args:
        folder: its working directory; MindSpore leaves files there.
    """
    result = Path(folder) / "result.json"
    run_to_end([sys.executable, "-c", CALL, module, json.dumps(arguments), str(result)], folder, timeout)
    return json.loads(result.read_text(encoding="utf-8"))


def write_measured(module: str, arguments: str, path: str) -> NoReturn:
    """In that process: measures, writes the result and ends at once, for MindSpore can hang in its own clean-up."""
    measured = importlib.import_module(module).measure(*json.loads(arguments))
    with atomic_write(Path(path)) as part:
        part.write_text(json.dumps(measured), encoding="utf-8")
    os._exit(0)


def try_call(work: Callable[[], object]) -> str | None:
    """The error's kind and first sentence, or None if there is none."""
    try:
        work()
    except KNOWN_FAILURES as error:
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    return None
