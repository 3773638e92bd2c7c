"""A process that transcribes the narration so many times over, and prints what memory that took above the model.

Arguments: the model, how many times. It prints JSON: `peak`, bytes of resident memory above the loaded model that has
transcribed a window before; `text`; `starts` of the segments; `steps` of the progress, in seconds, and `arrays`, by
them: the most bytes that Python and numpy have held until then, which no allocator's ways disturb.
"""

import json
import os
import sys
import tracemalloc

os.environ["OMP_NUM_THREADS"] = "1"  # each thread has an arena of its own

import numpy as np

from labsupport import whisper
from labsupport.results.memory import peak_memory
from labsupport.speech import audio

PAUSE = np.zeros(3 * audio.SAMPLE_RATE, np.float32)


def repeat(times: int):
    clip = audio.read(audio.clip("narration").path)
    for _ in range(times):
        yield from (clip, PAUSE)


if __name__ == "__main__":
    name, times = sys.argv[1], int(sys.argv[2])
    transcriber = whisper.load(name, backend="torch")
    options = {"language": "en", "vad": True}
    transcriber.transcribe(audio.read(audio.clip("jfk").path), **options)  # libraries begin their own work then
    steps: list[float] = []
    arrays: list[int] = []

    def note(done: float, total: float | None) -> None:
        steps.append(done)
        arrays.append(tracemalloc.get_traced_memory()[1])

    tracemalloc.start()
    found, peak = peak_memory(lambda: transcriber.transcribe(repeat(times), on_progress=note, **options))
    starts = [segment.start for segment in found.segments]
    memory = {"peak": peak, "arrays": arrays}
    print(json.dumps({**memory, "text": found.text, "starts": starts, "steps": steps, "seconds": found.duration}))
