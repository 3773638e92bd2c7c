"""What the machine is said to be, and the limits measured on it."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import re
import subprocess
import sys

import pytest

from labsupport.base.errors import MachineError
from labsupport.machine import backend, os_info, roofline
from labsupport.machine.backend import choose_backend, is_installed
from labsupport.machine.description import Accelerator, Machine, describe_machine, make_slug
from labsupport.machine.roofline import Roofline, find_roofline, matmul_peak, measure_roofline

PLANTED = Roofline("a planted machine", 20e9, 10e9, {"float32": 100e9, "int8": 400e9})


def run_python(code: str, **environment: str) -> str:
    """Runs code in a fresh process, where no framework is loaded yet, and returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# --- the backend


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


# --- the description


def test_machine_is_described_alike_each_time_and_without_its_owner():
    machine = describe_machine("torch")
    assert machine == describe_machine("torch")
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", machine.name)
    assert 1 <= machine.physical_cores <= machine.cores <= os.cpu_count()
    assert 2**28 < machine.memory_bytes < 2**50
    assert machine.versions["torch"] == importlib.metadata.version("torch")
    for shown in (str(machine), machine._repr_markdown_()):
        assert machine.cpu in shown
        assert platform.node() not in shown


def test_machine_without_a_framework_is_still_described(monkeypatch):
    monkeypatch.setattr(backend, "is_installed", lambda package: False)
    assert describe_machine().accelerators == ()


@pytest.mark.parametrize(
    ("cpu", "cores", "features", "accelerators", "slug"),
    [
        ("Intel(R) Xeon(R) Processor", 2, ("avx2", "avx512f", "amx_int8"), (), "intel-xeon-2c-amx"),
        ("Intel(R) Xeon(R) Platinum 8370C CPU @ 2.80GHz", 4, ("avx512f",), (), "intel-xeon-platinum-8370c-4c-avx512"),
        ("AMD EPYC 7763 64-Core Processor", 8, ("avx2",), (), "amd-epyc-7763-8c-avx2"),
        ("AMD Ryzen 7 5800H with Radeon Graphics", 16, ("avx2",), (), "amd-ryzen-7-5800h-16c-avx2"),
        ("Apple M2 Pro", 10, ("neon",), (), "apple-m2-pro-10c-neon"),
        ("aarch64", 96, (), (Accelerator("Ascend910B2", 1),) * 8, "aarch64-96c-8x-ascend910b2"),
        ("Intel(R) Xeon(R)", 16, ("avx2",), (Accelerator("NVIDIA H200", 1),), "intel-xeon-16c-avx2-nvidia-h200"),
    ],
)
def test_slug_names_the_kind_of_machine(cpu, cores, features, accelerators, slug):
    assert make_slug(cpu, cores, features, accelerators) == slug


def test_cpuinfo_is_read_on_x86_and_on_arm(monkeypatch):
    x86 = "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu avx2 AMX_INT8\n\nprocessor\t: 1\n"
    assert os_info.parse_cpuinfo(x86) == ("Some CPU", {"fpu", "avx2", "amx_int8"})
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert os_info.parse_cpuinfo("Features\t: fp asimd i8mm\n") == ("aarch64", {"fp", "asimd", "i8mm"})


def test_macos_listing_is_read():
    listing = (
        "machdep.cpu.brand_string: Apple M2\nhw.optional.arm.FEAT_I8MM: 1\nhw.optional.arm.FEAT_SVE: 0\n"
        "hw.optional.neon: 1\nkern.hostname: somebody\n"
    )
    assert os_info.parse_sysctl(listing) == ("Apple M2", {"feat_i8mm", "neon"})


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux: no other system sets affinity so")
def test_cores_follow_the_affinity_of_the_process():
    code = (
        "import os; from labsupport import system; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        "print(os_info.usable_cores(), os_info.count_physical_cores(1))"
    )
    assert run_python(code) == "1 1"


