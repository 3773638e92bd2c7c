"""The shape of every Whisper model, under the names of Hugging Face's `config.json`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

HF_NAMES = {  # where they differ from ours
    "heads": "encoder_attention_heads",
    "mels": "num_mel_bins",
    "audio_positions": "max_source_positions",
    "text_positions": "max_target_positions",
}


@dataclass(frozen=True)
class Config:
    """The sizes that fix a Whisper's architecture.

    Source: Radford et al. 2022, table 1; vocabulary and mel counts from the published `config.json` files.
    """

    d_model: int
    encoder_layers: int
    decoder_layers: int
    heads: int
    vocab_size: int = 51865
    mels: int = 80
    audio_positions: int = 1500  # encoder frames of a 30 s window
    text_positions: int = 448  # longest text that the decoder can hold, in tokens

    @property
    def head_dim(self) -> int:
        return self.d_model // self.heads

    @property
    def ffn_dim(self) -> int:
        return 4 * self.d_model

    @property
    def multilingual(self) -> bool:
        """English-only vocabularies have 51864 entries, all others more."""
        return self.vocab_size >= 51865

    @classmethod
    def from_hf(cls, hf: dict) -> Config:
        """From the content of a `config.json`; KeyError where it lacks a field."""
        return cls(**{field.name: hf[HF_NAMES.get(field.name, field.name)] for field in fields(cls)})

    def to_hf(self) -> dict:
        """The fields of `transformers.WhisperConfig` that depend on the size."""
        sizes = {HF_NAMES.get(name, name): size for name, size in asdict(self).items()}
        ffn = dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), self.ffn_dim)
        return {**sizes, "decoder_attention_heads": self.heads, **ffn}


SIZES = {
    "tiny.en": Config(384, 4, 4, 6, 51864),
    "tiny": Config(384, 4, 4, 6),
    "base.en": Config(512, 6, 6, 8, 51864),
    "base": Config(512, 6, 6, 8),
    "small.en": Config(768, 12, 12, 12, 51864),
    "small": Config(768, 12, 12, 12),
    "medium.en": Config(1024, 24, 24, 16, 51864),
    "medium": Config(1024, 24, 24, 16),
    "large-v2": Config(1280, 32, 32, 20),
    "large-v3": Config(1280, 32, 32, 20, 51866, mels=128),
    "large-v3-turbo": Config(1280, 32, 4, 20, 51866, mels=128),
}
