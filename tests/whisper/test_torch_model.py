"""The readable Whisper against transformers', on real weights and real speech."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_model import error_of_last_logits, prefill_in_pieces, start_cache
from small_whisper import SMALL
from transformers import WhisperConfig, WhisperForConditionalGeneration

from labsupport.base.errors import CheckpointError, OptimError
from labsupport.checkpoints.config import Config
from labsupport.checkpoints.random_weights import random_tensors
from labsupport.checkpoints.resolve import random_checkpoint
from labsupport.optim.attention import eager, get_attention
from labsupport.optim.kv_cache import PaddedCache, StaticCache
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


def test_the_last_logits_are_those_of_the_whole(tiny, mel):
    assert error_of_last_logits(tiny.ours.model, tiny.ours.model.encode(mel.numpy()), np.array([TEXT])) < 1e-4


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


# --- cross-attention --------------------------------------------------------------------------------------------------

ALL_HEADS = [(layer, head) for layer in range(2) for head in range(2)]
SMALL_TEXT = np.array([[7, 1, 90, 13, 2, 60, 61]])


def spread_out(config: Config) -> dict[str, torch.Tensor]:
    """Weights large enough for attention to differ from frame to frame."""
    tensors = ((name, array if array.ndim == 1 else 12 * array) for name, array in random_tensors(config, 0))
    return {name.removeprefix("model."): torch.from_numpy(array) for name, array in tensors}


@pytest.fixture
def small():
    """The small model, and one encoded window."""
    model = torch_model.load_model(SMALL)
    model.load_state_dict(spread_out(SMALL.config))
    mel = np.random.default_rng(0).normal(size=(1, 80, 60)).astype(np.float32)
    return model, model.encode(mel)


@torch.inference_mode()
def expected_weights(theirs: WhisperForConditionalGeneration, encoder_out: torch.Tensor, tokens) -> np.ndarray:
    """transformers', of every head: (layers * heads, length, frames)."""
    theirs.set_attn_implementation("eager")
    out = theirs.model.decoder(torch.from_numpy(tokens), encoder_hidden_states=encoder_out, output_attentions=True)
    return torch.cat([layer[0] for layer in out.cross_attentions]).numpy()


def test_cross_attention_of_a_small_model_equals_transformers(small):
    model, encoder_out = small
    config = SMALL.config
    theirs = WhisperForConditionalGeneration(WhisperConfig(**config.to_hf(), pad_token_id=0)).eval()
    theirs.model.load_state_dict(spread_out(config), strict=False)
    expected = expected_weights(theirs, encoder_out, SMALL_TEXT)
    found = model.cross_attention(SMALL_TEXT, encoder_out, ALL_HEADS)
    assert (found.shape, found.dtype) == ((4, 7, 30), np.float32)
    assert expected.std() > 0.01
    assert np.abs(found - expected).max() < 1e-5


@pytest.mark.weights
def test_cross_attention_equals_transformers(pair, mel):
    encoder_out = pair.ours.model.encode(mel.numpy())
    config = pair.ours.model.config
    heads = [(layer, head) for layer in range(config.decoder_layers) for head in range(config.heads)]
    found = pair.ours.model.cross_attention(np.array([TEXT]), encoder_out, heads)
    assert np.abs(found - expected_weights(pair.theirs, encoder_out, np.array([TEXT]))).max() < 1e-4


COMPONENTS = {
    **{name: {"attention": get_attention(name)} for name in ("eager", "tiled", "flash", "local")},
    "static": {"cache": StaticCache},
    "padded": {"cache": PaddedCache},
    "compiled": {"cache": StaticCache, "compiled": True},
}


@pytest.mark.parametrize("components", COMPONENTS.values(), ids=COMPONENTS)
@pytest.mark.parametrize("length", [1, 2, 7])
def test_cross_attention_is_the_same_with_any_components(small, components, length):
    model, encoder_out = small
    other = torch_model.load_model(SMALL, torch_model.Components(**components))
    other.load_state_dict(spread_out(SMALL.config))
    found, expected = (m.cross_attention(SMALL_TEXT[:, :length], encoder_out, ALL_HEADS) for m in (other, model))
    assert np.abs(found - expected).max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_cross_attention_of_a_model_in_half_precision_is_float32(small, dtype):
    model, encoder_out = small
    expected = model.cross_attention(SMALL_TEXT, encoder_out, [(0, 0)])
    found = model.to(dtype).cross_attention(SMALL_TEXT, encoder_out.to(dtype), [(0, 0)])
    assert found.dtype == np.float32
    assert 0 < np.abs(found - expected).max() < 0.1


def test_heads_come_in_the_order_asked_for_and_leave_nothing_behind(small):
    model, encoder_out = small
    every = model.cross_attention(SMALL_TEXT, encoder_out, ALL_HEADS)
    chosen = model.cross_attention(SMALL_TEXT, encoder_out, [(1, 1), (0, 0), (1, 1)])
    assert np.array_equal(chosen, every[[3, 0, 3]])
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("heads", [[], [(2, 0)], [(0, 2)], [(-1, 0)]])
def test_an_unknown_head_is_refused(small, heads):
    model, encoder_out = small
    with pytest.raises(OptimError, match=r"[Nn]o .*head"):
        model.cross_attention(SMALL_TEXT, encoder_out, heads)


def test_a_text_that_fails_leaves_no_hook_behind(small):
    model, encoder_out = small
    with pytest.raises(OptimError, match="25 more do not fit"):
        model.cross_attention(np.zeros((1, 25), np.int64), encoder_out, ALL_HEADS)
    assert not any(module._forward_pre_hooks for module in model.modules())
