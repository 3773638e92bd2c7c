"""Audio files -> transcripts as text, JSON or subtitles."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from labsupport.base.errors import LabError
from labsupport.speech import audio, text

if TYPE_CHECKING:
    from labsupport.whisper import Transcriber


def transcribe_files(
    files: Iterable[Path],
    transcriber: Transcriber,
    write: Callable[[text.Transcript], None],
    fail: Callable[[LabError], None],
    **options,
) -> int:
    """Transcribes one file after the other, with the options of `Transcriber.transcribe`; returns the failures' number.

    `write` takes each transcript, and `fail` the error of a file that gives none, which stops no other.
    """
    failures = 0
    for file in files:
        try:
            write(transcriber.transcribe(audio.read(file), **options))
        except LabError as error:
            fail(error)
            failures += 1
    return failures


def format_transcript(transcript: text.Transcript, form: str, timestamps: bool = False) -> str:
    """The transcript as "text" (with `timestamps`: a line a segment, its seconds before it), "json", "srt" or "vtt"."""
    if form != "text":
        return text.render(transcript.segments, form)
    if timestamps:
        return "\n".join(f"[{s.start:7.2f} - {s.end:7.2f}]  {s.text.strip()}" for s in transcript.segments)
    return transcript.text.strip()
