"""Bark's shapes and random weights."""

from __future__ import annotations

import pytest
import torch
import transformers
from small_bark import LENGTH, TINY, assert_same, generate_with_transformers

from labsupport.bark import models
from labsupport.bark.generator import BarkGenerator
from labsupport.base.errors import BarkError
from labsupport.optim.offload import MemoryStore, Offloader


@pytest.mark.parametrize(("name", "millions"), [("bark-small", (404, 405)), ("bark", (1100, 1101))])
def test_the_shapes_have_the_size_of_sunos_checkpoints(name, millions):
    with torch.device("meta"), models.no_init_weights():
        model = transformers.BarkModel(models.make_config(name))
        model.tie_weights()
    causal = (model.semantic, model.coarse_acoustics)
    blocks = sum(p.numel() for stage in causal for p in stage.layers.parameters()) / len(causal)
    width, layers, _ = models.SHAPES[name]
    assert blocks == layers * (12 * width**2 + 2 * width)
    assert millions[0] < sum(p.numel() for p in model.parameters()) / 1e6 < millions[1]


@pytest.mark.usefixtures("tiny_shape")
def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    loaded = [models.load(TINY, seed=seed) for seed in (0, 0, 1)]
    first, same, different = (dict(m.named_parameters()) | dict(m.named_buffers()) for m in loaded)
    assert first.keys() == same.keys()
    assert all(torch.equal(tensor, same[name]) for name, tensor in first.items())
    assert not torch.equal(first["semantic.input_embeds_layer.weight"], different["semantic.input_embeds_layer.weight"])


def test_the_fine_heads_share_the_embeddings_weights(eager):
    fine = eager.fine_acoustics
    pairs = zip(fine.lm_heads, fine.input_embeds_layers[1:], strict=True)
    assert all(head.weight is embedding.weight for head, embedding in pairs)


def test_an_unknown_name_raises_with_the_known_ones(tmp_path):
    with pytest.raises(BarkError, match="bark-small"):
        models.make_config("bark-medium")
    with pytest.raises(BarkError, match="random: bark, bark-small"):
        models.load(str(tmp_path / "nothing"))


def test_a_saved_folder_is_loaded(eager, expected, tokens, tmp_path):
    eager.save_pretrained(tmp_path)
    assert_same(expected, BarkGenerator(models.load(str(tmp_path), "sdpa")).generate(*tokens, LENGTH))


def test_offloaded_stages_give_the_same_output(eager, expected, tokens):
    """Through transformers' own `generate` and through ours, in which a stage's turn begins with the same methods."""
    offloader = Offloader(models.stages(eager), MemoryStore("cpu"), prefetch=True)
    try:
        assert_same(expected, BarkGenerator(eager).generate(*tokens, LENGTH))
        assert torch.equal(expected.audio, generate_with_transformers(eager, tokens))
    finally:
        offloader.remove()
    assert torch.equal(expected.semantic, BarkGenerator(eager).semantic(*tokens, LENGTH))
