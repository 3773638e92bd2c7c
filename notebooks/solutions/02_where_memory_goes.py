"""Solutions of 02_where_memory_goes. They spoil the fun: try first."""

from __future__ import annotations

import math

import numpy as np

from labsupport.course.exercises import Exercise, Mistake, Wrong

# --- 2.1 --------------------------------------------------------------------------------------------------------------


def parameters_by_part(shapes, depth):
    counts = {}
    for name, shape in shapes.items():
        part = ".".join(name.split(".")[:depth])
        counts[part] = counts.get(part, 0) + math.prod(shape)
    return counts


def parameters_by_part_with_numpy(shapes, depth):
    parts = {tuple(name.split(".")[:depth]) for name in shapes}
    return {
        ".".join(part): sum(
            int(np.prod(shape)) for name, shape in shapes.items() if tuple(name.split(".")[:depth]) == part
        )
        for part in parts
    }


def parameters_by_part_sorted(shapes, depth):
    from itertools import groupby

    def part_of(item):
        return ".".join(item[0].split(".")[:depth])

    return {
        part: sum(np.empty(shape, "V1").nbytes for _, shape in group)
        for part, group in groupby(sorted(shapes.items(), key=part_of), part_of)
    }


def parameters_by_part_counted(shapes, depth):
    from collections import Counter

    counter = Counter()
    for name, shape in shapes.items():
        head, *rest = name.split(".")
        for piece in rest[: depth - 1]:
            head = f"{head}.{piece}"
        size = 1
        for length in shape:
            size *= length
        counter[head] += size
    return dict(counter)


def by_prefix(shapes, depth):
    counts = {}
    for name in shapes:
        part = ".".join(name.split(".")[:depth])
        counts[part] = sum(math.prod(each) for other, each in shapes.items() if other.startswith(part))
    return counts


def last_alone(shapes, depth):
    return {".".join(name.split(".")[:depth]): math.prod(shape) for name, shape in shapes.items()}


def fixed_depth(shapes, depth):
    return parameters_by_part(shapes, 2)


def matrices_alone(shapes, depth):
    counts = parameters_by_part({name: shape for name, shape in shapes.items() if len(shape) > 1}, depth)
    return {part: counts.get(part, 0) for part in parameters_by_part(shapes, depth)}


def tensors_counted(shapes, depth):
    return parameters_by_part(dict.fromkeys(shapes, (1,)), depth)


def draw_shapes(rng):
    pieces = ["encoder", "decoder", "layers", "layers_norm", "1", "10", "fc1", "weight", "bias"]
    shapes = {}
    for _ in range(rng.integers(1, 9)):
        name = ".".join(rng.choice(pieces, rng.integers(1, 5)))
        shapes[name] = tuple(rng.integers(1, 9, rng.integers(0, 4)).tolist())
    return shapes, int(rng.integers(1, 4))


def run_parameters_by_part(answer):
    """The shapes of tiny.en's checkpoint."""
    from labsupport.checkpoints.config import SIZES
    from labsupport.checkpoints.resolve import find_checkpoint
    from labsupport.optim import memory_model

    checkpoint = find_checkpoint("tiny.en")
    found = answer({name: array.shape for name, array in checkpoint.tensors()}, 2)
    expected = sum(memory_model.count_parameters(SIZES["tiny.en"]).values())
    if sum(found.values()) != expected:
        raise Wrong(f"your parts of tiny.en have {sum(found.values()):,} parameters; it has {expected:,}.")
    return f"tiny.en has {expected / 1e6:.1f} million parameters in {len(found)} parts."


# --- 2.2 --------------------------------------------------------------------------------------------------------------


def cache_bytes(layers, d, beams, tokens, width):
    return 2 * layers * d * width * (beams * tokens + 1500)


def cache_bytes_by_layer(layers, d, beams, tokens, width):
    self_kv, cross_kv = 2 * beams * tokens * d, 2 * 1500 * d
    return sum((self_kv + cross_kv) * width for _ in range(layers))


def cache_bytes_of_arrays(layers, d, beams, tokens, width):
    shapes = [(beams, tokens, d), (1, 1500, d)] * 2 * layers
    return sum(np.empty(shape, f"V{width}").nbytes for shape in shapes)


def cache_bytes_by_addition(layers, d, beams, tokens, width):
    rows = beams * tokens
    rows += 1500
    return float(rows * d * width * layers + rows * d * width * layers)


def draw_cache(rng):
    layers, d, beams, tokens = rng.integers(1, [33, 1281, 9, 449]).tolist()
    return layers, d, beams, tokens, int(rng.choice([1, 2, 4]))


