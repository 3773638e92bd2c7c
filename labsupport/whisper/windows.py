"""One window's tokens -> segments with times, inside the window and in order."""

from __future__ import annotations

from collections.abc import Sequence

from labsupport.checkpoints.config import SIZES, Config
from labsupport.speech.features import WINDOW_FRAMES
from labsupport.speech.recording import FRAME_SECONDS
from labsupport.speech.segments import Span
from labsupport.speech.text import Segment, Tokenizer, Word
from labsupport.whisper.search import Hypothesis
from labsupport.whisper.token_filters import TokenRules
from labsupport.whisper.word_timestamps import tighten

TIMESTAMP_SECONDS = 0.02  # a timestamp token
FRAMES_PER_TIMESTAMP = 2
ROUGHNESS = 100  # frames by which the model's times may be wrong: it likes whole seconds
SHORT_FRAMES = 1500  # speech in a window whose encoder sees no more than that; with less, sentences lose their context
SILENCE = 2.0  # seconds after the speech in such a window: with less, Whisper repeats itself
SHORTEST = 1000  # frames that such an encoder sees at least: with less, base makes more errors than with whole windows
SHORTEST_TINY = 1500  # with 10 s, tiny.en repeats itself without end
Cut = tuple[int, int, list[int]]  # a segment: start and end in timestamp tokens from the window's beginning, tokens


def count_frames(seconds: float, silence: float = SILENCE) -> int:
    """Log-mel frames for so many seconds of speech and the silence after it: even, and not more than a window has."""
    return min(WINDOW_FRAMES, 2 * round((seconds + silence) / FRAME_SECONDS / 2))


def shortest_context(config: Config) -> int:
    """Log-mel frames that the encoder must see so that short clips have hardly more errors than in whole windows."""
    return SHORTEST_TINY if config.d_model <= SIZES["tiny"].d_model else SHORTEST


def cut_segments(tokens: list[int], rules: TokenRules, frames: int) -> tuple[list[Cut], int]:
    """Cuts one window's text where two timestamps meet.

    Args:
        tokens: a window's text with its timestamps.
        frames: log-mel frames of sound in the window.

    Returns:
        the complete segments; and how many frames the next window lies ahead: it begins where the last of them ends,
        for what follows may be cut off.

    Source: Radford et al. 2022, section 3.8 (openai-whisper, transcribe.py).
    """
    stamp = [token - rules.timestamp_begin for token in tokens]
    cuts = [i for i in range(1, len(tokens)) if stamp[i - 1] >= 0 and stamp[i] >= 0]
    if not cuts:
        times = [time for time in stamp if time >= 0]
        end = times[-1] if times and times[-1] > 0 else frames // FRAMES_PER_TIMESTAMP
        return [(max(0, stamp[0]) if stamp else 0, end, tokens)], frames
    complete = len(tokens) >= 2 and stamp[-1] >= 0 and stamp[-2] < 0  # ends on one timestamp: nothing follows
    ends = [*cuts, len(tokens)] if complete else cuts
    starts = [0, *ends[:-1]]
    segments = [(stamp[a], stamp[b - 1], tokens[a:b]) for a, b in zip(starts, ends, strict=True)]
    return segments, frames if complete else stamp[ends[-1] - 1] * FRAMES_PER_TIMESTAMP


def move_to_pause(frame: int, pauses: Sequence[int], after: int) -> int:
    """Where a window begins that should at `frame`: at the nearest pause, if one after `after` is near enough.

    So it does not begin with the end of a word that the window before has had.
    """
    near = [pause for pause in pauses if pause > after and abs(pause - frame) <= ROUGHNESS]
    return min(near, key=lambda pause: abs(pause - frame), default=frame)


def place_segments(
    cuts: list[Cut],
    window: Span,
    after: float,
    hypothesis: Hypothesis,
    tokenizer: Tokenizer,
    rules: TokenRules,
    timings: Sequence[tuple[Word, ...]] | None = None,
) -> list[Segment]:
    """Turns (start, end, tokens) into text and seconds of the recording, and leaves out what has no text.

    The model may write a time past the window's end, for it always sees 30 s, or one before a segment that it has just
    ended: each segment is moved into the window (frames), and after the one before, whose end is `after` seconds.
    timings: for each cut when its words are said; the segment then begins and ends with them.
    """
    segments = []
    for (start, end, tokens), word_timings in zip(cuts, timings or [()] * len(cuts), strict=True):
        text = tokenizer.decode([token for token in tokens if token < rules.timestamp_begin])
        if text.strip():
            begin = min(max(after, place(start, window)), window.end * FRAME_SECONDS)
            after = max(begin, place(end, window))
            quality = (hypothesis.avg_logprob, hypothesis.compression_ratio, hypothesis.no_speech_prob)
            segment = Segment(round(begin, 2), round(after, 2), text, word_timings, *quality, hypothesis.temperature)
            segments.append(tighten(segment))
    return segments


def place(timestamp: int, window: Span) -> float:
    """Seconds of the recording that this timestamp of the window stands for, not past the window's end."""
    return min(window.start * FRAME_SECONDS + timestamp * TIMESTAMP_SECONDS, window.end * FRAME_SECONDS)
