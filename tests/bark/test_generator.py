"""Bark: fused attention, stages, voices, caches of fixed size, all against transformers' own."""

from __future__ import annotations

import contextlib
import pickle

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from labsupport.bark import models, voices
from labsupport.bark.attention import BarkSdpaAttention
from labsupport.bark.generator import DRAWN, Speaker
from labsupport.bark.static_cache import StaticSpeaker, choose
from labsupport.bark.tokens import encode_text
from labsupport.base.errors import BarkError
from labsupport.benchmarks import bark
from labsupport.optim import offload

LENGTH = 25  # tokens; 74 coarse codes: two windows
TEXTS = ("a short sentence", "and another one, which has a few words more than the first")
PARTS = ("semantic", "coarse", "fine", "audio")


@pytest.fixture(scope="module", autouse=True)
def quiet_library():
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()  # of an attention mask that Bark has no use for
    yield
    transformers.logging.set_verbosity(before)


@pytest.fixture(scope="module")
def eager():
    return models.load("bark-lesson")


@pytest.fixture(scope="module")
def fused():
    return models.load("bark-lesson", "sdpa")


@pytest.fixture(scope="module")
def tokens():
    return encode_text(TEXTS, "bark-lesson")


@pytest.fixture(scope="module")
def spoken(eager, tokens):
    return Speaker(eager).speak(*tokens, LENGTH)


def say_with_transformers(model, tokens, voice=None):
    """The sound of transformers' own `generate`."""
    history = voice and voice.tensors(model.device)
    lengths = {"semantic_min_new_tokens": LENGTH, "semantic_max_new_tokens": LENGTH}
    return model.generate(tokens[0], attention_mask=tokens[1], history_prompt=history, do_sample=False, **lengths)


def assert_same(first, second):
    for part in PARTS:
        assert torch.equal(getattr(first, part), getattr(second, part)), part


# --- shapes and weights ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "millions"), [("bark-small", (404, 405)), ("bark", (1100, 1101))])
def test_the_shapes_have_the_size_of_sunos_checkpoints(name, millions):
    with torch.device("meta"), models.no_init_weights():
        model = transformers.BarkModel(models.make_config(name))
        model.tie_weights()
    causal = (model.semantic, model.coarse_acoustics)
    blocks = sum(p.numel() for stage in causal for p in stage.layers.parameters()) / len(causal)
    width, layers, _ = models.SHAPES[name]
    assert blocks == layers * (12 * width**2 + 2 * width)
    every = sum(p.numel() for p in model.parameters()) / 1e6
    assert millions[0] < every < millions[1]


def test_the_same_seed_gives_the_same_weights_and_another_one_others(eager):
    again, other = models.load("bark-lesson"), models.load("bark-lesson", seed=1)
    mine, same, different = (dict(m.named_parameters()) | dict(m.named_buffers()) for m in (eager, again, other))
    assert mine.keys() == same.keys()
    assert all(torch.equal(tensor, same[name]) for name, tensor in mine.items())
    assert not torch.equal(mine["semantic.input_embeds_layer.weight"], different["semantic.input_embeds_layer.weight"])


def test_fine_heads_are_the_tables_that_they_share(eager):
    fine = eager.fine_acoustics
    assert all(
        head.weight is table.weight for head, table in zip(fine.lm_heads, fine.input_embeds_layers[1:], strict=True)
    )


def test_an_unknown_name_says_what_there_is(tmp_path):
    with pytest.raises(BarkError, match="bark-small"):
        models.make_config("bark-medium")
    with pytest.raises(BarkError, match="random: bark, bark-small"):
        models.load(str(tmp_path / "nothing"))


def test_a_folder_is_loaded_as_a_hub_would_be(eager, tokens, tmp_path):
    eager.save_pretrained(tmp_path)
    again = models.load(str(tmp_path), "sdpa")
    assert_same(Speaker(eager).speak(*tokens, 5), Speaker(again).speak(*tokens, 5))


# --- attention -------------------------------------------------------------------------------------------------------


