"""Whisper, speech to text: `whisper.load("tiny.en").transcribe(samples)`."""

from labsupport.whisper.transcribe import Transcriber, load, load_model

__all__ = ["Transcriber", "load", "load_model"]
