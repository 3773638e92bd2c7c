"""Whisper's guards against invented text: how a window's text is judged, and decoded again where it fails.

Whisper always says something. In silence, noise or a passage that it cannot follow it says what its training data had
there (thanks for watching), or repeats itself without end. Such texts show: their tokens are improbable, they compress
too well, or the model itself gives silence a high probability.

Source: Radford et al. 2022, section 4.5; `decode_with_fallback` in openai-whisper, transcribe.py.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from labsupport.base.errors import WhisperError
from labsupport.speech.text import Tokenizer
from labsupport.whisper.protocol import EncoderOut, WhisperModel
from labsupport.whisper.search import Hypothesis, decode, find_loop, sample
from labsupport.whisper.token_filters import TokenRules, add_context, count_previous_room
from labsupport.whisper.windows import Cut


@dataclass(frozen=True)
class Guards:
    """What a window's text must be; None turns a threshold off. Names and defaults are openai-whisper's.

    temperatures: 0 decodes by the likeliest tokens; where its text fails, the next temperature draws them, and so on.
    best_of: how many texts are drawn at a temperature above 0; the likeliest is taken.
    compression_ratio_threshold: a text of which a half compresses better than this repeats itself: it fails.
        openai-whisper takes the whole text, but a sentence that is said twice gets 2.5 and more: it is no loop.
    logprob_threshold: a text whose mean log-probability of a token is lower fails.
    no_speech_threshold: where the probability of no speech is higher, a text that fails is silence. openai-whisper
        takes only an unlikely one for it, but in noise and music a loop is what Whisper says most.
    condition_on_previous_text: give the decoder the text before the window, which keeps names and style the same; a
        text above `prompt_reset_temperature` is not given on, for its faults would be repeated.
    seed: of the texts that are drawn: the same sound gives the same text, on every engine.
    """

    temperatures: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    best_of: int = 5
    compression_ratio_threshold: float | None = 2.4
    logprob_threshold: float | None = -1.0
    no_speech_threshold: float | None = 0.6
    condition_on_previous_text: bool = False
    prompt_reset_temperature: float = 0.5
    seed: int = 0

    def is_silence(self, hypothesis: Hypothesis) -> bool:
        """Probably no speech, and a text that fails."""
        silent = self.no_speech_threshold is not None and hypothesis.no_speech_prob > self.no_speech_threshold
        return silent and self.is_bad(hypothesis)

    def is_bad(self, hypothesis: Hypothesis) -> bool:
        """Whether a text is unlikely, or repeats itself."""
        unlikely = self.logprob_threshold is not None and hypothesis.avg_logprob < self.logprob_threshold
        return unlikely or hypothesis.repeats

    def repeats(self, text: str) -> bool:
        """Whether each half of it does what a loop does: what is said twice is in each half once."""
        limit, middle = self.compression_ratio_threshold, len(text) // 2
        return limit is not None and max(compression_ratio(text[:middle]), compression_ratio(text[middle:])) > limit

    def has_rounds(self, hypothesis: Hypothesis) -> bool:
        """Whether a text says something more than once: too little for a loop, but one round may be invented."""
        limit = self.compression_ratio_threshold
        return limit is not None and hypothesis.compression_ratio > limit

    def fails(self, hypothesis: Hypothesis) -> bool:
        """Whether the window must be decoded again, at a higher temperature."""
        return self.is_bad(hypothesis) and not self.is_silence(hypothesis)


NO_GUARDS = Guards((0.0,), 1, None, None, None)


MOST_TEMPERATURES = 100


def parse_temperatures(given: str) -> tuple[float, ...]:
    """ "0,0.2" -> (0.0, 0.2); WhisperError where these are no numbers from 0 on, or too many: each is another try."""
    try:
        temperatures = tuple(float(each) for each in given.split(","))
    except ValueError:
        temperatures = ()
    if not 1 <= len(temperatures) <= MOST_TEMPERATURES or not all(0 <= each < 10 for each in temperatures):
        hint = f"Give 1 to {MOST_TEMPERATURES} numbers from 0 on, with commas: 0,0.2,0.4"
        raise WhisperError(f"{given!r:.100} are no temperatures.", hint=hint)
    return temperatures


def compression_ratio(text: str) -> float:
    """The text's bytes over those of its zlib compression: about 1.5 for ordinary sentences, more for repeated ones."""
    content = text.encode()
    return len(content) / len(zlib.compress(content))