@given(causal=st.booleans(), queries=st.integers(1, 6), past=st.integers(0, 5), rows=st.integers(1, 3), data=st.data())
def test_fused_attention_is_transformers(causal, queries, past, rows, data):
    config = models.make_config("bark-lesson").semantic_config
    keys = queries + (past if causal else 0)
    random = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    q, k, v = (torch.randn(rows, 2, n, 8, generator=random) for n in (queries, keys, keys))
    kept = torch.tensor(data.draw(st.lists(st.booleans(), min_size=keys, max_size=keys)))
    kept[0] = True
    mask = data.draw(st.sampled_from([None, "numbers"]))
    if mask:
        mask = torch.zeros(rows, 1, 1, keys).masked_fill(~kept, torch.finfo(torch.float32).min)
    theirs = transformers.models.bark.modeling_bark.BarkSelfAttention(config, is_causal=causal)
    ours = BarkSdpaAttention(config, is_causal=causal)
    theirs.head_dim = 8
    torch.testing.assert_close(ours._attn(q, k, v, mask)[0], theirs._attn(q, k, v, mask)[0])
    if mask is not None:
        torch.testing.assert_close(ours._attn(q, k, v, kept[None, None, None])[0], theirs._attn(q, k, v, mask)[0])


def test_a_fused_kernel_refuses_a_head_mask():
    attention = BarkSdpaAttention(models.make_config("bark-lesson").semantic_config, is_causal=True)
    x = torch.zeros(1, 4, 3, 32)
    with pytest.raises(NotImplementedError, match="eager"):
        attention._attn(x, x, x, None, head_mask=torch.ones(4))


def test_fused_is_what_is_loaded_and_says_the_same(spoken, fused, tokens):
    kinds = {type(module) for module in fused.modules() if hasattr(module, "att_proj")}
    assert kinds == {BarkSdpaAttention}
    assert_same(spoken, Speaker(fused).speak(*tokens, LENGTH))


# --- stages ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("voice", [None, voices.make_random()])
def test_stage_by_stage_is_transformers_generate(eager, tokens, voice):
    speech = Speaker(eager, voice).speak(*tokens, LENGTH)
    assert torch.equal(speech.audio, say_with_transformers(eager, tokens, voice))


def test_each_stages_rate_is_what_the_page_says(spoken):
    frames = int(LENGTH * 75 / 49.9)
    assert [tuple(getattr(spoken, part).shape) for part in PARTS] == [
        (2, LENGTH),
        (2, 2 * frames),
        (2, 8, frames),
        (2, 320 * frames),
    ]
    assert spoken.audio.dtype == torch.float32


def test_every_stage_is_watched_in_turn(eager, tokens):
    seen = []

    @contextlib.contextmanager
    def watch(stage):
        seen.append(stage)
        yield

    Speaker(eager, watch=watch).speak(*tokens, 3)
    assert seen == list(models.stages(eager))


def test_texts_of_other_lengths_do_not_change_a_row(eager, spoken):
    alone = Speaker(eager).speak(*encode_text(TEXTS[:1], "bark-lesson"), LENGTH)
    assert torch.equal(alone.fine[0], spoken.fine[0])


def test_a_text_that_bark_would_cut_off_is_refused():
    with pytest.raises(BarkError, match="257 tokens"):
        encode_text(["one", "word " * 257], "bark-lesson")
    assert encode_text(["word " * 256], "bark-lesson")[1].all()


# --- caches of fixed size --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("voice", [None, voices.make_random(), voices.make_random(9.0)], ids=["none", "short", "long"])
def test_static_caches_say_the_same(fused, tokens, voice):
    assert_same(Speaker(fused, voice).speak(*tokens, LENGTH), StaticSpeaker(fused, voice).speak(*tokens, LENGTH))


def test_static_caches_say_the_same_when_the_windows_slide(fused, tokens):
    """680 codes and more: the newest 630 are read."""
    one = tokens[0][:1], tokens[1][:1]
    semantic = Speaker(fused).semantic(*one, 230)
    assert torch.equal(StaticSpeaker(fused).coarse(semantic), Speaker(fused).coarse(semantic))


def test_static_caches_draw_the_same(fused, tokens):
    spoken = []
    for kind in (Speaker, StaticSpeaker):
        torch.manual_seed(5)
        spoken.append(kind(fused, choice=DRAWN).speak(*tokens, LENGTH))
    assert_same(*spoken)
    assert not torch.equal(spoken[0].semantic, Speaker(fused).semantic(*tokens, LENGTH))


def test_a_compiled_step_says_the_same(fused, tokens):
    speaker = StaticSpeaker(fused, compiled=True)
    assert torch.equal(speaker.semantic(*tokens, 6), Speaker(fused).semantic(*tokens, 6))


