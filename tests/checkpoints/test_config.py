"""Whisper's sizes, and their way to and from Hugging Face's `config.json`."""

from __future__ import annotations

import pytest

from labsupport.checkpoints.config import SIZES, Config


def test_a_config_is_written_and_read_back():
    assert {size: Config.from_hf(config.to_hf()) for size, config in SIZES.items()} == SIZES


def test_a_missing_field_is_named():
    settings = SIZES["tiny"].to_hf()
    del settings["num_mel_bins"]
    with pytest.raises(KeyError, match="num_mel_bins"):
        Config.from_hf(settings)


def test_only_english_sizes_are_not_multilingual():
    assert {size for size, config in SIZES.items() if not config.multilingual} == {
        size for size in SIZES if size.endswith(".en")
    }
