"""Each graph of the pipeline in ONNX Runtime against torch or NumPy: small random models, and real weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from small_model import start_cache
from small_whisper import SMALL

from labsupport.checkpoints.resolve import find_checkpoint, random_checkpoint
from labsupport.graphs import whisper_graphs
from labsupport.graphs.loop import project_cross_kv
from labsupport.graphs.session import open_session
from labsupport.speech import features
from labsupport.whisper import torch_model

TEXT = [50257, 50362, 843, 11, 616, 5891, 3399]
SMALL_TEXT = np.array([[7, 1, 90, 13, 2], [7, 2, 91, 14, 3], [7, 3, 92, 15, 4]])


def run(model: onnx.ModelProto, **feed) -> dict[str, np.ndarray]:
    return run_session(open_session(model), feed)


def run_session(session, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))


def error(ours: np.ndarray, theirs) -> float:
    assert ours.shape == tuple(theirs.shape)
    return float(np.abs(ours - np.asarray(theirs)).max())


@pytest.fixture(scope="module")
def tiny_en():
    return find_checkpoint("tiny.en")


@pytest.fixture(scope="module")
def encoded(tiny, jfk):
    """mel and encoder_out of JFK's sentence, from torch."""
    mel = features.log_mel(jfk)[None]
    return mel, tiny.ours.model.encode(mel).numpy()


@pytest.fixture(scope="module")
def small():
    """The small model in torch, and three encoded windows."""
    model = torch_model.load_model(SMALL)
    mel = np.random.default_rng(0).normal(size=(3, 80, 60)).astype(np.float32)
    return model, mel, model.encode(mel)


def empty_past(config, beams: int) -> dict[str, np.ndarray]:
    names = (f"past_{letter}.{i}" for i in range(config.decoder_layers) for letter in "kv")
    return {name: np.zeros((beams, 0, config.heads, config.head_dim), np.float32) for name in names}


def take_steps(model: onnx.ModelProto, tokens: np.ndarray, cross: dict, past: dict) -> tuple[np.ndarray, dict]:
    """The growing form, a token at a time: all logits, and what the caches hold at the end."""
    logits, session = [], open_session(model)
    for position, column in enumerate(tokens.T):
        out = run_session(session, {"tokens": column[:, None], "position": np.array([position]), **cross, **past})
        logits.append(out.pop("logits"))
        past = {f"past_{name}": array for name, array in out.items()}
    return np.concatenate(logits, axis=1), past


@pytest.mark.parametrize("seconds", [0.0, 3.3, 30.0, 41.234])
def test_features_equal_numpys(narration, seconds):
    samples = narration[: max(1, int(seconds * 16_000))]
    mel = run(whisper_graphs.features(SMALL), samples=samples[None])["mel"][0]
    assert error(mel, features.log_mel(samples)) < 1e-4


def test_features_have_as_many_bands_as_the_model_wants():
    checkpoint = random_checkpoint("large-v3")
    samples = np.sin(0.1 * np.arange(16_000)).astype(np.float32)
    mel = run(whisper_graphs.features(checkpoint), samples=samples[None])["mel"][0]
    assert error(mel, features.log_mel(samples, 128)) < 1e-4


def test_encoder_equals_torch(small):
    _, mel, encoder_out = small
    assert error(run(whisper_graphs.encoder(SMALL), mel=mel)["encoder_out"], encoder_out) < 1e-5


@pytest.mark.weights
def test_the_real_encoder_and_decoder_step_equal_torch_over_several_steps(tiny, tiny_en, encoded):
    mel, encoder_out = encoded
    assert error(run(whisper_graphs.encoder(tiny_en), mel=mel)["encoder_out"], encoder_out) < 1e-4
    tokens = np.stack([TEXT, [*TEXT[:3], 100, 200, 300, 400]])
    step = whisper_graphs.decoder_step(tiny_en, beams=2)
    logits, _ = take_steps(step, tokens, project_cross_kv(tiny_en, encoder_out), empty_past(tiny_en.config, 2))
    with torch.inference_mode():
        expected = tiny.ours.model(torch.from_numpy(mel).repeat(2, 1, 1), torch.from_numpy(tokens))
    assert error(logits, expected) < 1e-4


def test_decoder_step_is_written_as_in_the_article():
    counts = [node.op_type for node in whisper_graphs.decoder_step(SMALL, beams=5).graph.node]
    layers = SMALL.config.decoder_layers
    assert counts.count("Tile") == 2 * layers
    assert counts.count("Concat") == 2 * layers
    assert counts.count("Transpose") == 2 * 4 * layers


def test_a_compiler_may_have_fewer_layers_and_fixed_shapes():
    model = whisper_graphs.decoder_step(SMALL, beams=5, layers=1, capacity=23, logits=False)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    assert [output.name for output in model.graph.output] == ["k.0", "v.0", "hidden"]
    for value in [*inferred.input, *inferred.value_info, *inferred.output]:
        assert all(dim.HasField("dim_value") for dim in value.type.tensor_type.shape.dim), value.name


