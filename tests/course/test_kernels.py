"""How a kernel is started, and how much of what it prints is taken."""

from __future__ import annotations

import os
import sys

import nbformat
import pytest
from jupyter_client.kernelspec import NATIVE_KERNEL_NAME, NoSuchKernel

from labsupport.course import kernels


def test_a_kernel_is_this_interpreter_without_its_folder_and_with_the_given_variables(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f":/named{os.pathsep}.")
    spec = kernels.own_spec({"LAB_GROUP": "a"})
    assert sys.executable in spec.argv
    assert "--InteractiveShellApp.ignore_cwd=True" in spec.argv
    assert "--InteractiveShellApp.extensions=labsupport.course.sessions" in spec.argv
    assert spec.argv[-4:-2] == ["-f", "{connection_file}"]
    assert (spec.env["LAB_GROUP"], spec.env["PYTHONPATH"], spec.env["PYTHONSAFEPATH"]) == ("a", "/named", "1")


def test_jupyterlab_gets_this_interpreter_wherever_python3_points(monkeypatch, tmp_path):
    folder = tmp_path / "kernels" / "python3"
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text('{"argv": ["/bin/false"], "display_name": "wrong", "language": "python"}')
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    specs = kernels.KernelSpecs()
    assert sys.executable in specs.get_kernel_spec(NATIVE_KERNEL_NAME).argv
    with pytest.raises(NoSuchKernel):
        specs.get_kernel_spec("no-such-kernel")


def message(kind: str, **content) -> dict:
    return {"msg_type": kind, "header": {"msg_type": kind}, "content": content, "parent_header": {}}


def test_each_cell_has_limits_of_its_own_and_its_error_is_taken_without_its_length(monkeypatch):
    monkeypatch.setattr(kernels, "OUTPUTS", 3)
    cells = [nbformat.v4.new_code_cell("1"), nbformat.v4.new_code_cell("2")]
    client = kernels.Bounded(nbformat.v4.new_notebook(cells=cells))
    client.reset_execution_trackers()
    client.clear_before_next_output = False
    for number, cell in enumerate(cells):
        for _ in range(9):
            client.process_message(message("display_data", data={"text/plain": "x"}, metadata={}), cell, number)
        client.process_message(message("error", ename="E", evalue="v" * 9000, traceback=["t" * 9000]), cell, number)
        kinds = [output.output_type for output in cell.outputs]
        assert kinds == ["display_data"] * 3 + ["stream", "error"]
        assert cell.outputs[3].text == kernels.LEFT_OUT
        assert (len(cell.outputs[4].evalue), cell.outputs[4].traceback) == (kernels.ERROR_LENGTH, [])
