"""How a kernel is started, by a run, by nbval and by JupyterLab; and how much of what it prints a run takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import NATIVE_KERNEL_NAME, KernelSpec, KernelSpecManager
from nbclient import NotebookClient
from nbformat.v4 import new_output
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines

from labsupport.base.masking import mask_all
from labsupport.machine import children

OUTPUT_BYTES = 10_000_000  # that a run takes from one cell
OUTPUTS = 5_000  # and how many: each costs more than its bytes
LEFT_OUT = f"\n[More than {OUTPUT_BYTES // 10**6} MB, or {OUTPUTS} outputs: the rest is left out.]\n"
ERROR_LENGTH = 600  # characters of an error that comes after that
ENGINE = "lab"  # papermill's name for it
COUNTED = {"stream", "display_data", "update_display_data", "execute_result", "error"}  # messages that hold output


def own_spec(environment: Mapping[str, str] | None = None) -> KernelSpec:
    """A kernel of this interpreter, with `environment` on top of the process's own, that ends with this process.

    A kernelspec called "python3" may point at any interpreter of the machine, and has the notebook's folder on its
    import path.
    """
    listed = get_kernel_dict()
    _, *options, _module, name, file_option, file = listed["argv"]  # python OPTIONS -m ipykernel_launcher -f FILE
    settings = ("--InteractiveShellApp.ignore_cwd=True", "--InteractiveShellApp.extensions=labsupport.course.sessions")
    python, *code = children.python_module(name, file_option, file, *settings)
    command = children.guarded([python, *options, *code])
    return KernelSpec(**{**listed, "argv": command}, env=children.environment(**(environment or {})))


class KernelSpecs(KernelSpecManager):
    """For JupyterLab: "python3" is `own_spec()`, wherever a kernelspec of that name points."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        return own_spec() if kernel_name == NATIVE_KERNEL_NAME else super().get_kernel_spec(kernel_name)


# --- what cells print -------------------------------------------------------------------------------------------------


class Bounded(NotebookClient):
    """Takes OUTPUT_BYTES of each cell; what comes after that is dropped, and the cell says so."""

    def process_message(self, msg: dict[str, Any], cell: Any, cell_index: int) -> Any:
        if msg["msg_type"] in COUNTED and self.is_too_much(msg, cell):
            if msg["msg_type"] != "error":
                return None
            msg["content"] |= {"evalue": str(msg["content"].get("evalue"))[:ERROR_LENGTH], "traceback": []}
        if msg["msg_type"] in COUNTED:
            msg["content"] = mask_all(msg["content"])  # before it is stored
        return super().process_message(msg, cell, cell_index)

    def is_too_much(self, msg: dict[str, Any], cell: Any) -> bool:
        """Whether the cell's limits are reached; when they first are, a note is left in place of the rest."""
        if getattr(self, "counted_cell", None) is not cell:
            self.counted_cell, self.bytes, self.messages, self.full = cell, 0, 0, False
        self.bytes += len(str(msg["content"]))
        self.messages += 1
        if not self.full and (self.bytes > OUTPUT_BYTES or self.messages > OUTPUTS):
            self.full = True
            cell.outputs.append(new_output("stream", name="stderr", text=LEFT_OUT))
        return self.full


class BoundedPapermill(Bounded, PapermillNotebookClient):
    """papermill's client, bounded."""


class Engine(NBClientEngine):
    """papermill's own engine, with a bounded client."""

    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, start_timeout: int = 60, **options: Any) -> Any:
        wanted = {name: options[name] for name in options if name in BoundedPapermill.class_trait_names()}
        return BoundedPapermill(nb_man, startup_timeout=start_timeout, kernel_name=kernel_name, **wanted).execute()


papermill_engines.register(ENGINE, Engine)
