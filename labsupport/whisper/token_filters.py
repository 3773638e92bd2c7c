"""Which tokens the decoder may say next: suppressed tokens and the rules of timestamps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from labsupport.base.errors import CheckpointError
from labsupport.checkpoints.config import Config
from labsupport.checkpoints.resolve import Checkpoint
from labsupport.checkpoints.settings import read_generation
from labsupport.speech.text import Tokenizer


@dataclass(frozen=True)
class TokenRules:
    """What the decoder may say where.

    suppressed: tokens never said (noises, brackets); suppressed_first: nor these at the start (a blank, the end).
    last_start: the highest timestamp that a text may begin with, counted in timestamp tokens (50 is 1 s).
    sot: the start of the transcript, after which the probability of no speech is read; a prompt without one has it at
        its first token.
    """

    eot: int
    no_timestamps: int
    no_speech: int
    timestamp_begin: int
    suppressed: tuple[int, ...]
    suppressed_first: tuple[int, ...]
    last_start: int
    timestamps: bool = True
    sot: int = -1

    @classmethod
    def from_folder(
        cls, folder: Path, tokenizer: Tokenizer, timestamps: bool = True, config: Config | None = None
    ) -> TokenRules:
        """Reads the lists of suppressed tokens from `generation_config.json`.

        CheckpointError: the file is damaged, or a token in it is none of `config`'s vocabulary.
        """
        settings = read_generation(Path(folder), config)
        latest = settings.get("max_initial_timestamp_index")
        return cls(
            eot=tokenizer.eot,
            no_timestamps=tokenizer.no_timestamps,
            no_speech=tokenizer.no_speech,
            timestamp_begin=tokenizer.timestamp_begin,
            suppressed=tuple(settings.get("suppress_tokens") or ()),
            suppressed_first=tuple(settings.get("begin_suppress_tokens") or ()),
            last_start=50 if latest is None else latest,
            timestamps=timestamps,
            sot=tokenizer.sot,
        )


def check_vocabulary(tokenizer: Tokenizer, checkpoint: Checkpoint) -> None:
    """CheckpointError where the tokenizer has a token that the model has not."""
    if tokenizer.size > checkpoint.config.vocab_size:
        what = f"The tokenizer has a token {tokenizer.size - 1}; the model has {checkpoint.config.vocab_size} of them."
        raise CheckpointError(what, where=checkpoint.folder, hint="Is the tokenizer another model's?")


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities along the last axis."""
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def make_prompt(tokenizer: Tokenizer, language: str | None, task: str = "transcribe", timestamps: bool = True) -> list:
    """The tokens that tell the decoder what to do; English-only models (language None) know no other task."""
    prompt = [tokenizer.sot]
    if language is not None:
        prompt += [tokenizer.languages[language], getattr(tokenizer, task)]
    return prompt if timestamps else [*prompt, tokenizer.no_timestamps]


def add_context(
    prompt: list[int], tokenizer: Tokenizer, previous: Sequence[int], hotwords: Sequence[int], config: Config
) -> list[int]:
    """The prompt with what was said before it: hotwords, then the last tokens of the previous text."""
    if not previous and not hotwords:
        return prompt
    room = count_previous_room(config, len(hotwords))
    return [tokenizer.sot_prev, *hotwords, *(list(previous)[-room:] if room > 0 else ()), *prompt]


def count_previous_room(config: Config, hotwords: int) -> int:
    """How many tokens of the previous text a window is given beside so many of hotwords.

    Both together fill at most half of the decoder's positions, less one for `sot_prev`: the other half is for the text.
    """
    return max(0, config.text_positions // 2 - 1 - hotwords)


def forbid_timestamps(row: np.ndarray, text: list[int], rules: TokenRules) -> None:
    """Writes -inf over what the timestamp rules forbid after `text`: (vocab,) in place.

    Timestamps come in pairs (end of one segment, start of the next), never go back, and a segment is never empty.
    Source: Radford et al. 2022, section 4.5; ApplyTimestampRules in openai-whisper.
    """
    begin = rules.timestamp_begin
    row[rules.no_timestamps] = -np.inf
    if not text:
        row[:begin] = -np.inf
        row[begin + rules.last_start + 1 :] = -np.inf
        return
    last = text[-1] >= begin
    pair = len(text) < 2 or text[-2] >= begin
    if last and pair:
        row[begin:] = -np.inf
    elif last:
        row[: rules.eot] = -np.inf
    said = [token for token in text if token >= begin]
    if said:
        row[begin : said[-1] + (0 if last and not pair else 1)] = -np.inf


def prefer_timestamp(row: np.ndarray, rules: TokenRules) -> None:
    """If all timestamps together are likelier than any one word, a timestamp it must be: (vocab,) in place."""
    text_max, stamps = row[: rules.timestamp_begin].max(), row[rules.timestamp_begin :]
    top = stamps.max()
    if np.isfinite(top) and top + np.log(np.exp(stamps - top).sum()) > text_max:
        row[: rules.timestamp_begin] = -np.inf


def filter_logits(logits: np.ndarray, texts: list[list[int]], rules: TokenRules) -> np.ndarray:
    """A copy of `logits` (rows, vocab), -inf where a rule forbids the token after the row's text."""
    allowed = logits.copy()
    allowed[:, list(rules.suppressed)] = -np.inf
    for row, text in zip(allowed, texts, strict=True):
        if not text:
            row[list(rules.suppressed_first)] = -np.inf
        if rules.timestamps:
            forbid_timestamps(row, text, rules)
            prefer_timestamp(row, rules)
    return allowed
