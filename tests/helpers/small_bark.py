"""A Bark with random weights that generates in a second: the true vocabularies and windows, and small transformers."""

from __future__ import annotations

import pytest
import torch
import transformers

from labsupport.bark import models

TINY = "bark-tiny"  # known while the fixture `tiny_shape` is active
LENGTH = 25  # semantic tokens of a text; 74 coarse codes: two windows
TEXTS = ("a short sentence", "and another one, which has a few words more than the first")
PARTS = ("semantic", "coarse", "fine", "audio")


@pytest.fixture(scope="session")
def tiny_shape():
    """Adds the shape `TINY` to those that `models.load` knows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.SHAPES, TINY, (32, 2, 2))
        yield


def load_small(attention: str) -> transformers.BarkModel:
    """The shape `TINY` with queries and keys ten times as large, for else all scores are near 0 and hardly matter."""
    model = models.load(TINY, attention)
    for name, weight in model.named_parameters():
        if name.endswith("att_proj.weight"):
            weight.data[: 2 * weight.shape[1]] *= 10  # (3 * width, width): queries, keys, values
    return model


def generate_with_transformers(model, tokens, voice=None) -> torch.Tensor:
    """The audio of transformers' own `generate`."""
    history = voice and voice.tensors(model.device)
    lengths = {"semantic_min_new_tokens": LENGTH, "semantic_max_new_tokens": LENGTH}
    return model.generate(tokens[0], attention_mask=tokens[1], history_prompt=history, do_sample=False, **lengths)


def assert_same(first, second) -> None:
    """Both `BarkOutput`s are equal, stage by stage."""
    for part in PARTS:
        assert torch.equal(getattr(first, part), getattr(second, part)), part
