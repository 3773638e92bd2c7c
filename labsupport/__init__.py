"""What the notebooks of the Speech Inference Lab share: see README.md for the map."""

import os

__version__ = "0.1.0"

os.environ.setdefault("GLOG_v", "3")  # MindSpore reads it on import: errors only, its warnings are for its makers
