"""How JupyterLab is started for a learner."""

from __future__ import annotations

import logging
import os
import subprocess
from pathlib import Path

from labsupport.base.errors import CourseError
from labsupport.course import runner, working_copy
from labsupport.machine import children

log = logging.getLogger(__name__)

KERNEL_SECONDS = 2  # that the server, when it is ended, gives a kernel to end by itself
SETTINGS = Path(__file__).parent / "templates" / "jupyter"  # the front end's own defaults, such as: ask for no news


def serve(browser: bool, port: int, allow_root: bool) -> int:
    """JupyterLab on this machine alone, opened on the first notebook of the working copy: this process becomes it.

    On Windows, where no process can become another one, it waits for the end and gives the exit code.

    Raises:
        CourseError: it would run as root, and nobody allowed that.
        FolderError: the working copy cannot be made.
    """
    if not allow_root and os.name != "nt" and os.geteuid() == 0:
        hint = "As another user, or `./lab open --allow-root` in a container whose only user is root."
        raise CourseError("JupyterLab does not run as root: every cell could change the whole system.", hint=hint)
    try:
        working_copy.update()
    except CourseError as error:  # one damaged page keeps nobody from the others
        log.warning("%s", error)
    first, root = runner.find_notebooks()[0], working_copy.folder().parent
    options = [f"--ServerApp.port={port}", "--ServerApp.ip=127.0.0.1", f"--ServerApp.root_dir={root}"]
    options += [f"--ServerApp.preferred_dir={working_copy.folder()}"]  # the root has the data that the pages link to
    # JupyterLab would ask the web for its news and for updates.
    options += ["--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    options += [f"--LabApp.default_url=/lab/tree/{working_copy.folder().name}/{first.name}"]
    options += [f"--ServerApp.open_browser={browser}", f"--ServerApp.allow_root={allow_root}"]
    options += ["--ServerApp.kernel_spec_manager_class=labsupport.course.kernels.KernelSpecs"]
    options += ["--ServerApp.answer_yes=True"]  # Ctrl-C ends it, and does not ask first
    options += [f"--KernelManager.shutdown_wait_time={KERNEL_SECONDS}"]
    settings = os.pathsep.join(filter(None, [str(SETTINGS), os.environ.get("JUPYTER_CONFIG_PATH")]))
    command = children.python_module("jupyterlab", *options)
    environment = children.environment(JUPYTER_CONFIG_PATH=settings)
    if os.name != "nt":
        os.chdir(root)
        os.execve(command[0], command, environment)
    return subprocess.run(command, cwd=root, env=environment, check=False).returncode