def plant_cgroup(tmp_path, membership: str, files: dict[str, str]):
    (tmp_path / "membership").write_text(membership)
    for name, content in files.items():
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return {"root": tmp_path / "root", "membership": tmp_path / "membership"}


def test_cgroup_limits_of_the_own_group_and_all_above_are_read(tmp_path):
    files = {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "150000 100000\n", "other/cpu.max": "1 100000\n"}
    planted = plant_cgroup(tmp_path, "0::/a/b\n", files)
    assert os_info.read_cgroup("cpu.max", **planted) == [["max", "100000"], ["150000", "100000"]]


def test_old_cgroups_are_read_even_where_a_container_hides_the_path(tmp_path):
    planted = plant_cgroup(tmp_path, "4:cpu,cpuacct:/docker/xyz\n0::/\n", {"cpu/cpu.cfs_quota_us": "50000\n"})
    assert os_info.read_cgroup("cpu.cfs_quota_us", "cpu", **planted) == [["50000"]]
    assert os_info.read_cgroup("memory.max", **planted) == []


def test_cgroup_limits_cut_cores_and_memory(monkeypatch):
    limits = {"cpu.max": [["max", "100000"], ["50000", "100000"]], "memory.max": [["max"], ["1000000"]]}
    monkeypatch.setattr(os_info, "read_cgroup", lambda name, controller="": limits.get(name, []))
    assert os_info.usable_cores() == 1
    assert os_info.usable_memory() == 1_000_000


def test_unlimited_old_cgroups_cut_nothing(monkeypatch):
    limits = {
        "cpu.cfs_quota_us": [["-1"]],
        "cpu.cfs_period_us": [["100000"]],
        "memory.limit_in_bytes": [["9223372036854771712"]],
    }
    monkeypatch.setattr(os_info, "read_cgroup", lambda name, controller="": limits.get(name, []))
    assert os_info.usable_cores() == (len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count())
    assert os_info.usable_memory() > 2**28


# --- one framework a process


def test_importing_the_measuring_modules_loads_nothing_heavy():
    code = (
        "import sys; from labsupport.machine import backend, description, roofline;"
        "from labsupport.results import claims, memory, rows, timing, verdicts;"
        "print(sorted({'torch', 'mindspore', 'transformers', 'numpy', 'scipy'} & set(sys.modules)))"
    )
    assert run_python(code) == "[]"


def test_torch_process_never_loads_mindspore():
    code = (
        "import sys; from labsupport.machine.backend import synchronise;"
        "from labsupport.machine.description import describe_machine; describe_machine('torch'); synchronise();"
        "print('torch' in sys.modules, 'mindspore' in sys.modules)"
    )
    assert run_python(code) == "True False"


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


# --- the roofline


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


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"device": "x"}', "nan", "negative", "bytes"])
def test_damaged_roofline_is_measured_again(measured, tmp_path, content):
    find_roofline()
    (cached,) = tmp_path.rglob("*.json")
    whole = json.loads(cached.read_text())
    planted = {
        "nan": json.dumps({**whole, "copy_bytes_per_s": math.nan}),
        "negative": json.dumps({**whole, "matmul": {"float32": -1.0}}),
        "bytes": "\udcff",
    }.get(content, content)
    cached.write_bytes(planted.encode(errors="surrogateescape"))
    assert find_roofline() == PLANTED
    assert len(measured) == 2
    assert json.loads(cached.read_text()) == whole


def test_dtype_that_does_not_run_is_left_out():
    def prepare(n):
        raise RuntimeError("no kernel")

    assert matmul_peak(prepare) is None


def test_measured_limits_are_those_of_a_computer():
    limits = measure_roofline("torch", describe_machine("torch"))
    assert {"float32", "int8"} <= set(limits.matmul)
    assert all(1e8 < peak < 1e16 for peak in limits.matmul.values())
    assert 2e8 < limits.read_bytes_per_s < 2e13
    assert 2e8 < limits.copy_bytes_per_s < 2e13
    assert "GB/s" in str(limits)
    assert "float32" in limits._repr_markdown_()
