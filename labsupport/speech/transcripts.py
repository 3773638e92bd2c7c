"""Transcripts as files: plain text, SubRip, WebVTT, a table, JSON. Forms and field names are openai-whisper's."""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace

from labsupport.base.errors import TextError
from labsupport.speech.text import Segment, Transcript, Word

SUFFIXES = {"text": ".txt", "srt": ".srt", "vtt": ".vtt", "tsv": ".tsv", "json": ".json"}
Voices = Sequence[tuple[int | None, Transcript]]  # a file's transcript; or one for each channel, with its number
CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # a terminal would obey them
UNSAFE_IN_JSON = re.compile(r"[\x7f-\x9f\ud800-\udfff]")  # controls; halves of characters, as broken file names have


def render(segments: Sequence[Segment], form: str, timestamps: bool = False) -> str:
    """Writes segments as "text" (a line for each; `timestamps`: with its seconds before it), "srt", "vtt" or "tsv".

    "vtt" shows word after word where their times are known. "tsv" has milliseconds. Subtitles leave out empty segments,
    and show each for at least a millisecond, for WebVTT requires an end after the start. Raises TextError for another
    form.
    """
    writers = {"text": _render_timed if timestamps else _render_text, "srt": _render_srt, "vtt": _render_vtt,
               "tsv": _render_tsv}  # fmt: skip
    if form not in writers:
        raise TextError(f"There is no output form {form!r}.", hint=f"Known: {', '.join(writers)}.")
    return writers[form](segments)


def render_lines(voices: Voices) -> str:
    """A line for each transcript: the whole text of a file, or of each channel with its number before it."""
    labels = ["" if channel is None else f"Channel {channel}: " for channel, _ in voices]
    return "".join(f"{label}{one_line(text.text)}\n" for label, (_, text) in zip(labels, voices, strict=True))


def one_line(text: str) -> str:
    """The text with single spaces for line breaks and other space, and without control characters."""
    return CONTROLS.sub("\N{REPLACEMENT CHARACTER}", " ".join(text.split()))


def _render_text(segments: Sequence[Segment]) -> str:
    return "".join(f"{one_line(segment.text)}\n" for segment in segments)


def _render_timed(segments: Sequence[Segment]) -> str:
    return "".join(f"[{s.start:7.2f} - {s.end:7.2f}]  {one_line(s.text)}\n" for s in segments)


def _render_tsv(segments: Sequence[Segment]) -> str:
    rows = [f"{_milliseconds(s.start)}\t{_milliseconds(s.end)}\t{one_line(s.text)}\n" for s in segments]
    return "start\tend\ttext\n" + "".join(rows)


# --- subtitles -------------------------------------------------------------------------------------------------------


def _render_srt(segments: Sequence[Segment]) -> str:
    """SubRip has no escapes: an arrow in the text, which would be read as a time line, is shortened."""
    cues = [f"{_time_line(s, ',')}\n{re.sub('-{2,}>', '->', one_line(s.text))}\n\n" for s in _with_text(segments)]
    return "".join(f"{number}\n{cue}" for number, cue in enumerate(cues, 1))


def _render_vtt(segments: Sequence[Segment]) -> str:
    """WebVTT, https://www.w3.org/TR/webvtt1/: `&`, `<` and `>` are escaped, and with them every arrow."""
    cues = [f"{_time_line(segment, '.')}\n{_cue_text(segment)}\n\n" for segment in _with_text(segments)]
    return "WEBVTT\n\n" + "".join(cues)


def _with_text(segments: Sequence[Segment]) -> list[Segment]:
    """A blank line would end a cue early."""
    return [segment for segment in segments if segment.text.split()]


def _cue_text(segment: Segment) -> str:
    """The escaped text; where its words have times, each time that is later than the last, and inside the cue."""
    if not segment.word_timings:
        return _escape(segment.text)
    last, parts = _milliseconds(segment.start), list[str]()
    for word in segment.word_timings:
        time, stamp = _milliseconds(word.start), ""
        if last < time < _milliseconds(segment.end):
            last, stamp = time, f"<{_clock(time, '.')}>"
        space = " " if parts and word.text[:1].isspace() else ""
        if text := _escape(word.text):
            parts.append(f"{space}{stamp}<c>{text}</c>")
    return "".join(parts) or _escape(segment.text)


def _escape(text: str) -> str:
    return html.escape(one_line(text), quote=False)


def _time_line(segment: Segment, point: str) -> str:
    start = _milliseconds(segment.start)
    end = max(_milliseconds(segment.end), start + 1)
    return f"{_clock(start, point)} --> {_clock(end, point)}"


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _clock(milliseconds: int, point: str) -> str:
    seconds, rest = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{point}{rest:03}"


# --- channels --------------------------------------------------------------------------------------------------------


def merge_channels(voices: Voices) -> list[Segment]:
    """The segments of all channels in the order of their times, each with its channel's number before it."""
    if voices[0][0] is None:
        return list(voices[0][1].segments)
    segments = [_label(segment, channel) for channel, transcript in voices for segment in transcript.segments]
    return sorted(segments, key=lambda segment: segment.start)


def _label(segment: Segment, channel: int | None) -> Segment:
    label = f"Channel {channel}: "
    timings: tuple[Word, ...] = segment.word_timings
    if timings:
        timings = (replace(timings[0], text=label + timings[0].text.strip()), *timings[1:])
    return replace(segment, text=label + segment.text.strip(), word_timings=timings)


# --- JSON ------------------------------------------------------------------------------------------------------------


def describe(file: str, voices: Voices) -> list[dict]:
    """What JSON holds of a file: an object for it, or for each of its channels."""
    return [
        {
            "file": file,
            **({} if channel is None else {"channel": channel}),
            "language": transcript.language,
            "language_probability": _finite(transcript.language_probability),
            "duration": _finite(transcript.duration),
            "text": transcript.text.strip(),
            "segments": [describe_segment(number, segment) for number, segment in enumerate(transcript.segments)],
        }
        for channel, transcript in voices
    ]


def describe_segment(number: int, segment: Segment) -> dict:
    quality = ("avg_logprob", "compression_ratio", "no_speech_prob", "temperature")
    fields: dict = {"id": number, "start": _finite(segment.start), "end": _finite(segment.end)}
    fields |= {"text": segment.text.strip(), **{name: _finite(getattr(segment, name)) for name in quality}}
    if segment.word_timings:
        fields["words"] = [
            {"start": _finite(w.start), "end": _finite(w.end), "word": w.text, "probability": _finite(w.probability)}
            for w in segment.word_timings
        ]
    return fields


def _finite(value: float | None) -> float | None:
    """JSON has no infinity and no NaN: they become null."""
    return round(float(value), 4) if value is not None and math.isfinite(value) else None


def write_json(document: object, ascii_only: bool = False) -> str:
    """JSON that any encoding takes, with `ascii_only` also one that is not Unicode's."""
    content = json.dumps(document, ensure_ascii=ascii_only, indent=2, allow_nan=False)
    return UNSAFE_IN_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", content)
