"""Bark's stages in turns: attention in steps, as transformers has it, and fused, ours; the codes must be equal.

    ./lab bench bark_attention --model bark-small --runs 5 --stages semantic,coarse,fine --tokens 32

`./lab bench bark` has one variant in memory at a time, so an hour that is slow may fall on one of them alone. Here both
are in memory, take turns, and small differences can be told. STAGES: "semantic,coarse,fine", or some of them. "bark"
takes 10 GB of memory.
"""

from __future__ import annotations

from functools import partial

import torch

from labsupport.bark import models
from labsupport.bark.generator import BarkGenerator
from labsupport.bark.tokens import encode_text
from labsupport.base import tables
from labsupport.base.errors import BenchError
from labsupport.benchmarks import bark
from labsupport.results import timing
from labsupport.speech import audio

STAGES = ("semantic", "coarse", "fine")


@bark.quiet_library()
def run(checkpoint: str, runs: int, stages: str, tokens: int, clip: str) -> None:
    """Records the time of each stage; BenchError where there is no such stage, or Bark has no room for the tokens."""
    chosen = bark.split_list(stages, "stages")
    if unknown := sorted(set(chosen) - set(STAGES)):
        raise BenchError(f"There is no stage {unknown[0]!r}.", hint=f"Choose some of: {','.join(STAGES)}.")
    bark.check_length(tokens)
    device = bark.device_name()
    generators = {name: BarkGenerator(models.load(checkpoint, name, device=device)) for name in ("eager", "sdpa")}
    text, mask = (part.to(device) for part in encode_text([audio.clip(clip).text], checkpoint))
    semantic = generators["sdpa"].semantic(text, mask, tokens)
    inputs = {"semantic": (text, mask, tokens), "coarse": (semantic,)}
    if "fine" in chosen:
        inputs["fine"] = (generators["sdpa"].coarse(semantic),)
    for stage in chosen:
        ways = {name: partial(getattr(one, stage), *inputs[stage]) for name, one in generators.items()}
        timed = timing.compare(ways, runs, check=torch.equal)
        timed.record(f"Bark's {stage} by attention, {tokens} tokens", model=checkpoint, group="bark_attention")
        print(f"{stage}: fused {timed.speedup('eager', 'sdpa')}")
        print(tables.text_table(timed.table()), flush=True)
