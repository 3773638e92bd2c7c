"""Solutions of the exercises in 05_conv1d_upgrade."""

from __future__ import annotations

import math

import numpy as np

from labsupport.course.exercises import Exercise, Mistake


def frames_out(frames, kernel, stride, padding):
    return (frames + 2 * padding - kernel) // stride + 1


def frames_out_by_counting(frames, kernel, stride, padding):
    return len(range(0, frames + 2 * padding - kernel + 1, stride))


def amdahl(share, factor):
    return 1 / (1 - share + share / factor)


def amdahl_in_seconds(share, factor):
    before, part = 100.0, 100.0 * share
    return before / (before - part + part / factor)


def to_columns(x, kernel, stride):
    taken = (x.shape[1] - kernel) // stride + 1
    return np.concatenate([x[:, tap : tap + (taken - 1) * stride + 1 : stride] for tap in range(kernel)])


def to_columns_by_windows(x, kernel, stride):
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel, axis=1)[:, ::stride]  # (channels, taken, kernel)
    return windows.transpose(2, 0, 1).reshape(kernel * x.shape[0], -1)


def bytes_moved(channels, frames, itemsize, copies):
    return 2 * channels * frames * itemsize if copies else 0


def bytes_moved_by_step(channels, frames, itemsize, copies):
    read = write = channels * frames * itemsize * bool(copies)
    return read + write


def example(channels, frames):
    return np.arange(channels * frames, dtype=np.float32).reshape(channels, frames)


EXERCISES = [
    Exercise(
        id="5.1",
        title="Frames out of a convolution",
        hint="The kernel's first position is frame 0 of the padded row; how often can it move by `stride` after that?",
        solution=frames_out,
        variant=frames_out_by_counting,
        cases=[(3000, 3, 1, 1), (3000, 3, 2, 1), (10, 5, 3, 0), (7, 7, 4, 0), (2, 3, 2, 2)],
        mistakes=[
            Mistake(
                lambda frames, kernel, stride, padding: (frames + 2 * padding - kernel) // stride,
                "One is missing: the first position counts as well.",
            ),
            Mistake(
                lambda frames, kernel, stride, padding: (frames + padding - kernel) // stride + 1,
                "The zeros are at both ends.",
            ),
            Mistake(
                lambda frames, kernel, stride, padding: (frames + 2 * padding) // stride,
                "The whole kernel must fit: its last position is `kernel` frames before the end.",
            ),
            Mistake(
                lambda frames, kernel, stride, padding: math.ceil((frames + 2 * padding - kernel) / stride) + 1,
                "Round down: the kernel is never half outside.",
            ),
            Mistake(
                lambda frames, kernel, stride, padding: (frames + 2 * padding - kernel) / stride + 1,
                "Frames are whole: divide with `//`.",
            ),
        ],
    ),
    Exercise(
        id="5.2",
        title="Amdahl's law",
        hint="What was 1 becomes the part that stays, 1 - share, and the part that shrinks, share / factor.",
        solution=amdahl,
        variant=amdahl_in_seconds,
        cases=[(0.25, 2.0), (0.008, math.inf), (0.3, math.inf), (1.0, 3.0), (0.5, 1.0)],
        mistakes=[
            Mistake(
                lambda share, factor: 1 - share + share / factor,
                "That is the time that is left; how many times as fast is one divided by it.",
            ),
            Mistake(
                lambda share, factor: share * factor + 1 - share,
                "A part that is twice as fast takes half the time: divide its share.",
            ),
            Mistake(
                lambda share, factor: 1 / (share / factor),
                "The rest of the work still takes its time.",
            ),
            Mistake(
                lambda share, factor: 1 / (1 - share),
                "That is the bound for an infinitely fast part; this one has a factor.",
            ),
        ],
    ),
    Exercise(
        id="5.3",
        title="im2col by hand",
        hint="For each tap, every stride-th frame from `tap` on, as many as come out; then all below each other.",
        solution=to_columns,
        variant=to_columns_by_windows,
        cases=[(example(2, 7), 3, 1), (example(3, 9), 3, 2), (example(1, 8), 4, 3), (example(2, 6), 1, 2)],
        mistakes=[
            Mistake(
                lambda x, kernel, stride: np.concatenate(
                    [x[:, tap : x.shape[1] - kernel + 1 + tap] for tap in range(kernel)]
                ),
                "With a stride, only every stride-th position counts.",
            ),
            Mistake(
                lambda x, kernel, stride: (
                    np.lib.stride_tricks.sliding_window_view(x, kernel, axis=1)[:, ::stride]
                    .transpose(0, 2, 1)
                    .reshape(kernel * x.shape[0], -1)
                ),
                "The rows are in another order: all channels of the first tap come first.",
            ),
            Mistake(
                lambda x, kernel, stride: to_columns(x, kernel, stride).T,
                "Transposed: each output frame is a column.",
            ),
            Mistake(
                lambda x, kernel, stride: to_columns(x[:, ::-1], kernel, stride)[:, ::-1],
                "The taps run backwards: a convolution in neural networks does not flip the kernel.",
            ),
        ],
    ),
    Exercise(
        id="5.4",
        title="Bytes moved",
        hint="A copy reads every number and writes it. What copies nothing moves nothing.",
        solution=bytes_moved,
        variant=bytes_moved_by_step,
        cases=[(80, 3000, 4, True), (1280, 3000, 2, True), (384, 1500, 4, False)],
        mistakes=[
            Mistake(
                lambda channels, frames, itemsize, copies: channels * frames * itemsize if copies else 0,
                "Read and write together: each number is moved twice.",
            ),
            Mistake(
                lambda channels, frames, itemsize, copies: 2 * channels * frames * itemsize,
                "A view is only another indexing of the same memory: it moves nothing.",
            ),
            Mistake(
                lambda channels, frames, itemsize, copies: 2 * channels * frames if copies else 0,
                "That counts numbers; each takes `itemsize` bytes.",
            ),
        ],
    ),
]
