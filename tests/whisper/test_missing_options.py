"""Whisper's options that the command lacks."""

from __future__ import annotations

import typer

from labsupport import cli
from labsupport.whisper.missing_options import INSTEAD

WHISPER = """
model model_dir device output_dir output_format verbose task language temperature best_of beam_size patience
length_penalty suppress_tokens initial_prompt carry_initial_prompt condition_on_previous_text fp16
temperature_increment_on_fallback compression_ratio_threshold logprob_threshold no_speech_threshold word_timestamps
prepend_punctuations append_punctuations highlight_words max_line_width max_line_count max_words_per_line threads
clip_timestamps hallucination_silence_threshold
"""  # openai-whisper 20250625, whisper/transcribe.py


def test_each_of_whispers_options_is_either_here_or_explained():
    parameters = typer.main.get_command(cli.app).commands["transcribe"].params
    ours = {name for parameter in parameters for name in parameter.opts}
    whispers = {f"--{name.replace('_', '-')}" for name in WHISPER.split()}
    assert whispers - ours == set(INSTEAD) - {"--compute-type"}  # faster-whisper's
    assert all(words.strip() for words in INSTEAD.values())
