"""The clips that come with the lab, and their cards."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import soundfile

from labsupport.base.errors import AudioError
from labsupport.base.paths import AUDIO
from labsupport.speech import audio


def find_card_faults(folder: Path) -> list[str]:
    """Lists what is wrong between the cards and the recordings of `folder`."""
    known = {clip.path.name: clip for clip in audio.clips()}
    found = {path.name for path in folder.iterdir() if path.suffix not in (".toml", ".py") and path.is_file()}
    faults = [f"{name} has no card" for name in sorted(found - set(known))]
    faults += [f"{name} is not there" for name in sorted(set(known) - found)]
    for name in sorted(found & set(known)):
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != known[name].sha256:
            faults.append(f"{name} has another hash than its card")
    return faults


def test_every_card_matches_its_file_and_every_file_has_a_card():
    assert find_card_faults(AUDIO) == []


def test_the_card_check_finds_planted_faults(tmp_path, monkeypatch):
    for path in AUDIO.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(audio.paths, "AUDIO", tmp_path)
    assert find_card_faults(tmp_path) == []
    with (tmp_path / "jfk.flac").open("ab") as file:
        file.write(b"\0")
    (tmp_path / "stray.wav").write_bytes(b"RIFF")
    (tmp_path / "narration.flac").unlink()
    assert find_card_faults(tmp_path) == [
        "stray.wav has no card",
        "narration.flac is not there",
        "jfk.flac has another hash than its card",
    ]


@pytest.mark.parametrize("clip", audio.clips(), ids=lambda clip: clip.name)
def test_a_clip_is_what_its_card_says(clip):
    info = soundfile.info(clip.path)
    assert (info.samplerate, info.channels, info.subtype) == (16_000, 1, "PCM_16")
    assert len(audio.read(clip.path)) / 16_000 == clip.seconds
    assert clip.path.stat().st_size < 2e6
    assert clip.text == clip.text.strip()
    assert all((clip.text, clip.source, clip.licence, clip.language))


def test_the_narration_has_article_a_s_length():
    assert 90.5 <= audio.clip("narration").seconds <= 91.5


def test_the_narration_s_samples_have_the_recorded_hash():
    samples, _ = soundfile.read(audio.clip("narration").path, dtype="int16")
    assert hashlib.sha256(samples.tobytes()).hexdigest() in (AUDIO / "narration.toml").read_text(encoding="utf-8")


def test_an_unknown_clip_has_an_error_that_names_the_known_ones():
    with pytest.raises(AudioError, match=r"jfk.*narration"):
        audio.clip("moon landing")
