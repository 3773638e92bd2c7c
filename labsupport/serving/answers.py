"""Pieces of text -> the answer that was asked for: OpenAI's JSON, text, subtitles, or server-sent events."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from labsupport.serving.jobs import Finished, Piece
from labsupport.serving.schemas import Answer, TimedSegment, TimedWord, Usage, VerboseAnswer
from labsupport.speech.text import Segment
from labsupport.speech.transcripts import one_line, render
from labsupport.whisper.language import find_name


@dataclass
class Collected:
    """What has come so far of one request; `text` is the whole of it, as `Transcript.text`."""

    raw: str = ""
    pieces: list[Piece] = field(default_factory=list)

    def add(self, piece: Piece) -> str:
        """Gives what the text has more than before."""
        before = len(self.text)
        self.raw += piece.text
        self.pieces.append(piece)
        return self.text[before:]

    @property
    def text(self) -> str:
        return self.raw.strip()

    @property
    def segments(self) -> list[Segment]:
        return [segment for piece in self.pieces for segment in piece.segments]


def usage(finished: Finished) -> Usage:
    return Usage(seconds=round(finished.duration, 2))


def plain(collected: Collected, finished: Finished) -> Answer:
    return Answer(text=collected.text, usage=usage(finished))


def as_text(collected: Collected, form: str) -> str:
    """form: text, srt or vtt"""
    return f"{one_line(collected.text)}\n" if form == "text" else render(collected.segments, form)


def verbose(
    collected: Collected,
    finished: Finished,
    task: str,
    granularities: Sequence[str],
    encode: Callable[[str], list[int]],
) -> VerboseAnswer:
    """encode: a text's tokens."""
    segments = list(number_segments(collected, encode))
    timed = [word for segment in collected.segments for word in describe_timings(segment)]
    return VerboseAnswer(
        task="translate" if task == "translate" else "transcribe",
        language="english" if task == "translate" else find_name(finished.language),
        duration=round(finished.duration, 2),
        text=collected.text,
        segments=segments if "segment" in granularities or not granularities else None,
        word_list=timed if "word" in granularities else None,
        usage=usage(finished),
    )


def number_segments(collected: Collected, encode: Callable[[str], list[int]]) -> Iterator[TimedSegment]:
    pairs = [(piece.seek, segment) for piece in collected.pieces for segment in piece.segments]
    for number, (seek, segment) in enumerate(pairs):
        yield TimedSegment(
            id=number, seek=seek, start=segment.start, end=segment.end, text=segment.text,
            tokens=encode(segment.text), temperature=segment.temperature,
            avg_logprob=finite(segment.avg_logprob), compression_ratio=finite(segment.compression_ratio),
            no_speech_prob=finite(segment.no_speech_prob),
        )  # fmt: skip


def describe_timings(segment: Segment) -> list[TimedWord]:
    timed = [TimedWord(word=word.text.strip(), start=word.start, end=word.end) for word in segment.word_timings]
    return [each for each in timed if each.word]


def finite(value: float) -> float:
    """JSON has no infinity and no NaN."""
    return round(float(value), 4) if math.isfinite(value) else 0.0


# --- server-sent events ----------------------------------------------------------------------------------------------


def event(content: dict) -> bytes:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n".encode()


def delta_event(delta: str) -> bytes:
    return event({"type": "transcript.text.delta", "delta": delta})


def segment_event(number: int, segment: Segment) -> bytes:
    """As of OpenAI's diarized streams, without a speaker; `words` where their times are asked for."""
    content = {"type": "transcript.text.segment", "id": str(number), "speaker": "",
               "start": segment.start, "end": segment.end, "text": segment.text.strip()}  # fmt: skip
    timed = [each.model_dump() for each in describe_timings(segment)]
    return event({**content, "words": timed} if timed else content)


def done_event(collected: Collected, finished: Finished) -> bytes:
    """OpenAI's `usage` counts tokens here, which it bills; ours says how long the sound is, and its language."""
    content = {"type": "transcript.text.done", "text": collected.text}
    return event({**content, "duration": round(finished.duration, 2), "language": find_name(finished.language)})
