"""The caches in real models against transformers, and the compiled step."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_model import WithCache, start_cache

from labsupport import whisper
from labsupport.arrays import xp
from labsupport.base.errors import NotAvailable
from labsupport.checkpoints.config import Config
from labsupport.checkpoints.resolve import Checkpoint
from labsupport.optim.kv_cache import DynamicCache, PaddedCache, StaticCache, step_bytes
from labsupport.speech import audio, features
from labsupport.whisper import torch_model
from labsupport.whisper.search import Hypothesis, beam_search, greedy
from labsupport.whisper.token_filters import TokenRules, make_prompt

pytestmark = [pytest.mark.weights, pytest.mark.slow]

CACHES = [DynamicCache, PaddedCache, StaticCache]


@pytest.fixture(scope="module")
def their_tokens(tiny, base, jfk) -> dict:
    """transformers' tokens for jfk without timestamps, by model and number of beams."""
    mel = torch.from_numpy(features.log_mel(jfk))[None]
    asked = [("tiny", tiny, 1, {}), ("tiny", tiny, 5, {}), ("base", base, 1, {"language": "en"})]
    found = {}
    for name, pair, beams, options in asked:
        tokens = pair.theirs.generate(mel, num_beams=beams, force_unique_generate_call=True, **options)[0].tolist()
        found[name, beams] = [token for token in tokens if token < pair.ours.rules.eot]
    return found


def search(ours, kind, encoder_out, beams: int, **options) -> list[Hypothesis]:
    """Decodes with a cache of this kind."""
    prompt = make_prompt(ours.tokenizer, "en" if ours.model.config.multilingual else None, timestamps=False)
    rules = replace(ours.rules, timestamps=False)
    model = WithCache(ours.model, kind)
    if beams == 1:
        return greedy(model, encoder_out, prompt, rules, **options)
    return beam_search(model, encoder_out, prompt, rules, beams, **options)


@pytest.mark.parametrize("kind", CACHES)
@pytest.mark.parametrize(("name", "beams"), [("tiny", 1), ("tiny", 5), ("base", 1)])
def test_tokens_equal_transformers_with_every_cache(request, their_tokens, jfk, name, beams, kind):
    ours = request.getfixturevalue(name).ours
    found = search(ours, kind, ours.model.encode(features.log_mel(jfk)[None]), beams)[0]
    assert found.tokens == their_tokens[name, beams]
    assert len(found.tokens) > 20


@pytest.mark.parametrize("beams", [1, 5])
def test_a_batch_of_windows_gets_the_same_tokens_with_every_cache(tiny, narration, beams):
    """The last window ends after two tokens: its texts leave the batch."""
    mels = np.stack([features.log_mel(part) for part in audio.windows(narration)])[-2:]
    encoder_out = tiny.ours.model.encode(mels)
    found = [[text.tokens for text in search(tiny.ours, kind, encoder_out, beams, limit=15)] for kind in CACHES]
    assert found[0] == found[1] == found[2]
    assert len(found[0][1]) < len(found[0][0])


def test_the_cache_is_chosen_when_a_model_is_loaded(jfk, tiny):
    static = whisper.load("tiny.en", backend="torch", cache=StaticCache)
    assert isinstance(static.model.new_cache(), StaticCache)
    assert static.transcribe(jfk).segments == tiny.ours.transcribe(jfk).segments


@pytest.mark.parametrize("name", ["tiny.en", "base"])
def test_the_bytes_of_a_step_are_those_of_its_tensors(request, name):
    model = request.getfixturevalue(name.removesuffix(".en")).ours.model
    cache = start_cache(model, model.encode(np.zeros((3, 80, 3000), np.float32)))
    model.prefill(np.full((3, 7), 1000), cache)
    model.select_rows(np.repeat([0, 1, 2], 2), cache)
    positions = model.decoder.embed_positions.weight
    weights = sum(p.numel() for p in model.decoder.parameters()) - positions.numel() + positions[0].numel()
    counted = step_bytes(model.config, 6, rows=6, windows=3)
    assert counted["weights"] == 4 * weights
    assert counted["cross_kv"] == sum(tensor.nbytes for pair in cache.cross_kv for tensor in pair)
    assert counted["self_kv"] == sum(tensor.nbytes for pair in cache.self_kv for tensor in pair)


# --- compiled ---------------------------------------------------------------------------------------------------------

SMALL = Config(d_model=32, encoder_layers=1, decoder_layers=1, heads=2, vocab_size=90, audio_positions=40)
RULES = TokenRules(
    eot=50, no_timestamps=60, no_speech=59, timestamp_begin=61, suppressed=(), suppressed_first=(), last_start=10,
    timestamps=False,
)  # fmt: skip


@pytest.fixture(scope="module")
def compiled():
    return whisper.load_model(Checkpoint("small", None, SMALL, random=True), "cpu", compiled=True)


def encode_small(model, windows: int):
    mels = np.random.default_rng(windows).normal(size=(windows, SMALL.mels, 2 * SMALL.audio_positions))
    return model.encode(mels.astype(np.float32))


def decode_small(model, kind, windows: int, limit: int) -> list[list[int]]:
    texts = beam_search(WithCache(model, kind), encode_small(model, windows), [55, 56, 60], RULES, 2, limit)
    return [text.tokens for text in texts]


def test_the_compiled_step_gives_the_same_tokens_and_is_never_compiled_again(compiled):
    plain = torch_model.Whisper(SMALL, torch_model.Components())
    plain.load_state_dict(compiled.state_dict())
    start = xp.graphs_compiled()
    assert decode_small(compiled, StaticCache, 2, 6) == decode_small(plain.eval(), DynamicCache, 2, 6)
    warm = xp.graphs_compiled()
    assert warm == start + 1
    assert decode_small(compiled, StaticCache, 2, 30) == decode_small(plain, DynamicCache, 2, 30)  # other lengths
    assert xp.graphs_compiled() == warm
    decode_small(compiled, StaticCache, 1, 6)
    assert xp.graphs_compiled() == warm + 1  # another number of rows: the count can see it


def test_rows_that_end_leave_the_graph_as_it_is(compiled):
    cache = start_cache(compiled, encode_small(compiled, 4), StaticCache())
    compiled.prefill(np.full((4, 3), 7), cache)
    compiled.select_rows(np.array([0, 2, 3]), cache)
    compiled.decode_step(np.full(3, 8), cache)
    warm = xp.graphs_compiled()
    compiled.select_rows(np.array([1]), cache)
    selected = compiled.decode_step(np.full(1, 9), cache)
    assert xp.graphs_compiled() == warm
    alone = start_cache(compiled, encode_small(compiled, 4)[2:3], StaticCache())
    assert np.abs(selected - compiled.prefill(np.array([[7, 7, 7, 8, 9]]), alone)[:, -1]).max() < 1e-4


def test_a_missing_compiler_is_named(compiled, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    model = whisper.load_model(Checkpoint("small", None, SMALL, random=True), "cpu", compiled=True)
    cache = start_cache(model, encode_small(model, 1), StaticCache())
    model.prefill(np.array([[1, 2]]), cache)
    with pytest.raises(NotAvailable, match="no-such-compiler"):
        model.decode_step(np.array([3]), cache)
