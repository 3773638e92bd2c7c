"""How JupyterLab is started for a learner."""

from __future__ import annotations

import os
import subprocess

from labsupport.base.paths import NOTEBOOKS, ROOT
from labsupport.course import runner
from labsupport.machine import children

KERNEL_SECONDS = 2  # that the server, when it is ended, gives a kernel to end by itself


def serve(browser: bool, port: int, allow_root: bool) -> int:
    """JupyterLab on this machine alone, opened on the first notebook: this process becomes it.

    On Windows, where no process can become another one, it waits for the end and gives the exit code.
    """
    first = runner.find_notebooks()[0]
    options = [f"--ServerApp.port={port}", "--ServerApp.ip=127.0.0.1", f"--ServerApp.root_dir={ROOT}"]
    options += [f"--ServerApp.preferred_dir={NOTEBOOKS}"]  # the root is above it: pages link to the glossary in data
    # JupyterLab would ask the web for its news and for updates.
    options += ["--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    options += [
        f"--LabApp.default_url=/lab/tree/{first.relative_to(ROOT).as_posix()}",
        f"--ServerApp.open_browser={browser}",
    ]
    options += [f"--ServerApp.allow_root={allow_root}"]
    options += ["--ServerApp.kernel_spec_manager_class=labsupport.course.kernels.KernelSpecs"]
    options += ["--ServerApp.answer_yes=True"]  # Ctrl-C ends it, and does not ask first
    options += [f"--KernelManager.shutdown_wait_time={KERNEL_SECONDS}"]
    command, environment = children.python_module("jupyterlab", *options), children.environment()
    if os.name != "nt":
        os.chdir(ROOT)
        os.execve(command[0], command, environment)
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
