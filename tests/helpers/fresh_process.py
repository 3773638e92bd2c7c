"""Code run in a process of its own, where no framework is loaded yet."""

from __future__ import annotations

import os
import subprocess
import sys


def run_python(code: str, **environment: str) -> str:
    """What the code printed; its failure is the test's."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def run_together(codes: list[str], **environment: str) -> list[tuple[str, str]]:
    """What each of these printed, started at the same time: (stdout, stderr)."""
    options = {"env": {**os.environ, **environment}, "text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    processes = [subprocess.Popen([sys.executable, "-c", code], **options) for code in codes]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert not any(process.returncode for process in processes), outputs
    return outputs
