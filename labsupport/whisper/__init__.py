"""Whisper, speech to text: `whisper.load("tiny.en").transcribe(samples)`."""

from labsupport.whisper.loading import load, load_model
from labsupport.whisper.transcribe import Transcriber

__all__ = ["Transcriber", "load", "load_model"]
