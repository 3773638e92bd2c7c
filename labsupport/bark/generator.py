"""Bark a stage at a time: what goes from one sub-model to the next, with lengths that are fixed beforehand.

    text -> semantic tokens, 49.9 a second -> coarse codes, 2 x 75 a second -> fine codes, 8 x 75 -> 24 000 samples

`BarkModel.generate` does the same in one call. Apart, each stage can be timed, watched, kept elsewhere, or replaced.

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
from transformers.models.bark.generation_configuration_bark import (
    BarkCoarseGenerationConfig,
    BarkFineGenerationConfig,
    BarkSemanticGenerationConfig,
)

from labsupport.bark import models
from labsupport.bark.voices import Voice
from labsupport.optim.offload import Stage

GREEDY = {"do_sample": False}
SAMPLED = {"do_sample": True, "temperature": 0.7, "top_k": 0}
Watch = Callable[[str], AbstractContextManager]  # a stage's name -> what surrounds the stage


def unwatched(stage: str) -> AbstractContextManager:
    return nullcontext()


@dataclass(frozen=True)
class BarkOutput:
    """What each stage gave: int64 semantic (rows, tokens), coarse (rows, 2 * frames) and fine (rows, 8, frames), and
    float32 audio (rows, samples) at 24 kHz.
    """

    semantic: Tensor
    coarse: Tensor
    fine: Tensor
    audio: Tensor


@dataclass
class BarkGenerator:
    """Bark with its settings.

    Args:
        model: transformers' Bark.
        voice: whose voice to go on in; None leaves it to chance.
        sampling: how tokens are chosen: `GREEDY`, or `SAMPLED` at another temperature.
        watch: surrounds each stage: a clock, `profiling.phase`, an offloader.
    """

    model: BarkModel
    voice: Voice | None = None
    sampling: dict = field(default_factory=lambda: dict(GREEDY))
    watch: Watch = unwatched

    def __post_init__(self) -> None:
        given: Any = self.model.generation_config  # BarkGenerationConfig, with the parts' settings as dicts
        self.codebook_size = given.codebook_size
        self.semantic_settings = BarkSemanticGenerationConfig(**given.semantic_config)
        self.coarse_settings = BarkCoarseGenerationConfig(**given.coarse_acoustics_config)
        self.fine_settings = BarkFineGenerationConfig(**given.fine_acoustics_config)

    @property
    def history(self) -> dict[str, Tensor] | None:
        """The voice as transformers wants it, on the model's device."""
        return self.voice.tensors(self.model.device) if self.voice else None

    def stages(self) -> dict[str, Stage]:
        """As an offloader takes them, in the order of their turns; a turn begins with this generator's own method."""
        return {name: replace(stage, owner=self, method=name) for name, stage in models.stages(self.model).items()}

    def semantic(self, tokens: Tensor, mask: Tensor, length: int) -> Tensor:
        """Text (rows, 256), 0 in the mask where there is none -> (rows, length): what is said, and how."""
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
        """(rows, tokens) -> (rows, 2 * frames): the first two codebooks in turns, in windows of 60 codes."""
        return self.model.coarse_acoustics.generate(
            semantic.clone(),  # which transformers writes into
            history_prompt=self.history,
            semantic_generation_config=self.semantic_settings,
            coarse_generation_config=self.coarse_settings,
            codebook_size=self.codebook_size,
            **self.sampling,
        )

    def fine(self, coarse: Tensor) -> Tensor:
        """(rows, 2 * frames) -> (rows, 8, frames): the six other codebooks, one after the other, each at one go."""
        return self.model.fine_acoustics.generate(
            coarse,
            history_prompt=self.history,
            semantic_generation_config=self.semantic_settings,
            coarse_generation_config=self.coarse_settings,
            fine_generation_config=self.fine_settings,
            codebook_size=self.codebook_size,
            temperature=None if not self.sampling["do_sample"] else self.fine_settings.temperature,
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
