"""Bark with caches of fixed size, against the cache that grows."""

from __future__ import annotations

import pytest
import torch
from small_bark import LENGTH, assert_same

from labsupport.bark import voices
from labsupport.bark.generator import SAMPLED, BarkGenerator
from labsupport.bark.static_cache import StaticBarkGenerator, sample_token
from labsupport.optim.offload import DiskStore, Offloader

VOICES = {
    "none": None,
    "short": voices.make_random(),
    "long": voices.make_random(9.0),
}  # long: more than a window holds


def generate_codes(generator, tokens):
    """The output of the two causal stages, which alone differ."""
    semantic = generator.semantic(*tokens, LENGTH)
    return semantic, generator.coarse(semantic)


def assert_equal(first, second):
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("voice", VOICES.values(), ids=VOICES)
def test_static_caches_give_the_same_codes(fused, tokens, voice):
    generators = BarkGenerator(fused, voice), StaticBarkGenerator(fused, voice)
    assert_equal(*(generate_codes(generator, tokens) for generator in generators))


def test_static_caches_give_the_same_codes_when_the_window_slides(fused):
    """690 codes, of which a window holds the newest 630."""
    semantic = torch.randint(0, 10_000, (1, 230), generator=torch.Generator().manual_seed(0))
    assert torch.equal(StaticBarkGenerator(fused).coarse(semantic), BarkGenerator(fused).coarse(semantic))


def test_static_caches_sample_the_same_codes(fused, tokens, expected):
    sampled = []
    for kind in (BarkGenerator, StaticBarkGenerator):
        torch.manual_seed(5)
        sampled.append(generate_codes(kind(fused, sampling=SAMPLED), tokens))
    assert_equal(*sampled)
    assert not torch.equal(sampled[0][0], expected.semantic)


def test_sampled_tokens_follow_the_temperature_within_the_allowed_part():
    torch.manual_seed(0)
    scores = torch.tensor([[9.0, 0.0, 1.0, 2.0]]).repeat(20_000, 1)
    sampled = sample_token(scores, slice(1, None), {"do_sample": True, "temperature": 0.5})
    found = torch.bincount(sampled.flatten(), minlength=4) / len(scores)
    probabilities = torch.tensor([0.0, *(torch.tensor([0.0, 1.0, 2.0]) / 0.5).softmax(-1)])
    assert (found - probabilities).abs().max() < 0.01


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["eager", "compiled"])
def test_static_caches_work_with_offload(fused, expected, tokens, tmp_path, compiled):
    generator = StaticBarkGenerator(fused, compiled=compiled)
    offloader = Offloader(generator.stages(), DiskStore(tmp_path))
    try:
        for _ in range(2):  # the second time with the compiled step, and with weights from a second fetch
            assert_same(expected, generator.generate(*tokens, LENGTH))
        fetched = {span.stage for span in offloader.spans if span.kind == "fetch"}
        assert fetched == {"semantic", "coarse", "fine", "codec"}
    finally:
        offloader.remove()
    assert_equal((expected.semantic, expected.coarse), generate_codes(generator, tokens))