def test_drawn_tokens_follow_the_temperature_and_stay_in_the_allowed_part():
    torch.manual_seed(0)
    scores = torch.tensor([[9.0, 0.0, 1.0, 2.0]]).repeat(20_000, 1)
    drawn = choose(scores, slice(1, None), {"do_sample": True, "temperature": 0.5})
    found = torch.bincount(drawn.flatten(), minlength=4) / len(scores)
    expected = torch.tensor([0.0, *(torch.tensor([0.0, 1.0, 2.0]) / 0.5).softmax(-1)])
    assert (found - expected).abs().max() < 0.01


# --- offload ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefetch", [False, True])
@pytest.mark.parametrize("shelf", ["memory", "disk"])
def test_offloaded_it_says_the_same_in_both_ways(eager, spoken, tokens, tmp_path, shelf, prefetch):
    place = offload.MemoryShelf("cpu") if shelf == "memory" else offload.DiskShelf(tmp_path)
    offloader = offload.Offloader(models.stages(eager), place, prefetch)
    try:
        assert_same(spoken, Speaker(eager).speak(*tokens, LENGTH))
        assert torch.equal(spoken.audio, say_with_transformers(eager, tokens))
    finally:
        offloader.remove()
    assert torch.equal(spoken.semantic, Speaker(eager).semantic(*tokens, LENGTH))


@pytest.mark.parametrize("compiled", [False, True])
def test_static_caches_and_offload_go_together(fused, spoken, tokens, tmp_path, compiled):
    speaker = StaticSpeaker(fused, compiled=compiled)
    offloader = offload.Offloader(speaker.stages(), offload.DiskShelf(tmp_path))
    try:
        for _ in range(2):  # the second time with what was compiled, and weights from a second fetch
            assert_same(spoken, speaker.speak(*tokens, LENGTH))
        assert {span.stage for span in offloader.spans if span.kind == "fetch"} == set(bark.STAGES)
    finally:
        offloader.remove()
    assert_same(spoken, speaker.speak(*tokens, LENGTH))


# --- voices ----------------------------------------------------------------------------------------------------------


def test_a_voice_comes_back_from_its_file(tmp_path):
    voice = voices.make_random(seed=3)
    voices.write(voice, tmp_path / "me.npz")
    again = voices.read(tmp_path / "me.npz")
    assert all(np.array_equal(getattr(voice, part), getattr(again, part)) for part in ("semantic", "coarse", "fine"))
    assert [file.name for file in tmp_path.iterdir()] == ["me.npz"]
    assert (voice.semantic.shape, voice.coarse.shape) == ((100,), (2, 150))


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_voice_that_needs_pickle_is_not_read(tmp_path):
    parts = vars(voices.make_random()).copy()
    parts["semantic"] = np.array([Bomb(tmp_path / "ran")], dtype=object)
    np.savez(tmp_path / "bad.npz", **{f"{part}_prompt": array for part, array in parts.items()})
    with pytest.raises(BarkError, match="pickle"):
        voices.read(tmp_path / "bad.npz")
    assert not (tmp_path / "ran").exists()
    (tmp_path / "bare.npz").write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    with pytest.raises(BarkError, match="no voice"):
        voices.read(tmp_path / "bare.npz")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fine": None}, "lacks fine_prompt"),
        ({"coarse": np.zeros((3, 5), int)}, r"coarse_prompt has the shape \(3, 5\), not \(2, n\)"),
        ({"semantic": np.zeros((2, 5), int)}, r"not \(n\)"),
        ({"semantic": np.zeros(0, int)}, r"the shape \(0,\)"),
        ({"fine": np.full((8, 4), 1024)}, "0 to 1023"),
        ({"semantic": np.array([-1, 4])}, "from -1"),
        ({"semantic": np.array([0.5, 1.0])}, "float64"),
    ],
)
def test_a_wrong_voice_says_what_is_wrong(tmp_path, changes, message):
    parts = vars(voices.make_random()) | changes
    given = {f"{part}_prompt": array for part, array in parts.items() if array is not None}
    np.savez(tmp_path / "bad.npz", **given)
    with pytest.raises(BarkError, match=message):
        voices.read(tmp_path / "bad.npz")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", b"no archive at all"])
def test_a_file_that_is_no_npz_is_no_voice(tmp_path, content):
    (tmp_path / "bad.npz").write_bytes(content)
    with pytest.raises(BarkError):
        voices.read(tmp_path / "bad.npz")


def test_a_single_array_is_no_voice(tmp_path):
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(BarkError):
        voices.read(tmp_path / "one.npy")
    with pytest.raises(BarkError, match="no such voice"):
        voices.read(tmp_path / "none.npz")
