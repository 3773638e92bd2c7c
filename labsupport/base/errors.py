"""Every error that a user of the lab may meet, one class a room; the message holds the details."""

from __future__ import annotations

import pathlib

from labsupport.base.masking import mask


def printable(text: object) -> str:
    """Text that a terminal shows as it is: control characters and broken encodings, as names have, are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


class LabError(Exception):
    """One sentence what was wrong, where (a file, setting or value), and a hint what to do next.

    The command line prints it without a traceback. Secrets in it are masked.
    """

    def __init__(self, what: str, *, where: object = None, hint: str | None = None):
        self.what, self.where, self.hint = mask(what), where, hint
        super().__init__(self.what)

    def __str__(self) -> str:
        lines = [self.what]
        if self.where is not None:
            is_path = isinstance(self.where, pathlib.PurePath)  # its name may hold anything
            lines.append(f"  where: {printable(self.where) if is_path else self.where}")
        if self.hint:
            lines.append(f"  next:  {self.hint}")
        return mask("\n".join(lines))


class NotAvailable(LabError):
    """Hardware, a package or a program is needed that this machine does not have."""


class FolderError(LabError):
    """A folder of the lab cannot be written to, or its disk is full."""


class MachineError(LabError):
    """A backend, device or limit was asked for that this process cannot use."""


class AudioError(LabError):
    """A sound, a clip's card or a corpus is missing, damaged, or not what it must be."""


class NoAudio(AudioError):
    """A file holds no sound, or is of a kind that cannot be decoded here."""


class AudioLimitError(AudioError):
    """A sound is longer, or has more channels, than its reader allows."""


class TextError(LabError):
    """A text, a tokenizer or an output format is not what it must be."""


class CheckpointError(LabError):
    """Weights cannot be had, or are not what they should be."""


class MeasureError(LabError):
    """A measurement cannot be made: too few runs, a variant that failed, or results that differ."""


class RowError(LabError):
    """A result row, or the line of a file that should hold one, is not what it must be."""


class ClaimError(LabError):
    """The ledger is damaged, or a claim was asked for or recorded that it does not hold."""


class OptimError(LabError):
    """An optimised piece (attention, convolution, cache, offload, quantisation) was used as it cannot be."""


class TraceError(LabError):
    """A profiler's file is missing, empty, damaged, or of another kind."""


class GraphError(LabError):
    """An ONNX graph contradicts itself, or lacks what was asked for."""


class WhisperError(LabError):
    """Whisper was asked for a language, task or engine that it does not have."""


class BarkError(LabError):
    """Bark was asked for a shape, voice or text that it cannot take."""


class MindnlpError(LabError):
    """A process that runs MindNLP failed, or did not end in its time."""


class SophonError(LabError):
    """TPU-MLIR failed, or gave something that cannot be read."""


class ScalingError(LabError):
    """A corpus, its manifest or its output, a cluster, or a plan for machines is not what it must be."""


class BenchError(LabError):
    """A benchmark cannot be run as asked, or what it stored is damaged."""


class CourseError(LabError):
    """A notebook, an exercise, a run or the report is not what it must be."""


class EngineError(LabError):
    """The race cannot be run as asked, its environment cannot be made, or another engine's model not be converted."""


class ServingError(LabError):
    """The service cannot start as asked, or a request asks for what it cannot do."""
