"""The engines side by side: how long torch and ONNX Runtime take for the encoder, a decode step and a whole clip.

    .venv/bin/python benchmarks/engines.py [MODEL] [RUNS] [CLIP]

Each engine has a process of its own, and they work in turns: A B A B. Both engines' texts must be equal. The rows go
where a notebook's go (`LAB_RESULTS`, else `.lab/results`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable

ENGINES = ("torch", "onnx")
STEPS = 32  # decode steps timed at once


def works(engine: str, model: str, clip: str) -> dict[str, Callable[[], str]]:
    """Name of a row -> what is timed; each gives what the other engine must give, too."""
    import numpy as np

    from labsupport import whisper
    from labsupport.speech import audio

    transcriber = whisper.load(model, engine=engine, **({"device": "cpu"} if engine == "torch" else {}))
    whisperer, samples = transcriber.model, audio.read(audio.clip(clip).path)
    mel = np.ascontiguousarray(transcriber.log_mel(samples)[None, :, :3000])
    encoded, start = whisperer.encode(mel), transcriber.tokenizer.sot

    def encode() -> str:
        return str(tuple(whisperer.encode(mel).shape))

    def step(beams: int) -> str:
        cache = whisperer.new_cache()
        whisperer.step(np.array([[start]]), encoded, cache)
        sound = whisperer.keep(np.zeros(beams, np.int64), encoded, cache)
        tokens = np.full((beams, 1), start)
        for _ in range(STEPS):
            logits = whisperer.step(tokens, sound, cache)
            tokens = logits[:, -1].argmax(-1)[:, None]
            whisperer.reorder(np.arange(beams)[::-1].copy(), cache)
        return str(tokens[0])

    return {
        "encoder, one window": encode,
        f"prompt and {STEPS} steps, greedy": lambda: step(1),
        f"prompt and {STEPS} steps, 5 beams": lambda: step(5),
        "transcription, greedy": lambda: transcriber.transcribe(samples).text,
        "transcription, 5 beams": lambda: transcriber.transcribe(samples, beams=5).text,
    }


def serve(engine: str, model: str, clip: str) -> None:
    """A worker: for each name that comes in, does that work and answers with the seconds and the result."""
    todo = works(engine, model, clip)
    print(json.dumps(list(todo)), flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        result = todo[json.loads(line)]()
        print(json.dumps([time.perf_counter() - start, result]), flush=True)


class Worker:
    """A process of one engine that does what it is told."""

    def __init__(self, engine: str, *arguments: str):
        command = [sys.executable, __file__, "--serve", engine, *arguments]
        environment = os.environ | {"LAB_BACKEND": "torch"}
        self.process = subprocess.Popen(
            command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.works = self.read()

    def read(self):
        if not (line := self.process.stdout.readline()):
            raise SystemExit(f"The worker ended with code {self.process.wait()}; its message stands above.")
        return json.loads(line)

    def ask(self, work: str) -> tuple[float, str]:
        self.process.stdin.write(json.dumps(work) + "\n")
        self.process.stdin.flush()
        return self.read()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def time_in_turns(workers: dict[str, Worker], work: str, runs: int):
    """Both engines' times for one work, after a first run of each whose results must be equal."""
    from labsupport.results.timing import Comparison, Measurement

    results = {engine: worker.ask(work)[1] for engine, worker in workers.items()}
    if len(set(results.values())) > 1:
        raise SystemExit(f"{work}: the engines differ: {results}")
    rounds = [{engine: worker.ask(work)[0] for engine, worker in workers.items()} for _ in range(runs)]
    walls = {engine: tuple(times[engine] for times in rounds) for engine in workers}
    return Comparison({engine: Measurement(engine, wall, wall, None) for engine, wall in walls.items()})


def compare(model: str = "tiny.en", runs: int = 7, clip: str = "jfk") -> None:
    from labsupport.results.rows import record

    workers = {engine: Worker(engine, model, clip) for engine in ENGINES}
    measured = {work: time_in_turns(workers, work, runs) for work in workers["torch"].works}
    for worker in workers.values():
        worker.close()
    for work, comparison in measured.items():
        for engine in ENGINES:
            part, details = comparison[engine], {"runs": runs, "model": model, "clip": clip, "group": "engines"}
            record(f"{work}: {engine} engine", part.median, "s", backend="torch", spread=part.spread, **details)
            print(f"{work}: {engine} {part.median:.3f} s, spread {part.spread:.3f} s")
        print(f"{work}: torch takes {comparison.speedup('torch', 'onnx')} as long")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(*sys.argv[2:])
    else:
        compare(*sys.argv[1:2], *map(int, sys.argv[2:3]), *sys.argv[3:4])
