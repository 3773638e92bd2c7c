"""What a machine is described by, and the name of its kind."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re

import pytest

from labsupport.machine import description
from labsupport.machine.description import Accelerator, describe_machine, make_slug


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
    monkeypatch.setattr(description, "is_installed", lambda package: False)
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
