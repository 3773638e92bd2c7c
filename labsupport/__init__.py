"""What the notebooks of the Speech Inference Lab share: see README.md for the map."""

import os
import sys

# `python -m labsupport...`, which has the folder where it is called first on the import path: nothing of it is
# imported from here on. Python itself has looked there before; `./lab` keeps it from that, too.
if sys.argv[:1] == ["-m"] and not getattr(sys.flags, "safe_path", False):  # Python 3.10 has no such flag
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import logging

__version__ = "0.1.0"

os.environ.setdefault("GLOG_v", "3")  # MindSpore reads it on import: errors only, its warnings are for its makers
# ONNX Runtime would send its makers what it is used for, and leave a file with a session's number in the temporary
# folder; huggingface_hub adds versions to its requests. Both read it on import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# OpenVINO would send an event at each import, whatever it is asked; without this package it sends none.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # Python's mark of a module not to import

# transformers imports torchao, which tells of kernels for machines that this is not, and torch of torchao's style.
for _name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)

if "ipykernel" in sys.modules:  # perhaps a kernel: then it is noted which notebook it executes, and how far it came
    from IPython import get_ipython

    if (_shell := get_ipython()) is not None:
        _shell.extension_manager.load_extension("labsupport.course.sessions")
