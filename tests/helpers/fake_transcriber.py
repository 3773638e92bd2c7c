"""A transcriber without a model: it reads all of the sound, notes what it is given, and always says the same."""

from __future__ import annotations

from types import SimpleNamespace

from labsupport.base.errors import WhisperError
from labsupport.speech.audio import SAMPLE_RATE
from labsupport.speech.text import Segment, Transcript

TWO = Transcript(" One. Two.", [Segment(0.0, 1.5, " One."), Segment(1.5, 3.0, " Two.")], "en", duration=3.0)


class FakeTranscriber:
    """`results`: a transcript, or an error to raise, for each call; the last one also for all that follow."""

    tokenizer = SimpleNamespace(languages={"de": 1, "en": 2, "iw": 3}, encode=str.split)

    def __init__(self, *results, multilingual: bool = True):
        self.model = SimpleNamespace(config=SimpleNamespace(multilingual=multilingual, text_positions=448))
        self.results = list(results) or [TWO]
        self.options: dict = {}
        self.seconds: list[float] = []  # of each sound

    def encode_hotwords(self, hotwords):
        if hotwords == "too many":
            raise WhisperError("The hotwords have no room.")
        return self.tokenizer.encode(hotwords or "")

    def transcribe(self, samples, on_progress, **options):
        self.options = options
        self.seconds.append(sum(len(block) for block in samples) / SAMPLE_RATE)
        on_progress(self.seconds[-1], self.seconds[-1])
        result = self.results.pop(0) if len(self.results) > 1 else self.results[0]
        if isinstance(result, BaseException):
            raise result
        return result