def test_prefill_gives_logits_and_what_the_loop_goes_on_from(small):
    model, _, encoder_out = small
    tokens, cross_layout = SMALL_TEXT, (0, 2, 1, 3)
    prefill, expected = (
        whisper_graphs.prefill(SMALL, cross_layout),
        model.prefill(tokens, start_cache(model, encoder_out)),
    )
    for kept in (0, 1, 2, tokens.shape[1]):
        out = run(prefill, tokens=tokens, encoder_out=encoder_out.numpy(), logits_to_keep=np.array([kept]))
        assert error(out["logits"], expected[:, -kept:]) < 1e-5
    for name, expected in project_cross_kv(SMALL, encoder_out.numpy()).items():
        assert error(out[name], expected.transpose(cross_layout)) < 1e-5
    step, cross_kv = whisper_graphs.decoder_step(SMALL, beams=1), project_cross_kv(SMALL, encoder_out[:1].numpy())
    _, past = take_steps(step, tokens[:1], cross_kv, empty_past(SMALL.config, 1))
    for name, expected in past.items():
        assert error(out[name.removeprefix("past_")][:1], expected) < 1e-5


@pytest.mark.parametrize("length", [1, 5])
def test_cross_attention_gives_the_weights_of_every_head(small, length):
    model, _, encoder_out = small
    tokens = SMALL_TEXT[:1, :length]
    out = run(whisper_graphs.cross_attention(SMALL), tokens=tokens, encoder_out=encoder_out[:1].numpy())
    assert list(out) == ["weights.0", "weights.1"]
    for layer, weights in enumerate(out.values()):
        expected = model.cross_attention(tokens, encoder_out[:1], [(layer, 0), (layer, 1)])
        assert error(weights[0], expected) < 1e-6


def test_language_gives_the_logits_of_languages_alone(small):
    model, _, encoder_out = small
    logits = run(whisper_graphs.language(SMALL, 7, [50, 40, 60]), encoder_out=encoder_out.numpy())["logits"]
    expected = model.prefill(np.full((3, 1), 7), start_cache(model, encoder_out))[:, 0, [50, 40, 60]]
    assert error(logits, expected) < 1e-5


def test_every_graph_is_valid_for_old_readers_too():
    graphs = [build(SMALL) for build in (whisper_graphs.features, whisper_graphs.encoder, whisper_graphs.prefill)]
    graphs += [build(SMALL) for build in (whisper_graphs.decoder_step, whisper_graphs.loop, whisper_graphs.rearrange)]
    graphs.append(whisper_graphs.cross_attention(SMALL))
    for model in [*graphs, whisper_graphs.language(SMALL, 7, [50])]:
        onnx.checker.check_model(model, full_check=True)
        assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
        assert model.ir_version <= 8


@pytest.mark.parametrize(("beams", "windows"), [(1, 1), (4, 1), (3, 3)])
def test_loop_equals_the_first_form_for_any_number_of_beams(beams, windows):
    config, length = SMALL.config, 4
    rng = np.random.default_rng(beams)
    sizes = {"cross": (windows, config.audio_positions), "past": (beams, length)}
    first = {
        f"{kind}_{letter}.{i}": rng.normal(size=(*size, config.heads, config.head_dim)).astype(np.float32)
        for kind, size in sizes.items()
        for i in range(config.decoder_layers)
        for letter in "kv"
    }
    tokens, position = rng.integers(0, 99, (beams, 1)), np.array([length])
    step = whisper_graphs.decoder_step(SMALL, beams=beams if windows == 1 else 1)
    parts = [slice(None)] if windows == 1 else [slice(i, i + 1) for i in range(beams)]
    feeds = [{"tokens": tokens[p], "position": position, **{n: a[p] for n, a in first.items()}} for p in parts]
    expected = np.concatenate([run(step, **feed)["logits"] for feed in feeds])
    feed = {name: array.transpose(0, 2, 1, 3) for name, array in first.items()}
    room = ((0, 0), (0, 0), (0, config.text_positions - length), (0, 0))
    feed = {name: np.pad(array, room) if "past" in name else array for name, array in feed.items()}
    indices = np.stack(np.meshgrid(np.arange(beams), np.arange(config.heads), [length], indexing="ij"), -1)
    out = run(whisper_graphs.loop(SMALL), tokens=tokens, position=position, indices=indices, **feed)
    assert error(out["logits"], expected) < 1e-5
    assert np.array_equal(out["k.1"][:, :, :length], feed["past_k.1"][:, :, :length])
    assert not out["k.1"][:, :, length + 1 :].any()


def test_rearrange_moves_the_tokens_and_nothing_behind_them():
    config, length, rows = SMALL.config, 5, np.array([2, 0, 0])
    shape = (3, config.heads, config.text_positions, config.head_dim)
    rng = np.random.default_rng(0)
    past = {
        name: rng.normal(size=shape).astype(np.float32) for name in ("past_k.0", "past_v.0", "past_k.1", "past_v.1")
    }
    out = run(whisper_graphs.rearrange(SMALL), rows=rows, length=np.array([length]), **past)
    for name, array in past.items():
        moved = out[name.removeprefix("past_")]
        assert np.array_equal(moved[:, :, :length], array[rows, :, :length])
        assert np.array_equal(moved[:, :, length:], array[:, :, length:])


def test_the_same_checkpoint_gives_the_same_bytes():
    once, again = (whisper_graphs.loop(SMALL).SerializeToString(deterministic=True) for _ in range(2))
    assert once == again
    assert once != whisper_graphs.loop(replace(SMALL, seed=1)).SerializeToString(deterministic=True)
