"""Bark on MindSpore: transformers' own model through MindNLP, a stage at a time.

`import mindnlp` takes torch's place in a whole process, so the trip is made in one of its own, which `run_bark` starts,
as `mindnlp_road.travel` does for Whisper. The weights come from torch, so that both must say the same.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from labsupport.base.paths import atomic_write
from labsupport.via_mindnlp.process import import_mindnlp, require_mindnlp, run_to_end, try_out

TEXT = "And so, my fellow Americans"


@dataclass(frozen=True)
class BarkRun:
    """What was seen.

    failure: the first error of the model as it is, and the stage that it came in, or None twice. seconds: of each
    stage, with `hstack` supplied. codes: the fine codes, (8, frames); torchs: those of torch, for the same text.
    """

    failure: str | None
    failed_at: str | None
    seconds: dict[str, float]
    codes: list[list[int]]
    torchs: list[list[int]]


def run_bark(name: str = "bark-lesson", tokens: int = 3, timeout: float = 600) -> BarkRun:
    """Says so many semantic tokens with the shape `name` in torch, here, and through MindNLP, in a process of its own.

    Raises:
        NotAvailable, MindnlpError, MindnlpError: as `mindnlp_road.travel`.
        BarkError: there is no such shape.
    """
    from labsupport.bark import models

    require_mindnlp()
    model = models.load(name)
    with tempfile.TemporaryDirectory() as folder:  # MindSpore leaves files in its working directory
        weights, result = Path(folder) / "weights", Path(folder) / "trip.json"
        model.save_pretrained(weights)
        run_to_end([sys.executable, "-m", __name__, str(weights), str(tokens), str(result)], folder, timeout)
        found = json.loads(result.read_text(encoding="utf-8"))
    return BarkRun(**found, torchs=say(model, tokens, lambda stage: clocked(stage, {})))


def main() -> None:
    parser = argparse.ArgumentParser(prog=f"python -m {__spec__.name}", description=run_bark.__doc__)
    parser.add_argument("weights", help="a folder that transformers saved")
    parser.add_argument("tokens", type=int)
    parser.add_argument("result", type=Path, help="where to write the JSON")
    arguments = parser.parse_args()
    found = explore(arguments.weights, arguments.tokens)
    with atomic_write(arguments.result) as part:
        part.write_text(json.dumps(found), encoding="utf-8")
    os._exit(0)  # MindSpore can hang in its own clean-up, after an op has failed


def explore(weights: str, tokens: int) -> dict:
    """The fields of `BarkRun` but torch's."""
    import_mindnlp()
    from transformers import BarkModel

    model, tried, seconds = BarkModel.from_pretrained(weights).eval(), {}, {}
    failure = try_out(lambda: say(model, tokens, lambda stage: clocked(stage, tried)))
    failed_at = list(tried)[-1] if failure else None
    supply_hstack()
    codes = say(model, tokens, lambda stage: clocked(stage, seconds))
    return {"failure": failure, "failed_at": failed_at, "seconds": seconds, "codes": codes}


def say(model, tokens: int, watch) -> list[list[int]]:
    """The fine codes (8, frames) of the text, greedily."""
    from labsupport.bark.generator import Speaker
    from labsupport.bark.tokens import encode_text

    return Speaker(model, watch=watch).speak(*encode_text([TEXT], "bark-lesson"), tokens).fine[0].tolist()


@contextmanager
def clocked(stage: str, seconds: dict[str, float]) -> Iterator[None]:
    """Keeps the stage's seconds; 0 while it runs, and if it fails."""
    seconds[stage], start = 0.0, time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - start


def supply_hstack() -> None:
    """mindtorch 0.5 lacks the one function of torch that the coarse stage needs beyond what is there."""
    import mindtorch

    mindtorch.hstack = lambda tensors: mindtorch.cat(list(tensors), 1)


if __name__ == "__main__":
    main()
