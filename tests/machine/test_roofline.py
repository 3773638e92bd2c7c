"""The limits of this machine: measured once, read back, and compared with what a step took."""

from __future__ import annotations

import json
import math

import pytest
from fresh_process import run_python

from labsupport.base.errors import MachineError
from labsupport.machine import roofline
from labsupport.machine.backend import is_installed
from labsupport.machine.description import Machine, describe_machine
from labsupport.machine.roofline import Roofline, find_roofline, matmul_peak, measure_roofline

PLANTED = Roofline("a planted machine", 20e9, 10e9, {"float32": 100e9, "int8": 400e9})


def test_fraction_is_the_larger_limit_over_the_time_taken():
    assert PLANTED.fraction(2.0, bytes=20e9) == pytest.approx(0.5)
    assert PLANTED.fraction(4.0, flops=100e9) == pytest.approx(0.25)
    assert PLANTED.fraction(4.0, flops=100e9, dtype="int8") == pytest.approx(0.0625)
    assert PLANTED.fraction(4.0, bytes=20e9, flops=200e9) == pytest.approx(0.5)
    assert PLANTED.seconds(bytes=40e9) == pytest.approx(2.0)


def test_dtype_without_a_peak_is_a_clear_error():
    with pytest.raises(MachineError, match="float16"):
        PLANTED.fraction(1.0, flops=1.0, dtype="float16")


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """Counts the measurements; each gives the planted roofline."""
    calls = []

    def plant(framework: str, machine: Machine) -> Roofline:
        calls.append(framework)
        return PLANTED

    monkeypatch.setenv("LAB_CACHE", str(tmp_path))
    monkeypatch.setattr(roofline, "measure_roofline", plant)
    return calls


def test_roofline_is_measured_once_and_again_on_request(measured):
    assert find_roofline() == find_roofline() == PLANTED
    assert len(measured) == 1
    find_roofline(refresh=True)
    assert len(measured) == 2


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"device": "x"}', "nan", "negative", "bytes", "huge", "deep"]
)
def test_damaged_roofline_is_measured_again_with_a_word(measured, tmp_path, content, caplog):
    find_roofline()
    (cached,) = tmp_path.rglob("*.json")
    whole = json.loads(cached.read_text())
    planted = {
        "nan": json.dumps({**whole, "copy_bytes_per_s": math.nan}),
        "negative": json.dumps({**whole, "matmul": {"float32": -1.0}}),
        "bytes": "\udcff",
        "huge": json.dumps({**whole, "read_bytes_per_s": 10**400}),
        "deep": "[" * 100_000,
    }.get(content, content)
    cached.write_bytes(planted.encode(errors="surrogateescape"))
    assert find_roofline() == PLANTED
    assert len(measured) == 2
    assert json.loads(cached.read_text()) == whole
    assert f"{cached} is damaged or of another version" in caplog.text


def test_what_a_newer_version_noted_beside_the_limits_is_dropped(measured, tmp_path, caplog):
    find_roofline()
    (cached,) = tmp_path.rglob("*.json")
    cached.write_text(json.dumps({**json.loads(cached.read_text()), "schema": 2, "gather_bytes_per_s": 1.0}))
    assert find_roofline() == PLANTED
    assert (len(measured), caplog.text) == (1, "")


def test_dtype_that_does_not_run_is_left_out():
    def prepare(n):
        raise RuntimeError("no kernel")

    assert matmul_peak(prepare) is None


@pytest.mark.slow
def test_measured_limits_are_those_of_a_computer():
    limits = measure_roofline("torch", describe_machine("torch"))
    assert {"float32", "int8"} <= set(limits.matmul)
    assert all(1e8 < peak < 1e16 for peak in limits.matmul.values())
    assert 2e8 < limits.read_bytes_per_s < 2e13
    assert 2e8 < limits.copy_bytes_per_s < 2e13
    assert "GB/s" in str(limits)
    assert "float32" in limits._repr_markdown_()


@pytest.mark.slow
def test_mindspore_process_measures_its_own_peaks_and_never_loads_torch(tmp_path):
    if not is_installed("mindspore"):
        pytest.skip("needs MindSpore; this environment was made without it")
    code = (
        "import json, sys; from labsupport.machine.roofline import find_roofline; limits = find_roofline();"
        "print(json.dumps([limits.matmul, 'torch' in sys.modules]))"
    )
    printed = run_python(code, LAB_BACKEND="mindspore", LAB_CACHE=str(tmp_path))
    peaks, torch_loaded = json.loads(printed.splitlines()[-1])
    assert not torch_loaded
    assert set(peaks) == {"float32", "float16"}
    # MindSpore only queues the product: a clock that did not wait for it shows a thousand times any CPU's peak.
    assert all(1e8 < peak < 1e15 for peak in peaks.values())
