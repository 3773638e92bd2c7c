"""Bark stage by stage, with lengths that are fixed beforehand.

    text -> semantic tokens, 49.9 a second -> coarse codes, 2 x 75 a second -> fine codes, 8 x 75 -> 24 000 samples

`BarkModel.generate` does the same in one call. Here each stage can be timed, offloaded or replaced.

Source: article D, "Bark's architecture"; transformers' modeling_bark.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from transformers import BarkModel
from transformers.models.bark import generation_configuration_bark as configuration

from labsupport.bark import models
from labsupport.bark.voices import Voice
from labsupport.optim.offload import Stage

GREEDY = {"do_sample": False}
SAMPLED = {"do_sample": True, "temperature": 0.7, "top_k": 0}
Watch = Callable[[str], AbstractContextManager]  # a stage's name -> what surrounds the stage


@dataclass(frozen=True)
class BarkOutput:
    """Each stage's output: int64 semantic (rows, tokens), coarse (rows, 2 * frames) and fine (rows, 8, frames); float32
    audio (rows, samples) at 24 kHz.
    """

    semantic: Tensor
    coarse: Tensor
    fine: Tensor
    audio: Tensor


@dataclass
class BarkGenerator:
    """Bark with its settings.

    Args:
        voice: the voice preset to continue; without one the model picks a voice.
        sampling: how tokens are chosen: `GREEDY`, or `SAMPLED` at another temperature.
        watch: surrounds each stage: a clock, `profiling.phase`, an offloader.
    """

    model: BarkModel
    voice: Voice | None = None
    sampling: dict = field(default_factory=lambda: dict(GREEDY))
    watch: Watch = nullcontext

    def __post_init__(self) -> None:
        given: Any = self.model.generation_config  # BarkGenerationConfig, with the parts' settings as dicts
        self.codebook_size = given.codebook_size
        self.semantic_settings = configuration.BarkSemanticGenerationConfig(**given.semantic_config)
        self.coarse_settings = configuration.BarkCoarseGenerationConfig(**given.coarse_acoustics_config)
        self.fine_settings = configuration.BarkFineGenerationConfig(**given.fine_acoustics_config)

    @property
    def history(self) -> dict[str, Tensor] | None:
        """The voice as transformers wants it, on the model's device."""
        return self.voice.tensors(self.model.device) if self.voice else None

    def stages(self) -> dict[str, Stage]:
        """For an offloader, in the order of their turns; a turn begins with a call of this generator's method."""
        return {name: replace(stage, owner=self, method=name) for name, stage in models.stages(self.model).items()}

    def semantic(self, tokens: Tensor, mask: Tensor, length: int) -> Tensor:
        """Text tokens (rows, 256), and a mask with 0 at padding -> semantic tokens (rows, length)."""
        return self.model.semantic.generate(
            tokens,
            attention_mask=mask,
            history_prompt=self.history,
            semantic_generation_config=self.semantic_settings,
            min_new_tokens=length,
            max_new_tokens=length,
            **self.sampling,
        )

    def coarse(self, semantic: Tensor) -> Tensor:
        """(rows, tokens) -> (rows, 2 * frames): the first two codebooks, interleaved, in windows of 60 codes."""
        return self.model.coarse_acoustics.generate(
            semantic.clone(),  # transformers writes into its argument
            history_prompt=self.history,
            semantic_generation_config=self.semantic_settings,
            coarse_generation_config=self.coarse_settings,
            codebook_size=self.codebook_size,
            **self.sampling,
        )

    def fine(self, coarse: Tensor) -> Tensor:
        """(rows, 2 * frames) -> (rows, 8, frames): all codebooks, the last six predicted one after the other."""
        return self.model.fine_acoustics.generate(
            coarse,
            history_prompt=self.history,
            semantic_generation_config=self.semantic_settings,
            coarse_generation_config=self.coarse_settings,
            fine_generation_config=self.fine_settings,
            codebook_size=self.codebook_size,
            temperature=self.fine_settings.temperature if self.sampling["do_sample"] else None,
        )

    @torch.no_grad()
    def codec(self, fine: Tensor) -> Tensor:
        """(rows, 8, frames) -> (rows, 320 * frames) samples"""
        return self.model.codec_decode(fine).float()

    def generate(self, tokens: Tensor, mask: Tensor, length: int) -> BarkOutput:
        """All four stages; arguments as `semantic`'s."""
        with self.watch("semantic"):
            semantic = self.semantic(tokens, mask, length)
        with self.watch("coarse"):
            coarse = self.coarse(semantic)
        with self.watch("fine"):
            fine = self.fine(coarse)
        with self.watch("codec"):
            audio = self.codec(fine)
        return BarkOutput(semantic, coarse, fine, audio)
