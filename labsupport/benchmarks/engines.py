"""The engines side by side: how long torch and ONNX Runtime take for the encoder, decode steps and a whole clip.

    ./lab bench engines --model tiny.en --runs 7 --clip jfk

Each engine has a process of its own, and they work in turns: A B A B. Both engines' results must be equal.
"""

from __future__ import annotations

from collections.abc import Callable

from labsupport.results import worker
from labsupport.results.recording import Recording

STEPS = 32  # decode steps timed at once


def run(model: str, runs: int, clip: str) -> None:
    workers = (worker.start(engine, __name__, engine, model, clip, backend="torch") for engine in ("torch", "onnx"))
    Recording("engines", model, clip).workers("{task}: {worker} engine", workers, runs)


def make_tasks(engine: str, model: str, clip: str) -> dict[str, Callable[[], str]]:
    """Name of a row -> what is timed; each gives what the other engine must give, too."""
    import numpy as np

    from labsupport import whisper
    from labsupport.speech import audio, features

    transcriber = whisper.load(model, engine=engine, **({"device": "cpu"} if engine == "torch" else {}))
    decoder, samples = transcriber.model, audio.read(audio.clip(clip).path)
    mel = features.window(features.log_mel(samples, decoder.config.mels), 0)[None]  # (1, mels, 3000)
    encoder_out, start = decoder.encode(mel), transcriber.tokenizer.sot

    def encode() -> str:
        return str(tuple(decoder.encode(mel).shape))

    def decode(beams: int) -> str:
        cache = decoder.new_cache()
        decoder.project_cross_kv(encoder_out, cache)
        decoder.prefill(np.array([[start]]), cache)
        decoder.select_rows(np.zeros(beams, np.int64), cache)
        tokens = np.full(beams, start)
        for _ in range(STEPS):
            tokens = decoder.decode_step(tokens, cache).argmax(-1)  # (beams, vocab) -> (beams,)
            decoder.reorder_beams(np.arange(beams)[::-1].copy(), cache)
        return str(tokens[:1])

    return {
        "encoder, one window": encode,
        f"prompt and {STEPS} steps, greedy": lambda: decode(1),
        f"prompt and {STEPS} steps, 5 beams": lambda: decode(5),
        "transcription, greedy": lambda: transcriber.transcribe(samples).text,
        "transcription, 5 beams": lambda: transcriber.transcribe(samples, beams=5).text,
    }
