"""Bark's shapes and random weights."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from model_hub import COMMIT, serve_hub
from safetensors.torch import load_file, save_file
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


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with a Bark, and its settings, to be spoiled."""
    folder = tmp_path_factory.mktemp("bark")
    config = models.make_config("bark-lesson")
    for part in (config.semantic_config, config.coarse_acoustics_config, config.fine_acoustics_config):
        part.hidden_size, part.num_layers, part.num_heads, part.block_size = 8, 1, 2, 8
        part.input_vocab_size = part.output_vocab_size = 16
    models.make_random(config, "eager", 0).save_pretrained(folder)
    return folder, (folder / "config.json").read_text()


def part(**entries):
    return lambda settings: settings | {"semantic_config": settings["semantic_config"] | entries}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda settings: [], "holds a list"),
        (lambda settings: settings | {"model_type": "whisper"}, "no Bark"),
        (lambda settings: settings | {"semantic_config": None}, "lack semantic_config"),
        (part(hidden_size="8"), "hidden_size is '8'"),
        (part(num_layers=10**9), "num_layers is 1000000000"),
        (part(num_heads=0), "num_heads is 0"),
        (part(num_heads=3), "no Bark"),
        (part(hidden_size=16), "no Bark|not those"),
        (part(num_layers=2), "no Bark|not those"),
        (part(input_vocab_size=17), "no Bark|not those"),
        (part(dropout="none"), "no Bark"),
        (lambda settings: settings | {"codec_config": 7}, "no Bark"),
    ],
)
def test_settings_that_are_not_the_weights_are_refused(saved, spoil, message):
    folder, whole = saved
    (folder / "config.json").write_text(json.dumps(spoil(json.loads(whole))))
    with pytest.raises(BarkError, match=message):
        models.load(str(folder))


@pytest.mark.parametrize("change", ["less", "more"])
def test_a_tensor_less_or_more_is_refused(saved, tmp_path, change):
    folder, whole = saved
    (tmp_path / "config.json").write_text(whole)
    tensors = load_file(folder / "model.safetensors")
    name = "semantic.layers.0.mlp.in_proj.weight"
    changed = (
        tensors | {"more": torch.zeros(1)} if change == "more" else {k: v for k, v in tensors.items() if k != name}
    )
    save_file(changed, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(BarkError, match="1 tensors are not those"):
        models.load(str(tmp_path))


@pytest.mark.parametrize("content", [b"", b"noise" * 100, None])
def test_damaged_or_missing_weights_are_refused(saved, tmp_path, content):
    _, whole = saved
    (tmp_path / "config.json").write_text(whole)
    if content is not None:
        (tmp_path / "model.safetensors").write_bytes(content)
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(BarkError, match=r"damaged|pickled"):
        models.load(str(tmp_path))


def test_offloaded_stages_give_the_same_output(eager, expected, tokens):
    """Through transformers' own `generate` and through ours, in which a stage's turn begins with the same methods."""
    offloader = Offloader(models.stages(eager), MemoryStore("cpu"), prefetch=True)
    try:
        assert_same(expected, BarkGenerator(eager).generate(*tokens, LENGTH))
        assert torch.equal(expected.audio, generate_with_transformers(eager, tokens))
    finally:
        offloader.remove()
    assert torch.equal(expected.semantic, BarkGenerator(eager).semantic(*tokens, LENGTH))


@pytest.fixture
def hub(saved, tmp_path, monkeypatch):
    """A hub with this Bark, and one that has only pickled weights."""
    folder, settings = saved
    (folder / "config.json").write_text(settings)
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    pickled = {"pytorch_model.bin": b"pickle", "config.json": settings.encode()}
    with serve_hub() as server:
        server.RequestHandlerClass.models |= {"someone/bark": whole, "someone/pickled-bark": pickled}
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("LAB_CACHE", str(tmp_path))
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield server.RequestHandlerClass


def test_a_hubs_bark_is_fetched_at_one_commit_and_by_hash(hub, tmp_path):
    model = models.load("someone/bark")
    assert (tmp_path / "hub" / "someone--bark" / COMMIT / "model.safetensors").is_file()
    assert model.config.semantic_config.hidden_size == 8
    hub.misbehave = staticmethod(lambda handler, what, body: what != "listing" and handler.reply(200, body[::-1], {}))
    hub.models["someone/other-bark"] = hub.models["someone/bark"]
    with pytest.raises(BarkError, match="another hash"):
        models.load("someone/other-bark")


def test_an_unknown_bark_is_told_in_one_sentence_with_one_hint():
    with pytest.raises(BarkError) as caught:
        models.load("nowhere")
    assert str(caught.value).count("next:") == 1
    assert caught.value.what == "There is no Bark 'nowhere' here: The hub has no model 'nowhere'."


def test_a_hubs_pickled_bark_is_refused_and_not_fetched(hub):
    with pytest.raises(BarkError, match="only pickled weights, which can run any code"):
        models.load("someone/pickled-bark")
    assert not any("pytorch_model.bin" in path for path in hub.asked)