@dataclass
class GuardedDecoder:
    """Decodes windows under guards.

    prompt: the tokens from the start of the transcript on, see `token_filters.make_prompt`.
    hotwords: tokens that stand before the previous text in every window's prompt: names and terms to expect.
    beams: at temperature 0; 1 is greedy. Above it, `best_of` texts are drawn.
    """

    model: WhisperModel
    tokenizer: Tokenizer
    rules: TokenRules
    prompt: list[int]
    hotwords: Sequence[int] = ()
    beams: int = 1
    guards: Guards = field(default_factory=Guards)

    def without_timestamps(self) -> GuardedDecoder:
        """The same, for texts without times."""
        prompt = [*self.prompt, self.rules.no_timestamps]
        return replace(self, rules=replace(self.rules, timestamps=False), prompt=prompt)

    def decode(self, encoder_out: EncoderOut, previous: Sequence[int] = ()) -> list[Hypothesis]:
        """(windows, 1500, d_model) -> a hypothesis for each window that passes the guards, or the best that failed.

        previous: tokens of the text before, which every window of the batch is given.
        """
        prompt = self.whole_prompt(previous)
        return [
            self.fall_back(hypothesis, encoder_out[i : i + 1], prompt) if self.guards.fails(hypothesis) else hypothesis
            for i, hypothesis in enumerate(self.decode_once(encoder_out, previous))
        ]

    def decode_once(self, encoder_out: EncoderOut, previous: Sequence[int] = ()) -> list[Hypothesis]:
        """As `decode`, but at the first temperature alone, whatever the guards say of the texts."""
        return self.decode_at(self.guards.temperatures[0], encoder_out, self.whole_prompt(previous))

    def whole_prompt(self, previous: Sequence[int]) -> list[int]:
        """The prompt, and before it the hotwords and as much of the text before as has room."""
        return add_context(self.prompt, self.tokenizer, previous, self.hotwords, self.model.config)

    def fall_back(self, failed: Hypothesis, encoder_out: EncoderOut, prompt: list[int]) -> Hypothesis:
        """One window's text at higher temperatures, until one passes; else the likeliest that has no repetitions."""
        tried = [failed]
        for temperature in self.guards.temperatures[1:]:
            tried += self.decode_at(temperature, encoder_out, prompt)
            if not self.guards.fails(tried[-1]):
                return tried[-1]
        varied = [hypothesis for hypothesis in tried if not hypothesis.repeats]
        best = max(varied or tried, key=lambda hypothesis: hypothesis.avg_logprob)
        best = best if varied else self.cut_loop(best)
        return replace(best, temperature=self.guards.temperatures[-1])  # so its text is given to no other window

    def decode_at(self, temperature: float, encoder_out: EncoderOut, prompt: list[int]) -> list[Hypothesis]:
        if temperature > 0:
            rng = np.random.default_rng(self.guards.seed)  # anew for each window
            found = sample(self.model, encoder_out, prompt, self.rules, temperature, self.guards.best_of, rng)
        else:
            found = decode(self.model, encoder_out, prompt, self.rules, self.beams)
        return [self.judge(hypothesis, temperature) for hypothesis in found]

    def judge(self, hypothesis: Hypothesis, temperature: float) -> Hypothesis:
        """The hypothesis with its temperature, and whether it repeats itself: by a loop's tokens, or its text."""
        text = self.tokenizer.decode(hypothesis.tokens).strip()
        guarded = self.guards.compression_ratio_threshold is not None
        loops = guarded and find_loop(hypothesis.tokens, self.rules) is not None
        return replace(
            hypothesis, temperature=temperature, compression_ratio=compression_ratio(text),
            repeats=loops or self.guards.repeats(text),
        )  # fmt: skip

    def cut_loop(self, hypothesis: Hypothesis) -> Hypothesis:
        """Without the repetitions at its end, once of each: what is repeated may have been said."""
        end = find_loop(hypothesis.tokens, self.rules)
        return hypothesis if end is None else self.judge(replace(hypothesis, tokens=hypothesis.tokens[:end]), 0.0)

    def count_text(self, hypothesis: Hypothesis) -> int:
        """Its tokens, without timestamps."""
        return sum(token < self.rules.eot for token in hypothesis.tokens)

    def next_context(self, previous: Sequence[int], hypothesis: Hypothesis, cuts: Sequence[Cut]) -> list[int]:
        """What the next window is given as the text before it, after this window's text."""
        unsure = hypothesis.temperature > self.guards.prompt_reset_temperature
        if not self.guards.condition_on_previous_text or unsure:
            return []
        if self.guards.is_silence(hypothesis):
            return list(previous)
        text = [*previous, *(token for _, _, tokens in cuts for token in tokens)]
        return text[-count_previous_room(self.model.config, 0) :]  # all that a window may be given
