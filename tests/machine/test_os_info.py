"""What the operating system reports: processors, cores and memory, cut by control groups."""

from __future__ import annotations

import os
import platform
import sys

import pytest
from fresh_process import run_python

from labsupport.machine import os_info


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
        "import os; from labsupport.machine import os_info; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
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


@pytest.mark.parametrize(("asked", "threads"), [("1", 1), ("0", None), ("4,2", None), (None, None)])
def test_threads_are_those_that_were_asked_for(monkeypatch, asked, threads):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if asked:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert os_info.asked_threads() == threads
