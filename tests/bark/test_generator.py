"""Bark stage by stage against transformers' own `generate`."""

from __future__ import annotations

import contextlib

import pytest
import torch
from small_bark import LENGTH, PARTS, TEXTS, TINY, generate_with_transformers

from labsupport.bark import models, voices
from labsupport.bark.generator import BarkGenerator
from labsupport.bark.tokens import encode_text


@pytest.mark.parametrize("voice", [None, voices.make_random()], ids=["no voice", "voice"])
def test_the_stages_give_what_transformers_generate_gives(eager, tokens, voice):
    output = BarkGenerator(eager, voice).generate(*tokens, LENGTH)
    assert torch.equal(output.audio, generate_with_transformers(eager, tokens, voice))


def test_each_stage_has_its_rate(expected):
    frames = int(LENGTH * 75 / 49.9)
    shapes = [(2, LENGTH), (2, 2 * frames), (2, 8, frames), (2, 320 * frames)]
    assert [tuple(getattr(expected, part).shape) for part in PARTS] == shapes
    assert expected.audio.dtype == torch.float32


def test_watch_surrounds_every_stage_in_turn(eager, tokens):
    watched = []

    @contextlib.contextmanager
    def watch(stage):
        watched.append(stage)
        yield

    BarkGenerator(eager, watch=watch).generate(*tokens, 3)
    assert watched == list(models.stages(eager))


def test_a_row_does_not_depend_on_the_other_rows(eager, expected):
    alone = BarkGenerator(eager).generate(*encode_text(TEXTS[:1], TINY), LENGTH)
    assert torch.equal(alone.fine[0], expected.fine[0])
