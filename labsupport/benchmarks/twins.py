"""The two Whispers side by side: how long torch and MindSpore take for a window's encoder and for a whole clip.

    ./lab bench twins --model tiny.en --runs 7 --clip jfk

A process has one backend, so each gets a process of its own, and they work in turns: A B A B. torch uses eager
attention, as the MindSpore twin does. Texts must be equal.
"""

from __future__ import annotations

from collections.abc import Callable

from labsupport.machine.backend import FRAMEWORKS
from labsupport.results import worker
from labsupport.results.recording import Recording


def run(model: str, runs: int, clip: str) -> None:
    workers = (worker.start(backend, __name__, model, clip, backend=backend) for backend in FRAMEWORKS)
    # MindSpore compiles in its first run.
    Recording("twins", model, clip).workers("{task}, eager attention: {worker}", workers, runs, warmup=2)


def make_tasks(model: str, clip: str) -> dict[str, Callable[[], str]]:
    """Name of a row -> what is timed; each gives what the other backend must give, too."""
    from labsupport import whisper
    from labsupport.machine.backend import synchronise
    from labsupport.speech import audio, features

    transcriber = whisper.load(model, attn_implementation="eager")
    samples = audio.read(audio.clip(clip).path)
    mel = features.window(features.log_mel(samples, transcriber.model.config.mels), 0)[None]  # (1, mels, 3000)

    def encode() -> str:
        shape = tuple(transcriber.model.encode(mel).shape)
        synchronise()
        return str(shape)

    return {"encoder, one window": encode, "transcription": lambda: transcriber.transcribe(samples).text}
