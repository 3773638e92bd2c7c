"""The readable Whisper against transformers', on real weights and real speech."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_model import prefill_in_pieces, start_cache
from small_whisper import SMALL

from labsupport.base.errors import CheckpointError
from labsupport.checkpoints.resolve import random_checkpoint
from labsupport.optim.attention import eager
from labsupport.speech import features
from labsupport.whisper import torch_model

pytestmark = pytest.mark.weights

TEXT = [50257, 50362, 843, 11, 616, 5891, 3399]


@pytest.fixture(scope="module")
def mel(jfk):
    return torch.from_numpy(features.log_mel(jfk))[None]


@torch.inference_mode()
def test_encoder_output_equals_transformers(pair, mel):
    ours = pair.ours.model.encoder(mel)
    theirs = pair.theirs.model.encoder(mel).last_hidden_state
    assert (ours - theirs).abs().max() < 1e-4


@torch.inference_mode()
def test_logits_equal_transformers(pair, mel):
    tokens = torch.tensor([TEXT])
    ours = pair.ours.model(mel, tokens)
    theirs = pair.theirs(mel, decoder_input_ids=tokens).logits
    assert ours.shape == (1, len(TEXT), pair.ours.model.config.vocab_size)
    assert (ours - theirs).abs().max() < 1e-4


@pytest.mark.parametrize("cuts", [[1, 1, 1, 1, 1, 1, 1], [4, 1, 1, 1], [2, 3, 2], [7]])
def test_decoding_in_pieces_gives_the_logits_of_the_whole(tiny, mel, cuts):
    model = tiny.ours.model
    encoder_out = model.encode(mel.numpy())
    whole = model.prefill(np.array([TEXT]), start_cache(model, encoder_out))
    cache = start_cache(model, encoder_out)
    assert np.abs(prefill_in_pieces(model, cache, np.array([TEXT]), cuts) - whole).max() < 1e-4
    assert cache.length == len(TEXT)


def test_selected_rows_go_on_as_if_they_were_alone(tiny, mel):
    model = tiny.ours.model
    mels = torch.cat([mel, mel * 0.9, mel * 0.8]).numpy()
    prefix, following = np.array([TEXT[:4]] * 3), np.array([TEXT[4]])
    cache, alone = start_cache(model, model.encode(mels)), start_cache(model, model.encode(mels[2:]))
    model.prefill(prefix, cache)
    model.select_rows(np.array([2]), cache)
    model.prefill(prefix[:1], alone)
    assert np.abs(model.decode_step(following, cache) - model.decode_step(following, alone)).max() < 1e-4


def test_components_are_used(jfk):
    calls = {"attention": 0, "conv1d": 0}

    def attention(*args, **kwargs):
        calls["attention"] += 1
        return eager(*args, **kwargs)

    def conv1d(*args, **kwargs):
        calls["conv1d"] += 1
        return F.conv1d(*args, **kwargs)

    checkpoint = random_checkpoint("tiny.en")
    model = torch_model.load_model(checkpoint, torch_model.Components(attention=attention, conv1d=conv1d))
    model(torch.zeros(1, 80, 3000), torch.tensor([[50257]]))
    assert calls == {"attention": 4 + 2 * 4, "conv1d": 2}


def test_no_parameter_is_left_without_a_value():
    model = torch_model.load_model(random_checkpoint("tiny"))
    assert not any(parameter.is_meta for parameter in model.parameters())


def test_a_model_built_without_a_checkpoint_is_initialised_as_torch_does():
    torch.manual_seed(0)
    table = torch_model.Whisper(SMALL.config).decoder.embed_tokens.weight
    assert 0.9 < table.std() < 1.1  # as nn.Embedding's normal_


def without_the_fourth(tensors: list) -> list:
    return tensors[:3] + tensors[4:]


def with_another(tensors: list) -> list:
    return [*tensors, ("model.decoder.other.weight", np.zeros(1, np.float32))]


def with_a_longer_table(tensors: list) -> list:
    return [(name, np.resize(array, (100, 16)) if "embed_tokens" in name else array) for name, array in tensors]


@pytest.mark.parametrize("change", [without_the_fourth, with_another, with_a_longer_table])
def test_a_checkpoint_of_another_shape_is_refused(monkeypatch, change):
    tensors = change(list(SMALL.tensors()))
    monkeypatch.setattr(type(SMALL), "tensors", lambda self: iter(tensors))
    with pytest.raises(CheckpointError, match="do not fit"):
        torch_model.load_model(SMALL)
