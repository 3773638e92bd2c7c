"""Solutions of 02_where_memory_goes. They spoil the fun: try first."""

from __future__ import annotations

from labsupport.course.exercises import Exercise, Mistake


def decoder_layer_parameters(d):
    attention = 4 * d * d + 3 * d
    feed_forward = 2 * d * 4 * d + 4 * d + d
    return 2 * attention + feed_forward + 3 * 2 * d


def decoder_layer_parameters_by_shapes(d):
    attention = [(d, d)] * 4 + [(d, 1)] * 3
    feed_forward = [(d, 4 * d), (4 * d, 1), (4 * d, d), (d, 1)]
    norms = [(d, 1)] * 6
    return sum(rows * columns for rows, columns in 2 * attention + feed_forward + norms)


def cache_bytes(layers, d, beams, tokens, width):
    return 2 * layers * d * width * (beams * tokens + 1500)


def cache_bytes_by_layer(layers, d, beams, tokens, width):
    self_kv, cross_kv = 2 * beams * tokens * d, 2 * 1500 * d
    return sum((self_kv + cross_kv) * width for _ in range(layers))


def windows_that_fit(memory, weights, each):
    return max(0, (memory - weights) // each)


def windows_that_fit_by_counting(memory, weights, each):
    windows = 0
    while weights + (windows + 1) * each <= memory:
        windows += 1
    return windows


EXERCISES = [
    Exercise(
        id="2.1",
        title="Parameters of a decoder layer",
        hint="Take the encoder's layer; add one attention and one norm.",
        solution=decoder_layer_parameters,
        variant=decoder_layer_parameters_by_shapes,
        cases=[(384,), (512,), (1280,)],
        mistakes=[
            Mistake(
                lambda d: 4 * d * d + 3 * d + 8 * d * d + 5 * d + 2 * 2 * d,
                "That is an encoder layer: the second attention, to the sound, and its norm are missing.",
            ),
            Mistake(
                lambda d: 2 * (4 * d * d + 4 * d) + 8 * d * d + 5 * d + 3 * 2 * d,
                "Whisper's keys have no bias: three biases an attention, not four.",
            ),
            Mistake(
                lambda d: 2 * (4 * d * d + 3 * d) + 8 * d * d + 5 * d + 3 * d,
                "A norm has a weight and a bias, so two numbers for each of the d channels.",
            ),
            Mistake(
                lambda d: 2 * (4 * d * d + 3 * d) + 8 * d * d + 3 * 2 * d,
                "The feed-forward net has biases, too: one of 4 d, one of d.",
            ),
        ],
    ),
    Exercise(
        id="2.2",
        title="Bytes of the caches",
        hint="Keys and values: two. Each beam has its own text; the sound is there once.",
        solution=cache_bytes,
        variant=cache_bytes_by_layer,
        cases=[(6, 512, 1, 100, 4), (32, 1280, 5, 448, 2), (4, 384, 3, 7, 4)],
        mistakes=[
            Mistake(
                lambda layers, d, beams, tokens, width: layers * d * width * (beams * tokens + 1500),
                "Keys and values are two tensors.",
            ),
            Mistake(
                lambda layers, d, beams, tokens, width: 2 * layers * d * width * beams * (tokens + 1500),
                "All beams share their window's keys and values: they are stored once.",
            ),
            Mistake(
                lambda layers, d, beams, tokens, width: 2 * d * width * (beams * tokens + 1500),
                "Every layer has its keys and values: multiply by the layers.",
            ),
            Mistake(
                lambda layers, d, beams, tokens, width: 2 * layers * d * (beams * tokens + 1500),
                "That is how many numbers there are: multiply by the bytes of each.",
            ),
        ],
    ),
    Exercise(
        id="2.3",
        title="Windows that fit",
        hint="Divide what the weights leave by a window's bytes, rounded down; the result is never negative.",
        solution=windows_that_fit,
        variant=windows_that_fit_by_counting,
        cases=[(100, 40, 7), (10, 40, 7), (54, 40, 7), (46, 40, 7)],
        mistakes=[
            Mistake(
                lambda memory, weights, each: memory // each,
                "The weights take their part first.",
            ),
            Mistake(
                lambda memory, weights, each: (memory - weights) // each,
                "Where the weights alone do not fit, the result is 0, not negative.",
            ),
            Mistake(
                lambda memory, weights, each: max(0, -(-(memory - weights) // each)),
                "Rounded up: the last window does not fit whole.",
            ),
            Mistake(
                lambda memory, weights, each: max(0, (memory - weights) / each),
                "Windows are whole: round down.",
            ),
        ],
    ),
]
