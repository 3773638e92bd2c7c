"""How a kernel is started, by a run, by nbval and by JupyterLab; and how much of what it prints a run takes."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import NATIVE_KERNEL_NAME, KernelSpec, KernelSpecManager
from nbclient import NotebookClient
from nbformat.v4 import new_output
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines
from papermill.iorw import LocalHandler, papermill_io

from labsupport.base.errors import CourseError
from labsupport.base.masking import mask, mask_all
from labsupport.machine import children

OUTPUT_BYTES = 10_000_000  # that a run takes from one cell
OUTPUTS = 5_000  # and how many: each costs more than its bytes
LEFT_OUT = f"\n[More than {OUTPUT_BYTES // 10**6} MB, or {OUTPUTS} outputs: the rest is left out.]\n"
ERROR_LENGTH = 600  # characters of an error that comes after that
LOG_BYTES = 1_000_000  # that are stored of what a kernel writes past Jupyter
BLOCK = 1 << 16
MASKED = "masked:"
CHUNK = 4096  # characters that are masked together of what a cell prints in pieces
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


# --- what kernels write past Jupyter ----------------------------------------------------------------------------------


class KernelLog:
    """The file of what a kernel and its children write past Jupyter: the last of it, for it may have no end, masked."""

    def __init__(self, path: Path):
        path.unlink(missing_ok=True)
        self.path, self.reader = path, threading.Thread(target=self.copy, daemon=True)

    @contextlib.contextmanager
    def taking(self) -> Iterator[int]:
        """A descriptor for the kernel to write to; this process lets go of it after the block."""
        self.source, target = os.pipe()
        self.reader.start()
        try:
            yield target
        finally:
            os.close(target)

    def copy(self) -> None:
        with open(self.source, "rb", buffering=0) as source, open(self.path, "wb", buffering=0) as file:
            before = b""
            for block in masked_blocks(source):
                if file.tell() > LOG_BYTES:
                    file.seek(0)
                    file.truncate()
                    file.write(before)
                file.write(block)
                before = block

    def read_end(self) -> str:
        """The last 500 bytes, as text."""
        if self.reader.is_alive():
            self.reader.join(1)  # no longer: a child of a dead kernel may go on
        if not self.path.exists():
            return ""
        with open(self.path, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 500))
            return file.read().decode(errors="replace")


def masked_blocks(source: IO[bytes]) -> Iterator[bytes]:
    """What is read, without secrets; in whole lines, but for lines that are very long."""
    rest = b""
    while block := source.read(BLOCK):
        lines, newline, rest = (rest + block).rpartition(b"\n")
        if not newline and len(rest) > BLOCK:
            lines, rest = rest, b""
        yield mask_bytes(lines + newline)
    yield mask_bytes(rest)


def mask_bytes(data: bytes) -> bytes:
    return mask(data.decode(errors="surrogateescape")).encode(errors="surrogateescape")


# --- what is stored of a notebook -------------------------------------------------------------------------------------


class MaskedNotebook(LocalHandler):
    """papermill's way to a file under a path that begins with MASKED: what a notebook was given is stored masked.

    Outputs are masked when they come.
    """

    def write(self, buf: str, path: str) -> None:
        notebook = json.loads(buf)
        notebook["metadata"] = mask_all(notebook["metadata"])
        for cell in notebook["cells"]:
            cell["source"], cell["metadata"] = mask_all(cell["source"]), mask_all(cell["metadata"])
        super().write(json.dumps(notebook, indent=1), path.removeprefix(MASKED))


papermill_io.register(MASKED, MaskedNotebook())


# --- what cells print -------------------------------------------------------------------------------------------------


class Bounded(NotebookClient):
    """Takes OUTPUT_BYTES of each cell; what comes after that is dropped, and the cell says so.

    last, raw: the latest text that was printed, as it is stored, and without a mask.
    """

    last: Any = None
    raw = ""

    def process_message(self, msg: dict[str, Any], cell: Any, cell_index: int) -> Any:
        if msg["msg_type"] in COUNTED and self.is_too_much(msg, cell):
            if msg["msg_type"] != "error":
                return None
            msg["content"] |= {"evalue": str(msg["content"].get("evalue"))[:ERROR_LENGTH], "traceback": []}
        try:
            if msg["msg_type"] == "stream":
                return self.add_text(msg, cell, cell_index)
            if msg["msg_type"] in COUNTED:
                msg["content"] = mask_all(msg["content"])  # before it is stored
            return super().process_message(msg, cell, cell_index)
        except (AttributeError, KeyError, TypeError, ValueError) as error:  # nbclient takes what it needs for granted
            what = f"The kernel sent a message ({msg['msg_type']!r:.60}) that cannot be read: {error!r:.200}."
            raise CourseError(what) from error

    def add_text(self, msg: dict[str, Any], cell: Any, cell_index: int) -> Any:
        """Masks what a cell prints together with what it printed last: a secret may come in two pieces."""
        text, name = msg["content"]["text"], msg["content"]["name"]
        follows = cell.outputs and cell.outputs[-1] is self.last and not self.clear_before_next_output
        if follows and self.last.name == name and not (len(self.raw) > CHUNK and self.raw.endswith("\n")):
            self.raw += text
            self.last.text = mask(self.raw)
            return None
        msg["content"] = mask_all(msg["content"])
        self.last, self.raw = super().process_message(msg, cell, cell_index), text
        return self.last

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
