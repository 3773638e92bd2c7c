"""What the notebooks of the Speech Inference Lab share: see README.md for the map."""

import logging
import os
import sys

__version__ = "0.1.0"

os.environ.setdefault("GLOG_v", "3")  # MindSpore reads it on import: errors only, its warnings are for its makers

# transformers imports torchao, which tells of kernels for machines that this is not, and torch of torchao's style.
for _name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)

if "ipykernel" in sys.modules:  # perhaps a kernel: then it is noted which notebook it executes, and how far it came
    from IPython import get_ipython

    if (_shell := get_ipython()) is not None:
        _shell.extension_manager.load_extension("labsupport.course.sessions")
