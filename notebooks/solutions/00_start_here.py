"""Solutions of the exercises in 00_start_here."""

from __future__ import annotations

from labsupport.course.exercises import Exercise, Mistake


def rtf(work_seconds, audio_seconds):
    return work_seconds / audio_seconds


def rtf_by_fraction(work_seconds, audio_seconds):
    from fractions import Fraction

    return float(Fraction(work_seconds) / Fraction(audio_seconds))


def cache_bytes(layers, d_model, tokens, itemsize):
    return 2 * layers * d_model * tokens * itemsize


def cache_bytes_by_shapes(layers, d_model, tokens, itemsize):
    import numpy as np

    keys = np.empty((layers, tokens, d_model), dtype=f"V{itemsize}")
    return keys.nbytes + keys.nbytes


EXERCISES = [
    Exercise(
        id="0.1",
        title="Real-time factor",
        hint="Seconds of work for each second of sound: one division. Article A's first version gives 1.04.",
        solution=rtf,
        variant=rtf_by_fraction,
        cases=[(95, 91), (60, 91), (0.8, 11.0)],
        mistakes=[
            Mistake(
                lambda work_seconds, audio_seconds: audio_seconds / work_seconds,
                "That is the other way round: how many seconds of sound a second of work does.",
            ),
            Mistake(
                lambda work_seconds, audio_seconds: work_seconds // audio_seconds,
                "`//` drops what is behind the decimal point; use `/`.",
            ),
            Mistake(
                lambda work_seconds, audio_seconds: work_seconds - audio_seconds,
                "A factor is a ratio, not a difference.",
            ),
        ],
    ),
    Exercise(
        id="0.2",
        title="Size of the KV cache",
        hint="Layers, times two (a key and a value), times d_model numbers, times tokens, times bytes a number.",
        solution=cache_bytes,
        variant=cache_bytes_by_shapes,
        cases=[(6, 512, 1, 4), (4, 384, 24, 4), (32, 1280, 448, 2)],
        mistakes=[
            Mistake(
                lambda layers, d_model, tokens, itemsize: layers * d_model * tokens * itemsize,
                "Half of it is missing: there is a key and a value.",
            ),
            Mistake(
                lambda layers, d_model, tokens, itemsize: 2 * d_model * tokens * itemsize,
                "Every layer has a cache of its own.",
            ),
            Mistake(
                lambda layers, d_model, tokens, itemsize: 2 * layers * d_model * tokens,
                "These are numbers; each takes `itemsize` bytes.",
            ),
            Mistake(
                lambda layers, d_model, tokens, itemsize: 2 * layers * d_model * itemsize,
                "That is one token's part; there are `tokens` of them.",
            ),
        ],
    ),
]
