"""Tokens, sound and a search for the small model of `small_whisper`, which every engine decodes alike."""

import numpy as np
from small_model import start_cache

TEXT = np.array([[7, 1, 90, 13, 2, 60, 61], [7, 2, 91, 14, 3, 62, 63]])


def mels(count: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 80, 60)).astype(np.float32)


def error(ours: np.ndarray, theirs: np.ndarray) -> float:
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max())


def decode_beams(model, windows: int) -> np.ndarray:
    """Logits of a search with 3 beams a window: windows become beams, beams change places, a window ends."""
    rng = np.random.default_rng(1)
    cache = start_cache(model, model.encode(mels(windows)))
    logits = [model.prefill(rng.integers(0, 99, (windows, 2)), cache).ravel()]
    model.select_rows(np.repeat(np.arange(windows), 3), cache)
    for _ in range(4):
        logits.append(model.decode_step(rng.integers(0, 99, 3 * windows), cache).ravel())
        rows = np.concatenate([3 * window + rng.integers(0, 3, 3) for window in range(windows)])
        model.reorder_beams(rows, cache)
    model.select_rows(np.array([2, 0, 1]), cache)
    model.select_rows(np.array([1, 0, 2]), cache)  # twice before a step
    logits.append(model.decode_step(rng.integers(0, 99, 3), cache).ravel())
    return np.concatenate(logits)
