"""The corpus of spoken sentences: its texts, its recordings, its card, and the script that makes it."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import itertools
import re
import shutil

import numpy as np
import pytest
import soundfile

from labsupport.base.errors import AudioError
from labsupport.base.paths import read_toml
from labsupport.speech import corpus
from labsupport.speech.text import normalise

COUNTS = {"train": 64, "held_out": 24}
CARD = read_toml(corpus.CORPUS / "corpus.toml")
SCRIPT = read_toml(corpus.CORPUS / "sentences.toml")
SPOKEN = {split: corpus.load(split) for split in COUNTS}
TWO_SPELLINGS = re.compile(r"(?i)(quant|optim|normal|recogn)i[sz]|learn(ed|t)\b|adapt[eo]r|kilohertz|per ?cent")
EVERY_TEXT = SCRIPT["train"] + SCRIPT["held_out"]


normal = functools.cache(normalise)


def load_maker():
    spec = importlib.util.spec_from_file_location("make_corpus", corpus.CORPUS / "make_corpus.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make_corpus = load_maker()
PROBLEM = make_corpus.find_problem()
needs_flite = pytest.mark.skipif(PROBLEM is not None, reason=f"{PROBLEM}; the stored recordings are tested")


def level(samples: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(samples))))


def has(term: str, text: str) -> bool:
    """Whether `text` has the whole words of `term`, as a fair comparison sees them."""
    return f" {normal(term)} " in f" {normal(text)} "


# --- the texts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", COUNTS)
def test_the_card_has_the_sentences_as_they_are_written(split):
    assert len(SCRIPT[split]) == COUNTS[split]
    assert [sentence.text for sentence in SPOKEN[split]] == SCRIPT[split]


def test_no_held_out_sentence_is_near_a_training_sentence():
    words = {text: set(normal(text).split()) for text in EVERY_TEXT}
    assert len(words) == len(EVERY_TEXT)
    for new, known in itertools.product(SCRIPT["held_out"], SCRIPT["train"]):
        shared = len(words[new] & words[known]) / len(words[new] | words[known])
        assert shared < 0.4, f"{new!r} is too near {known!r}"


def test_a_held_out_term_is_in_two_training_sentences():
    counts = {term: [sum(has(term, text) for text in SCRIPT[split]) for split in COUNTS] for term in SCRIPT["terms"]}
    assert {term: count for term, count in counts.items() if count[0] < 2 or count[1] < 1} == {}


def test_every_held_out_sentence_has_a_term():
    assert [text for text in SCRIPT["held_out"] if not any(has(term, text) for term in SCRIPT["terms"])] == []


def test_sentences_can_be_compared_fairly():
    for text in EVERY_TEXT:
        assert re.fullmatch(r"[A-Z][A-Za-z, -]+\.", text), f"{text}: letters, commas and hyphens only, one sentence"
        assert 8 <= len(text.split()) <= 16, text
        assert not TWO_SPELLINGS.search(text), text


# --- the recordings and their card -------------------------------------------------------------------------------


@pytest.mark.parametrize("split", COUNTS)
def test_a_recording_is_what_the_card_says(split):
    path = corpus.CORPUS / CARD[split]["file"]
    info = soundfile.info(path)
    assert (info.samplerate, info.channels) == (CARD["sample_rate"], 1) == (16_000, 1)
    assert info.frames / 16_000 == CARD[split]["seconds"]
    assert hashlib.sha256(path.read_bytes()).hexdigest() == CARD[split]["sha256"]


@pytest.mark.parametrize("split", COUNTS)
def test_samples_are_speech_of_a_sentence_s_length(split):
    for sentence in SPOKEN[split]:
        assert sentence.samples.dtype == np.float32
        assert sentence.samples.ndim == 1
        assert np.isfinite(sentence.samples).all()
        assert 1 <= len(sentence.samples) / 16_000 <= 12
        assert level(sentence.samples) > 0.03


@pytest.mark.parametrize("split", COUNTS)
def test_boundaries_do_not_cut_speech(split):
    edge = round(0.02 * 16_000)
    for sentence in SPOKEN[split]:
        ends = level(sentence.samples[:edge]), level(sentence.samples[-edge:])
        assert max(ends) < 0.1 * level(sentence.samples), sentence.text


@pytest.mark.parametrize("split", COUNTS)
def test_the_voices_take_turns(split):
    voices = [entry["voice"] for entry in CARD["sentences"] if entry["split"] == split]
    assert [sentence.voice for sentence in SPOKEN[split]] == voices
    assert voices == [voice for voice, _ in zip(itertools.cycle(("slt", "rms", "awb")), voices, strict=False)]


@pytest.mark.parametrize("split", COUNTS)
def test_sentences_follow_each_other_with_a_pause(split):
    entries = [entry for entry in CARD["sentences"] if entry["split"] == split]
    pauses = [after["start"] - before["end"] for before, after in itertools.pairwise(entries)]
    assert pauses == pytest.approx([0.3] * len(pauses), abs=2e-3)


def test_the_card_names_sources_and_licences():
    assert "sentences.toml" in CARD["source"]
    assert all(name in CARD["licence"] for name in (SCRIPT["licence"], "flite", "BSD"))
    assert "CMU Arctic" in CARD["voices"]
    assert CARD["generator"].startswith("flite-")
    assert "flite -voice" in CARD["command"]


def test_the_corpus_is_small():
    files = [path for path in corpus.CORPUS.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 1.5e6


# --- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["test", None])
def test_an_unknown_split_has_an_error_that_names_the_known_ones(split):
    with pytest.raises(AudioError, match=r"train, held_out"):
        corpus.load(split)


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """Gives a function that puts other times into a copy of the corpus, for its second held-out sentence."""
    shutil.copy(corpus.CORPUS / "held_out.ogg", tmp_path)
    card = (corpus.CORPUS / "corpus.toml").read_text(encoding="utf-8")
    head, first, second, *rest = re.split(r'(?=\[\[sentences\]\]\nsplit = "held_out")', card)
    monkeypatch.setattr(corpus, "CORPUS", tmp_path)

    def plant(start: str, end: str) -> None:
        changed = re.sub(r"start = .*\nend = .*", f"start = {start}\nend = {end}", second)
        (tmp_path / "corpus.toml").write_text("".join([head, first, changed, *rest]), encoding="utf-8")

    return plant


def test_times_inside_of_the_recording_are_taken(planted):
    planted("0.5", "1.75")
    assert len(corpus.load("held_out")[1].samples) == 20_000


@pytest.mark.parametrize(
    ("start", "end"),
    [("-0.1", "2.0"), ("110.0", "113.0"), ("4.0", "4.0"), ("9.0", "4.0"), ("500.0", "501.0"), ("nan", "4.0")],
)
def test_times_outside_of_the_recording_have_an_error(planted, start, end):
    planted(start, end)
    with pytest.raises(AudioError, match=re.escape(SCRIPT["held_out"][1])) as caught:
        corpus.load("held_out")
    assert caught.value.hint


# --- the script that makes it ------------------------------------------------------------------------------------


def test_words_are_respelled_whole_and_in_any_case():
    assert (
        make_corpus.respell("A WER, were we in ONNX?", {"wer": "W E R", "onnx": "onnix"})
        == "A W E R, were we in onnix?"
    )


def test_every_respelling_is_used():
    words = {word.lower() for text in EVERY_TEXT for word in re.findall(r"\w+", text)}
    assert set(SCRIPT["spoken"]) <= words


def test_joined_sentences_lie_where_join_says():
    parts = [np.full(size, size, np.float32) for size in (1600, 800, 3200)]
    samples, places = make_corpus.join(parts)
    assert len(samples) == 5600 + 3 * 4800
    for part, (start, end) in zip(parts, places, strict=True):
        np.testing.assert_array_equal(samples[round(start * 16_000) : round(end * 16_000)], part)


def test_without_flite_the_script_says_what_to_install(monkeypatch):
    monkeypatch.setattr(make_corpus.shutil, "which", lambda _: None)
    with pytest.raises(SystemExit, match="apt install flite"):
        make_corpus.main()


@needs_flite
def test_a_voice_that_flite_lacks_is_named(monkeypatch):
    monkeypatch.setattr(make_corpus, "VOICES", ("slt", "nobody"))
    with pytest.raises(SystemExit, match="no voice nobody"):
        make_corpus.main()


@needs_flite
def test_the_script_makes_a_sentence_as_long_as_the_stored_one():
    stored = SPOKEN["held_out"][6]
    made = make_corpus.speak(make_corpus.respell(stored.text, SCRIPT["spoken"]), stored.voice)
    assert abs(len(made) - len(stored.samples)) / 16_000 < 0.1
