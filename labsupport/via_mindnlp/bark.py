"""transformers' own Bark on MindSpore, through MindNLP, a stage at a time, in a process of its own (see `process`).

The weights come from torch, so that both must give the same codes.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labsupport.via_mindnlp.process import import_mindnlp, measure_apart, require_mindnlp, try_call

TEXT = "And so, my fellow Americans"


@dataclass(frozen=True)
class BarkRun:
    """What was measured.

    failure: the first error of the model as it is, and the stage that it came in, or None twice. seconds: of each
    stage, with `hstack` supplied. codes: the fine codes, (8, frames); torch_codes: those of torch, for the same text.
    """

    failure: str | None
    failed_at: str | None
    seconds: dict[str, float]
    codes: list[list[int]]
    torch_codes: list[list[int]]


def run_bark(name: str = "bark-lesson", tokens: int = 3, timeout: float = 600) -> BarkRun:
    """Generates from so many semantic tokens with the shape `name`: in torch, here, and through MindNLP.

    Raises:
        NotAvailable: MindNLP is not installed.
        MindnlpError: its process failed, or did not end in time.
        BarkError: there is no such shape.
    """
    from labsupport.bark import models

    require_mindnlp()
    model = models.load(name)
    with tempfile.TemporaryDirectory() as folder:
        weights = str(Path(folder) / "weights")
        model.save_pretrained(weights)
        found = measure_apart(__name__, [weights, tokens], folder, timeout)
    return BarkRun(**found, torch_codes=generate_codes(model, tokens, {}))


def measure(weights: str, tokens: int) -> dict:
    """The fields of `BarkRun` but torch's; `weights` is a folder that transformers saved."""
    import_mindnlp()
    from transformers import BarkModel

    model = BarkModel.from_pretrained(weights).eval()
    tried: dict[str, float] = {}
    seconds: dict[str, float] = {}
    failure = try_call(lambda: generate_codes(model, tokens, tried))
    failed_at = list(tried)[-1] if failure else None
    add_hstack()
    codes = generate_codes(model, tokens, seconds)
    return {"failure": failure, "failed_at": failed_at, "seconds": seconds, "codes": codes}


def generate_codes(model: Any, tokens: int, seconds: dict[str, float]) -> list[list[int]]:
    """The fine codes (8, frames) of the text, greedily; each stage's seconds go to `seconds`."""
    from labsupport.bark.generator import BarkGenerator
    from labsupport.bark.tokens import encode_text

    generator = BarkGenerator(model, watch=lambda stage: timed_stage(stage, seconds))
    return generator.generate(*encode_text([TEXT], "bark-lesson"), tokens).fine[0].tolist()


@contextmanager
def timed_stage(stage: str, seconds: dict[str, float]) -> Iterator[None]:
    """Notes the stage's seconds; 0 while it runs, and if it fails."""
    seconds[stage], start = 0.0, time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - start


def add_hstack() -> None:
    """mindtorch 0.5 lacks the one function of torch that the coarse stage needs beyond what is there."""
    import mindtorch

    mindtorch.hstack = lambda tensors: mindtorch.cat(list(tensors), 1)
