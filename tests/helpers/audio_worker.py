"""A process that reads one audio file after the other from its standard input, within limits of memory and time.

Each input is its length (4 bytes, little-endian) and its bytes; the answer is a line of JSON: what came of it, and the
most memory that the process has had so far, in MB. A file that takes longer than SECONDS, or crashes a library, ends
the process.
"""

from __future__ import annotations

import io
import json
import logging
import resource
import signal
import struct
import subprocess
import sys
from pathlib import Path

MEMORY = 1_000_000_000  # bytes beyond what the libraries have at the start
SECONDS = 20


class Worker:
    """The process, seen from a test; `fault` is code that plants one in it."""

    def __init__(self, fault: str = ""):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        command = [sys.executable, __file__, fault]
        self.process = subprocess.Popen(command, cwd=Path(__file__).parents[2], **pipes)

    def read(self, content: bytes) -> tuple[str, int]:
        """What came of it ("sound", "error: ..." or "fault: ..."), and the process's peak of memory in MB."""
        try:
            self.process.stdin.write(struct.pack("<I", len(content)) + content)
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it died; the empty line says so
        line = self.process.stdout.readline()
        if not line:
            return f"fault: the process ended with {self.process.wait()}: {self.process.stderr.read().decode()}", 0
        return tuple(json.loads(line))

    def close(self) -> str:
        """What it wrote to stderr."""
        return self.process.communicate(timeout=60)[1].decode()


def read(content: bytes, **options) -> str:
    import numpy as np

    from labsupport.base.errors import AudioError
    from labsupport.speech import audio

    try:
        samples = audio.read(io.BytesIO(content), **options)
    except AudioError as error:
        return f"error: {error.what}"
    except BaseException as error:  # noqa: BLE001 - any other is what the test looks for
        return f"fault: {error!r}"
    good = samples.dtype == np.float32 and samples.ndim == 1 and len(samples) and np.isfinite(samples).all()
    return "sound" if good else "fault: no finite float32 samples"


def read_twice(content: bytes) -> str:
    """What comes of it by default; or the fault of taking what is left of it."""
    strict, lenient = read(content), read(content, allow_damaged=True)
    return lenient if lenient.startswith("fault") else strict


def status(field: str) -> int:
    """A field of the process's status, in kB."""
    return int(next(line.split()[1] for line in Path("/proc/self/status").open() if line.startswith(field)))


def main() -> None:
    import av  # noqa: F401 - the address space that the libraries need is no part of the limit
    import numpy as np
    import soundfile  # noqa: F401
    import soxr

    logging.getLogger("labsupport").addHandler(logging.NullHandler())  # stderr is for what should not be
    exec(sys.argv[1], globals())
    soxr.resample(np.ones((8, 8), np.float32) @ np.ones((8, 2), np.float32), 8000, 16_000)
    limit = status("VmSize") * 1024 + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    while len(head := sys.stdin.buffer.read(4)) == 4:
        content = sys.stdin.buffer.read(struct.unpack("<I", head)[0])
        signal.alarm(SECONDS)
        print(json.dumps([read_twice(content), status("VmHWM") // 1024]), flush=True)
        signal.alarm(0)


if __name__ == "__main__":
    main()
