"""What a batch of texts has read and said, in one request of the decoder's graph, and who of them is where in it.

The graph wants the texts of one window next to one another, and a batch without holes: both as `transcribe` drops
windows whose text has ended, turns windows into beams, and beams into one another. Of the sound's keys and values, 18
MB a window of base in bfloat16, only those of windows that must move are copied.
"""

from __future__ import annotations

import numpy as np
import openvino as ov

from labsupport.engine.decoder import INPUTS

HIDDEN = np.float32(-1e9)  # a mask's value for what may not be attended to: its softmax is 0


class StepCache:
    """A batch of texts, in whatever order `select_rows` gives them.

    length: tokens in it. places: (rows,) where in the graph's batch each text is. origins: (rows,) for each place, that
    which its text had in the last step. per_window: texts of each window. cross_kv: (windows, heads, frames, head_dim)
    of each of `decoder.cross_names`; bfloat16 as its bits, in uint16.
    """

    def __init__(self, request: ov.InferRequest):
        self.request = request
        self.length = self.per_window = 0
        self.places = self.origins = np.zeros(0, np.int32)
        self.cross_kv: list[np.ndarray] = []

    @property
    def rows(self) -> int:
        return len(self.places)

    def fill(self, cross_kv: list[np.ndarray]) -> None:
        """Of all layers, as attribute `cross_kv` has them: a text for each window begins."""
        self.cross_kv, self.per_window = cross_kv, 1
        self.places = self.origins = np.arange(len(cross_kv[0]), dtype=np.int32)
        self.give_cross_kv()

    def give_cross_kv(self) -> None:
        for i, array in enumerate(self.cross_kv, start=len(INPUTS)):
            stored = self.request.model_inputs[i].element_type
            self.request.set_input_tensor(i, ov.Tensor(array, ov.Shape(array.shape), stored))

    def run(self, tokens: np.ndarray, kept: np.ndarray) -> np.ndarray:
        """(rows, length) int64 tokens, (kept,) int64 places in them -> (rows, kept, vocab) float32 logits"""
        length = tokens.shape[1]
        arrays = {
            "tokens": tokens[np.argsort(self.places)],
            "positions": np.arange(self.length, self.length + length),
            "rows": self.origins,
            "self_mask": causal_mask(self.length, length),
            "kept": kept,
        }
        for i, name in enumerate(INPUTS):
            self.request.set_input_tensor(i, ov.Tensor(np.ascontiguousarray(arrays[name])))
        self.request.infer()
        self.length += length
        self.origins = np.arange(self.rows, dtype=np.int32)
        return self.request.get_output_tensor(0).data[self.places]  # a copy: the next step writes there

    def select_rows(self, rows: np.ndarray) -> None:
        """Row i goes on from the text of row `rows[i]`; the next step reads its own keys and values so."""
        parents = self.places[rows]
        windows = self.select_windows(parents // self.per_window)
        self.per_window = len(rows) // len(self.cross_kv[0])
        self.places = np.empty(len(rows), np.int32)
        self.places[np.argsort(windows, kind="stable")] = np.arange(len(rows))
        origins = np.empty(len(rows), np.int32)
        origins[self.places] = self.origins[parents]
        self.origins = origins

    def select_windows(self, windows: np.ndarray) -> np.ndarray:
        """(rows,) the window of each text -> the same after those that nobody reads any more are gone

        The last ones move to where others have gone. Windows that are read by more texts than others are copied, so
        that each text has one for itself.
        """
        kept, texts = np.unique(windows, return_counts=True)
        if texts.min() < texts.max():
            self.cross_kv = [array[windows] for array in self.cross_kv]
            moved = np.arange(len(windows))
        else:
            moved = self.close_gaps(kept)[windows]
        self.give_cross_kv()
        return moved

    def close_gaps(self, kept: np.ndarray) -> np.ndarray:
        """(kept,) windows, ascending -> (windows,) where each of them is afterwards, the others anywhere"""
        count, moved = len(kept), np.arange(len(self.cross_kv[0]))
        free, moving = np.setdiff1d(moved[:count], kept), kept[kept >= count]
        moved[moving] = free
        if len(moving):
            for array in self.cross_kv:
                array[free] = array[moving]
        self.cross_kv = [array[:count] for array in self.cross_kv]
        return moved


def causal_mask(past: int, length: int) -> np.ndarray:
    """(1, 1, length, past + length) float32: no token attends to those after it"""
    new = np.triu(np.full((length, length), HIDDEN), 1)
    return np.concatenate([np.zeros((length, past), np.float32), new], axis=1)[None, None]
