"""The two Whispers side by side: how long torch and MindSpore take for a window's encoder and for a whole clip.

    .venv/bin/python benchmarks/twins.py [MODEL] [RUNS]

A process has one backend, so each gets a process of its own, and they work in turns: A B A B. torch uses eager
attention, as the MindSpore twin does. The rows go where a notebook's go (`LAB_RESULTS`, else `.lab/results`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

BACKENDS = ("torch", "mindspore")
CLIP = "jfk"


def works(model: str) -> dict:
    """Name of a row -> what is timed."""
    from labsupport import whisper
    from labsupport.machine.backend import synchronise
    from labsupport.speech import audio, features

    transcriber = whisper.load(model, attn_implementation="eager")
    samples = audio.read(audio.clip(CLIP).path)
    mel = features.window(features.log_mel(samples, transcriber.model.config.mels), 0)[None]

    def encode() -> None:
        transcriber.model.encode(mel)
        synchronise()

    return {"encoder, one window": encode, "transcription": lambda: transcriber.transcribe(samples).text}


def serve(model: str) -> None:
    """A worker: for each name that comes in, does that work and answers with the seconds; then takes rows to record."""
    from labsupport.results.rows import record

    todo = works(model)
    for line in sys.stdin:
        order = json.loads(line)
        start = time.perf_counter()
        if "row" in order:
            record(**order["row"], model=model, clip=CLIP, group="twins")
        else:
            todo[order["work"]]()
        print(json.dumps(time.perf_counter() - start), flush=True)


class Worker:
    """A process of one backend that does what it is told."""

    def __init__(self, backend: str, model: str):
        environment = os.environ | {"LAB_BACKEND": backend}
        command = [sys.executable, __file__, "--serve", model]
        self.process = subprocess.Popen(
            command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def ask(self, **order) -> float:
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        if not (line := self.process.stdout.readline()):
            raise SystemExit(f"The worker ended with code {self.process.wait()}; its message stands above.")
        return json.loads(line)


def compare(model: str = "tiny.en", runs: int = 7) -> None:
    from labsupport.results.timing import Comparison, Measurement

    workers = {backend: Worker(backend, model) for backend in BACKENDS}
    for work in ("encoder, one window", "transcription"):
        for worker in workers.values():
            print(f"first {work}: {worker.ask(work=work):.2f} s")  # MindSpore compiles
            worker.ask(work=work)
        rounds = [{backend: worker.ask(work=work) for backend, worker in workers.items()} for _ in range(runs)]
        times = {backend: tuple(times[backend] for times in rounds) for backend in BACKENDS}
        measured = Comparison({backend: Measurement(backend, wall, wall, None) for backend, wall in times.items()})
        for backend, worker in workers.items():
            part = measured[backend]
            name = f"{work}, eager attention: {backend}"
            worker.ask(row={"what": name, "value": part.median, "unit": "s", "spread": part.spread, "runs": runs})
            print(f"{work}: {backend} {part.median:.3f} s, spread {part.spread:.3f} s")
        print(f"{work}: MindSpore takes {measured.speedup('mindspore', 'torch')} as long")
    for worker in workers.values():
        worker.process.stdin.close()
        worker.process.wait()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2])
    else:
        compare(*sys.argv[1:2], *map(int, sys.argv[2:3]))
