"""One request inside the model's thread: its windows, decoded in any order, given as text in the right one."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace

import numpy as np

from labsupport.serving.batching import Lane
from labsupport.serving.cues import cut_into_cues
from labsupport.serving.jobs import Finished, Job, Piece
from labsupport.speech.recording import FRAME_SECONDS, Recording
from labsupport.speech.segments import Span
from labsupport.speech.text import Segment
from labsupport.whisper.guards import GuardedDecoder, Guards
from labsupport.whisper.protocol import EncoderOut
from labsupport.whisper.search import Hypothesis
from labsupport.whisper.token_filters import add_context, make_prompt
from labsupport.whisper.transcribe import Decoded, Transcriber, batch_windows, check_rounds, stack_mels
from labsupport.whisper.windows import cut_segments, place_segments


@dataclass(eq=False)
class Work:
    """The steps of `Transcriber.transcribe` in batched mode, so that windows of other requests fit in between.

    decoder: with timestamps; untimed: without them, which decodes a window first.
    previous: tokens that every window is given as the text before it.
    settled: what was decoded of windows by their number; `placed` of them were given to the client.
    """

    job: Job
    recording: Recording
    transcriber: Transcriber
    language: str | None
    decoder: GuardedDecoder
    untimed: GuardedDecoder
    previous: list[int]
    lane: Lane
    windows: int
    settled: dict[int, list[Decoded]] = field(default_factory=dict)
    placed: int = 0
    after: float = 0.0  # seconds along the speech at which the last segment ended

    @property
    def complete(self) -> bool:
        return self.placed == self.windows

    @property
    def prompt(self) -> list[int]:
        """The tokens that every window is given, without timestamps to follow."""
        config = self.transcriber.model.config
        return add_context(self.untimed.prompt, self.transcriber.tokenizer, self.previous, (), config)

    def decode_first(self, encoder_out: EncoderOut) -> list[Hypothesis]:
        """(windows, frames, d_model) of this lane's key -> each window's text at the first temperature"""
        return self.untimed.decode_once(encoder_out, self.previous)

    def is_settled(self, hypothesis: Hypothesis) -> bool:
        """Whether the text passes the guards as it is: others need more of the model's time."""
        return not (self.fails(hypothesis) or self.decoder.guards.has_rounds(hypothesis))

    def fails(self, hypothesis: Hypothesis) -> bool:
        """Whether it must be decoded anew; of a short context also a text that is taken for silence, see
        `decode_windows`.
        """
        guards = self.decoder.guards
        return guards.is_bad(hypothesis) if self.transcriber.short_context else guards.fails(hypothesis)

    def amend(self, window: Span, encoder_out: EncoderOut, hypothesis: Hypothesis) -> list[Decoded]:
        """What becomes of a window whose text failed, or repeats itself: (1, frames, d_model) and the first text."""
        if self.fails(hypothesis) and self.transcriber.short_context:
            encoder_out = self.encode(window)
            (hypothesis,) = self.untimed.decode(encoder_out, self.previous)
        elif self.fails(hypothesis):
            hypothesis = self.untimed.fall_back(hypothesis, encoder_out, self.prompt)
        decoded = self.cut(window, encoder_out, hypothesis)
        return check_rounds(decoded, self.decoder, self.recording, self.encode, self.previous)

    def cut(self, window: Span, encoder_out: EncoderOut, hypothesis: Hypothesis) -> Decoded:
        cuts, _ = cut_segments(hypothesis.tokens, self.untimed.rules, window.end - window.start)
        return Decoded(window, encoder_out, hypothesis, cuts)

    def encode(self, span: Span) -> EncoderOut:
        """(1, 1500, d_model) of one window"""
        return self.transcriber.model.encode(self.recording.window(span)[None])

    def settle(self, number: int, found: list[Decoded]) -> None:
        """Notes a window's text, and gives the client all that is settled without a gap before it."""
        self.settled[number] = found
        while self.placed in self.settled:
            for decoded in self.settled.pop(self.placed):
                if not self.decoder.guards.is_silence(decoded.hypothesis):
                    self.give(decoded)
            self.placed += 1

    def finish(self) -> None:
        self.job.put(Finished(self.language or "en", self.recording.seconds, self.windows))

    def give(self, decoded: Decoded) -> None:
        spoken = self.place(decoded)
        if not spoken:
            return
        self.after = spoken[-1].end
        segments = self.restore(spoken) if self.job.ask.times else []
        start = decoded.window.start * FRAME_SECONDS
        seek = round(self.recording.restore(Segment(start, start, ""))[0].start / FRAME_SECONDS)
        self.job.put(Piece("".join(segment.text for segment in spoken), tuple(segments), seek))

    def place(self, decoded: Decoded) -> list[Segment]:
        """The window's segments along the speech; with the times of their words where times are asked for."""
        if self.job.ask.times:
            return self.transcriber.place(decoded, self.recording, self.decoder.prompt, self.after, True)
        return place_segments(
            decoded.cuts, decoded.window, self.after, decoded.hypothesis, self.transcriber.tokenizer, self.decoder.rules
        )

    def restore(self, spoken: list[Segment]) -> list[Segment]:
        """In the recording's own time, cut into subtitles."""
        restored = [each for segment in spoken for each in self.recording.restore(segment)]
        cues = [cue for segment in restored for cue in cut_into_cues(segment)]
        return cues if self.job.ask.word_times else [replace(cue, word_timings=()) for cue in cues]


def begin(job: Job, recording: Recording, transcriber: Transcriber, beams: int) -> Work:
    """Chooses the language, and lists the windows."""
    ask = job.ask
    encode = lambda span: transcriber.model.encode(recording.window(span)[None])  # noqa: E731
    language, _ = transcriber.choose_language(ask.language, recording, encode)
    previous = transcriber.tokenizer.encode(f" {ask.prompt.strip()}") if ask.prompt else []
    guards = Guards() if ask.temperature == 0 else replace(Guards(), temperatures=(ask.temperature,))
    prompt = make_prompt(transcriber.tokenizer, language, ask.task)
    decoder = GuardedDecoder(
        transcriber.model, transcriber.tokenizer, transcriber.rules, prompt, beams=beams, guards=guards
    )
    # texts that are drawn depend on what else is in the batch
    key = (language, ask.task, tuple(previous), id(job) if ask.temperature else None)
    windows = batch_windows(recording, transcriber.short_context)
    lane = Lane(key, deque(enumerate(windows)))
    return Work(
        job, recording, transcriber, language, decoder, decoder.without_timestamps(), previous, lane, len(windows)
    )


def stack_windows(batch: list[tuple[Work, int, Span]]) -> np.ndarray:
    """(windows, mels, frames) float32 of windows of several recordings"""
    return stack_mels([(work.recording, window) for work, _, window in batch], batch[0][0].transcriber.short_context)
