"""Whisper's spellings, the options that are whisper's alone, and files whose names begin as options do."""

from __future__ import annotations

import odd_audio
import pytest
from lab_command import invoke

from labsupport.base.paths import AUDIO

JFK = str(AUDIO / "jfk.flac")


@pytest.mark.parametrize(
    ("written", "timed", "condition", "vad"),
    [
        ("--word_timestamps True --condition_on_previous_text False", True, False, True),
        ("--word-timestamps False --condition-on-previous-text True --vad False", False, True, False),
        ("--word_timestamps False", False, True, True),
        ("--vad_filter False --word_timestamps=True", True, True, False),
        ("--vad_filter --fp16 False --highlight_words=False --carry_initial_prompt False", False, True, True),
    ],
)
def test_whispers_values_of_flags_are_no_files(fake, written, timed, condition, vad):
    assert invoke("transcribe", *written.split(), JFK).exit_code == 0
    assert (fake.options["word_timestamps"], fake.options["vad"]) == (timed, vad)
    assert fake.options["guards"].condition_on_previous_text == condition


@pytest.mark.parametrize(
    ("option", "instead"),
    [
        ("--fp16 True", "float32"), ("--fp16", "float32"), ("--verbose False", "--timestamps"), ("--device cpu", "GPU"),
        ("--max_line_width=40", "subtitle editor"), ("--clip-timestamps 0,5", "ffmpeg"), ("--patience 1.0", "Leave it"),
        ("--compute_type int8", "float32"),
    ],
)  # fmt: skip
def test_an_option_of_whisper_that_is_not_here_is_refused_with_what_to_use(fake, option, instead):
    refused = invoke("transcribe", *option.split(), JFK)
    assert refused.exit_code == 2
    shown = " ".join(refused.stderr.replace("│", " ").split())
    assert "is whisper's, and not here" in shown
    assert instead in shown
    assert fake.seconds == []


def test_what_follows_the_options_is_a_file_whatever_its_name(fake):
    assert invoke("transcribe", "--", "--fp16", "True").stderr.count("There is no such file") == 2


@pytest.mark.parametrize(
    "name", ["-clip.wav", "-opening.wav", "-fun.mp3", "--x.flac", "-c\x1b[31m.wav", "-nothing.ogg"]
)
def test_a_name_with_a_leading_dash_is_told_from_an_option(fake, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    if "nothing" not in name:
        (tmp_path / name).write_bytes(odd_audio.build("good.wav"))
    refused = invoke("transcribe", name, JFK)
    assert refused.exit_code == 2
    assert "./-" in refused.stderr
    assert "\x1b" not in refused.stderr
    assert fake.seconds == []
    codes = [invoke("transcribe", *file).exit_code for file in (("--", name), (f"./{name}",))]
    assert codes == ["nothing" in name] * 2


@pytest.mark.parametrize("argument", ["--modle=tiny.en", "--logprob-threshold=-0.5", "--nothing"])
def test_what_is_no_file_gets_no_hint_at_one(fake, argument):
    assert "./-" not in invoke("transcribe", JFK, argument).output
