"""Where the time goes: one op table and one timeline, from torch's, MindSpore's, Ascend's and ONNX Runtime's profilers.

profiling.profile(lambda: transcriber.transcribe(samples)).table()
"""

from labsupport.profiling.ascend import read_kernel_details, read_op_statistic, read_output
from labsupport.profiling.recording import LabelledModel, Profile, phase, profile
from labsupport.profiling.table import Event, op_table
from labsupport.profiling.trace import read_trace

__all__ = [
    "Event",
    "LabelledModel",
    "Profile",
    "op_table",
    "phase",
    "profile",
    "read_kernel_details",
    "read_op_statistic",
    "read_output",
    "read_trace",
]
