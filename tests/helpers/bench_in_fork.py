"""The benchmark of Bark in another process, to be killed: it generates nothing, all else is real."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

from labsupport.benchmarks import bark, bark_batches

IMPORTS = ["labsupport.benchmarks.bark", "scipy.stats", "transformers.models.bark"]
PLAN = bark.Plan("bark-small", (bark.Variant(), bark.Variant(fused=True)), samples=40, rounds=4)


def bench(home: str, told) -> None:
    """Runs the plan with `home` as the learner's folder; `told` counts the batches that are said to be stored."""
    os.environ |= {"LAB_HOME": home, "LAB_RESULTS": f"{home}/results"}
    bark.measuring_process = lambda: ThreadPoolExecutor(1)
    bark.measure_peak = lambda plan, variant, size: 1
    bark.open_variant = lambda checkpoint, variant: nullcontext((None, None))
    bark.warm_up = lambda *_: None
    bark.time_batch = pretend

    def note(done: int, total: int, at: str) -> None:
        told.value = done

    bark.record(PLAN, bark.run(PLAN, note))


def pretend(generator, plan: bark.Plan, variant: bark.Variant, size: int, first: int, peak: int) -> bark_batches.Batch:
    time.sleep(0.01)
    seconds = dict.fromkeys(bark_batches.STAGES, 0.25)
    return bark_batches.Batch(variant.name, size, first, 1.0, seconds, peak, first, bark.torch.__version__)
