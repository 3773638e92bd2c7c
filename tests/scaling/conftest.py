"""One session of Ray for all tests of this folder that a process runs: it takes some 15 s to start. Then it ends, for
the environment that Ray's processes inherit would also be that of the tests after them.
"""

from __future__ import annotations

import os

import pytest

from labsupport.scaling.ray_session import ray_session

PLANTED = "planted_where_the_user_stands"


@pytest.fixture(scope="package")
def two_workers(tmp_path_factory):
    """Ray with two logical CPUs, started in a folder of somebody's modules; gives that folder."""
    hostile, before = tmp_path_factory.mktemp("hostile"), os.getcwd()
    for name in (PLANTED, "json", "labsupport"):
        (hostile / f"{name}.py").write_text("raise SystemExit('foreign code')")
    os.chdir(hostile)
    try:
        with ray_session(2):
            os.chdir(before)
            yield hostile
    finally:
        os.chdir(before)
