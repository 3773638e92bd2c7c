"""Bark through MindNLP: one run in its process, against torch's codes."""

from __future__ import annotations

import pytest

from labsupport.benchmarks.bark_batches import STAGES
from labsupport.via_mindnlp.bark import run_bark

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run():
    return run_bark(tokens=3)


def test_the_model_as_it_is_fails_in_the_coarse_stage(run):
    assert (run.failed_at, run.failure) == ("coarse", "AttributeError: Module 'mindtorch' has no attribute 'hstack'")


def test_with_hstack_every_stage_runs_and_gives_torchs_codes(run):
    assert tuple(run.seconds) == STAGES
    assert min(run.seconds.values()) > 0
    assert run.codes == run.torch_codes
    assert len({code for book in run.codes for code in book}) > 8  # not all alike, which could be equal by chance
