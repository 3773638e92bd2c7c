"""Which framework a process computes with, and that it loads no other."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
from fresh_process import run_python

from labsupport.base.errors import MachineError, NotAvailable
from labsupport.machine import backend
from labsupport.machine.backend import choose_backend, require_compiler


@pytest.mark.parametrize(
    ("chosen", "variable", "installed", "expected"),
    [
        (None, "", {"torch", "mindspore"}, "torch"),
        ("", "", {"mindspore"}, "mindspore"),
        (None, "mindspore", {"torch", "mindspore"}, "mindspore"),
        ("torch", "mindspore", {"torch", "mindspore"}, "torch"),
    ],
)
def test_backend_takes_the_argument_then_the_variable_then_what_is_there(
    monkeypatch, chosen, variable, installed, expected
):
    monkeypatch.setenv("LAB_BACKEND", variable)
    monkeypatch.setattr(backend, "is_installed", installed.__contains__)
    monkeypatch.setattr(backend, "loaded_framework", lambda: None)
    assert choose_backend(chosen) == expected


@pytest.mark.parametrize(
    ("chosen", "installed", "message"),
    [("jax", {"torch"}, "no backend 'jax'"), ("mindspore", {"torch"}, "not installed"), (None, set(), "Neither")],
)
def test_backend_that_cannot_be_had_is_a_clear_error(monkeypatch, chosen, installed, message):
    monkeypatch.delenv("LAB_BACKEND", raising=False)
    monkeypatch.setattr(backend, "is_installed", installed.__contains__)
    monkeypatch.setattr(backend, "loaded_framework", lambda: None)
    with pytest.raises(MachineError, match=message):
        choose_backend(chosen)


def test_mindspore_comes_before_the_torch_that_mindnlp_puts_beside_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "mindspore", SimpleNamespace())
    assert backend.loaded_framework() == "mindspore"


@pytest.mark.parametrize(
    ("program", "file", "expected"),
    [(None, False, False), ("/usr/bin/nvidia-smi", False, True), (None, True, True)],
)
def test_an_accelerator_is_suspected_by_its_driver(monkeypatch, program, file, expected):
    monkeypatch.setattr(backend.shutil, "which", lambda name: program if name == "nvidia-smi" else None)
    monkeypatch.setattr(backend.os.path, "exists", lambda path: file and path == "/dev/davinci_manager")
    assert backend.has_accelerator_driver() is expected


def test_threads_sleep_unless_the_caller_has_chosen(monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    backend.let_threads_sleep()
    assert backend.os.environ["OMP_WAIT_POLICY"] == "active"
    monkeypatch.delenv("OMP_WAIT_POLICY")
    backend.let_threads_sleep()
    assert backend.os.environ["OMP_WAIT_POLICY"] == "passive"


def test_a_missing_compiler_is_named(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(NotAvailable, match="no-such-compiler"):
        require_compiler()


def test_importing_the_measuring_modules_loads_nothing_heavy():
    code = (
        "import sys; from labsupport.machine import backend, description, roofline;"
        "from labsupport.results import claims, memory, rows, timing, verdicts;"
        "print(sorted({'torch', 'mindspore', 'transformers', 'numpy', 'scipy'} & set(sys.modules)))"
    )
    assert run_python(code) == "[]"


@pytest.mark.slow
def test_torch_process_never_loads_mindspore():
    code = (
        "import sys; from labsupport.machine.backend import synchronise;"
        "from labsupport.machine.description import describe_machine; describe_machine('torch'); synchronise();"
        "print('torch' in sys.modules, 'mindspore' in sys.modules)"
    )
    assert run_python(code) == "True False"


@pytest.mark.slow
def test_so_many_threads_compute():
    """One: torch takes no more than the machine has."""
    code = (
        "from labsupport.machine.backend import use_threads; use_threads(1)\n"
        "import torch; from labsupport.graphs.session import count_threads\n"
        "print(torch.get_num_threads(), count_threads())"
    )
    assert run_python(code) == "1 1"