def run_cache_bytes(answer):
    """The cache of tiny.en after five beams have read a text: its arrays are counted."""
    from labsupport.course import trials

    transcriber, beams, tokens = trials.load_plain(), 5, 20
    model, cache = transcriber.model, transcriber.model.new_cache()
    model.project_cross_kv(model.encode(trials.log_mel()), cache)
    text = np.array([trials.expected_tokens()[:tokens]], np.int64)
    model.prefill(text, cache)
    model.select_rows(np.zeros(beams, np.int64), cache)
    arrays = [array for pair in [*cache.self_kv, *cache.cross_kv] for array in pair]
    real = sum(math.prod(array.shape) * 4 for array in arrays)  # float32
    said = answer(model.config.decoder_layers, model.config.d_model, beams, tokens, 4)
    if said != real:
        raise Wrong(f"the cache of tiny.en with {beams} beams of {tokens} tokens has {real:,} bytes, not {said:,}.")
    return f"The cache of tiny.en with {beams} beams of {tokens} tokens has these {real / 1e6:.1f} MB."


# --- 2.3 --------------------------------------------------------------------------------------------------------------


def windows_that_fit(memory, weights, each):
    return max(0, (memory - weights) // each)


def windows_that_fit_by_counting(memory, weights, each):
    windows = 0
    while weights + (windows + 1) * each <= memory:
        windows += 1
    return windows


def windows_that_fit_by_ranges(memory, weights, each):
    return len(range(weights + each, memory + 1, each))


def windows_that_fit_with_numpy(memory, weights, each):
    return np.floor(np.clip(memory - weights, 0, None) / each)


def draw_card(rng):
    """A quarter of the cards is filled to the last byte, a quarter lacks one, and on some the weights do not fit."""
    weights, each, windows = rng.integers(1, [200, 30, 20]).tolist()
    left = [each * windows, each * windows - 1, int(rng.integers(each * windows)), -int(rng.integers(weights))]
    return weights + left[rng.integers(4)], weights, each


EXERCISES = [
    Exercise(
        id="2.1",
        title="Parameters, part by part",
        hints=(
            "A name's first pieces say to which part a tensor belongs; its shape says how many numbers it has.",
            "Split the name at its dots, join the first `depth` pieces again, and add up in a dictionary.",
            "A tensor has as many numbers as the product of its lengths; one without axes has one.",
        ),
        solution=parameters_by_part,
        variants=[parameters_by_part_with_numpy, parameters_by_part_sorted, parameters_by_part_counted],
        draw=draw_shapes,
        edges=[
            ({"a.1.b": (2, 3), "a.1.c": (4,), "a.10.b": (5,)}, 2),
            ({"a.b": (2, 3), "a.c": (4,)}, 1),
            ({"a": ()}, 2),
        ],
        draws=30,
        trial=run_parameters_by_part,
        mistakes=[
            Mistake(by_prefix, "`layers.1` is not the beginning of `layers.10`: compare whole pieces."),
            Mistake(last_alone, "A part has several tensors: add them up."),
            Mistake(fixed_depth, "How many pieces make a part is an argument, `depth`."),
            Mistake(matrices_alone, "Biases and norms have one axis, and they count, too."),
            Mistake(tensors_counted, "That counts tensors, not the numbers in them."),
            Mistake(
                lambda shapes, depth: {part: n * 4 for part, n in parameters_by_part(shapes, depth).items()},
                "These are bytes of float32; parameters are asked for.",
            ),
        ],
    ),
    Exercise(
        id="2.2",
        title="Bytes of the caches, in the model",
        hints=(
            "Two kinds of keys and values: those of the texts, and those of the sound.",
            "Each beam has its own text; the sound is there once. Keys and values are two arrays of the same size.",
            "Count positions: the beams' tokens and the sound's 1500. Each takes d numbers, in every layer, twice.",
        ),
        solution=cache_bytes,
        variants=[cache_bytes_by_layer, cache_bytes_of_arrays, cache_bytes_by_addition],
        draw=draw_cache,
        edges=[(1, 1, 1, 1, 1), (6, 512, 1, 100, 4)],
        trial=run_cache_bytes,
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
            Mistake(
                lambda layers, d, beams, tokens, width: 2 * layers * d * width * (beams * 448 + 1500),
                "A growing cache has as many places as there are tokens, not as many as the longest text.",
            ),
        ],
    ),
    Exercise(
        id="2.3",
        title="Windows that fit",
        hints=(
            "What is left for windows when the weights are there?",
            "Divide what is left by a window's bytes. Windows are whole.",
            "Round down; and where nothing is left, the result is not negative.",
        ),
        solution=windows_that_fit,
        variants=[windows_that_fit_by_counting, windows_that_fit_by_ranges, windows_that_fit_with_numpy],
        draw=draw_card,
        draws=40,
        edges=[(54, 40, 7), (46, 40, 7), (10, 40, 7), (40, 40, 7)],
        mistakes=[
            Mistake(lambda memory, weights, each: memory // each, "The weights take their part first."),
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
            Mistake(
                lambda memory, weights, each: max(0, round((memory - weights) / each)),
                "Rounded to the nearest, the last window may not fit whole.",
            ),
        ],
    ),
]
