"""Where the time goes: one op table and one timeline, from torch's, MindSpore's, Ascend's and ONNX Runtime's profilers.

profile = profiling.profile(lambda: transcriber.transcribe(samples))
profile.table()
"""

from labsupport.profiling.ascend import read_kernel_details, read_op_statistic, read_output
from labsupport.profiling.kinds import KINDS, op_kind
from labsupport.profiling.on_onnxruntime import read_onnxruntime
from labsupport.profiling.recording import LabelledModel, Profile, phase, profile
from labsupport.profiling.table import Event, Row, Table, op_table
from labsupport.profiling.trace import read_trace

__all__ = [
    "KINDS",
    "Event",
    "LabelledModel",
    "Profile",
    "Row",
    "Table",
    "op_kind",
    "op_table",
    "phase",
    "profile",
    "read_kernel_details",
    "read_onnxruntime",
    "read_op_statistic",
    "read_output",
    "read_trace",
]
