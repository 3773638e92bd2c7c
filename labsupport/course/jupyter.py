"""How JupyterLab is started for a learner."""

from __future__ import annotations

import subprocess
import sys

from labsupport.base.paths import NOTEBOOKS, ROOT
from labsupport.course import runner


def serve(browser: bool, port: int, allow_root: bool) -> int:
    """JupyterLab on this machine alone, opened on the first notebook, until it is stopped; its exit code."""
    first = runner.find_notebooks()[0]
    options = [f"--ServerApp.port={port}", "--ServerApp.ip=127.0.0.1", f"--ServerApp.root_dir={NOTEBOOKS}"]
    # JupyterLab would ask the web for its news and for updates.
    options += ["--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    options += [f"--LabApp.default_url=/lab/tree/{first.name}", f"--ServerApp.open_browser={browser}"]
    options += [f"--ServerApp.allow_root={allow_root}"]
    return subprocess.run([sys.executable, "-m", "jupyterlab", *options], cwd=ROOT, check=False).returncode
