"""The cache of a loop graph (one decode step) between two runs, in the form that the graph wants.

Every form has the same life: `fill` after the prompt, then for each token a run of the graph on what `bind` gives, and
`advance`. `loop_interface.LoopInterface` names the forms.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from labsupport.base.errors import GraphError
from labsupport.graphs.loop_interface import GROWS, PLAIN, SHIFTS, LoopInterface
from labsupport.graphs.session import as_value, to_numpy

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, IOBinding, OrtValue


class LoopCache:
    """Keys and values of a batch of texts, float32; empty until `fill`.

    length: tokens that it holds. self_kv: past_k.i and past_v.i, a row for each text. cross_kv: cross_k.i and
    cross_v.i, a row for each text, or one if all texts are of one window.
    """

    def __init__(self, interface: LoopInterface) -> None:
        self.interface, self.length = interface, 0
        self.self_kv: dict[str, OrtValue] = {}
        self.cross_kv: dict[str, OrtValue] = {}
        self.encoder_out: np.ndarray | None = None  # for the prefill graph, which computes cross_kv with the prompt
        self.spare: dict[str, OrtValue] = {}  # where a graph that shifts writes, while it reads self_kv
        self.binding: IOBinding | None = None

    @property
    def rows(self) -> int:
        """Texts."""
        return next(iter(self.self_kv.values())).shape()[0]

    def fill(self, values: Mapping[str, OrtValue], cross_layout: tuple[int, ...] = PLAIN) -> None:
        """Takes over the keys and values of a prompt; raises GraphError if the graph's caches are too short for them.

        Args:
            values: k.i and v.i, (rows, length, heads, head_dim), and cross_k.i and cross_v.i, in `cross_layout`.
            cross_layout: axes as in `LoopInterface`.
        """
        order = tuple(cross_layout.index(axis) for axis in self.interface.cross_layout)
        for name, value in values.items():
            if name.startswith("cross"):
                self.cross_kv[name] = value if order == PLAIN else as_value(to_numpy(value).transpose(order))
            else:
                array = value.numpy()
                self.length = array.shape[1]
                self.self_kv[f"past_{name}"] = as_value(self.store(array))

    def store(self, array: np.ndarray) -> np.ndarray:
        """(rows, length, heads, head_dim) -> a new past in the graph's form; places without a token are zeros."""
        capacity, layout = self.interface.capacity, self.interface.layout
        rows, length, heads, head_dim = array.shape
        if capacity is not None and length > capacity:
            raise GraphError(f"{length} tokens do not fit into caches of {capacity}.")
        sizes = (rows, capacity or length, heads, head_dim)
        stored = np.zeros([sizes[axis] for axis in layout], np.float32)
        stored.transpose(np.argsort(layout))[:, self.places(length)] = array
        return stored

    def read(self, name: str) -> np.ndarray:
        """A copy of what `past_k.i` or `past_v.i` holds: (rows, length, heads, head_dim)"""
        array = to_numpy(self.self_kv[name]).transpose(np.argsort(self.interface.layout))
        return array[:, self.places(self.length)]

    def places(self, length: int) -> slice:
        """Where in a past, on the axis of its tokens, `length` tokens stand."""
        start = (self.interface.capacity or length) - length if self.interface.cache == SHIFTS else 0
        return slice(start, start + length)

    def reorder_beams(self, rows: np.ndarray) -> None:
        """Row i goes on from the text of row `rows[i]`, of the same window."""
        self.self_kv = {name: as_value(value.numpy()[rows]) for name, value in self.self_kv.items()}
        self.spare, self.binding = {}, None

    def select_rows(self, rows: np.ndarray) -> None:
        """Keeps or repeats rows; texts of one window share its cross-attention."""
        self.reorder_beams(rows)
        windows = next(iter(self.cross_kv.values())).shape()[0]
        if windows > 1:
            rows = rows[:1] if len(set(rows.tolist())) == 1 else rows
            self.cross_kv = {name: as_value(value.numpy()[rows]) for name, value in self.cross_kv.items()}

    def run(self, session: InferenceSession, tokens: np.ndarray) -> np.ndarray:
        """(rows,) int64, each text's next token -> the graph's result, (rows, vocab) logits or (rows, d_model).

        The cache is not advanced: the same call gives the same again. Raises GraphError if the caches are full.
        """
        if self.interface.capacity is not None and self.length >= self.interface.capacity:
            raise GraphError(f"{self.length} tokens leave no room in caches of {self.interface.capacity}.")
        binding = self.bind(session)
        self.tokens[:, 0], self.position[:], self.indices[..., -1] = tokens, self.length, self.length
        session.run_with_iobinding(binding)
        return self.result[:, 0].copy()  # (rows, 1, vocab) -> (rows, vocab)

    def bind(self, session: InferenceSession) -> IOBinding:
        """The graph's inputs and outputs tied to this cache, anew only where the buffers have changed."""
        if self.binding is None:
            self.binding = session.io_binding()
            self.bind_arrays(session, self.binding)
            self.bind_present(self.binding)
        elif self.interface.cache == GROWS:
            self.bind_present(self.binding)  # else a second run would write over what the first one gave
        return self.binding

    def bind_arrays(self, session: InferenceSession, binding: IOBinding) -> None:
        """Binds the graph's inputs and its result; a graph for a fixed number of beams has no input `indices`."""
        rows, heads = self.rows, next(iter(self.self_kv.values())).shape()[1]
        (result,) = (out for out in session.get_outputs() if f"past_{out.name}" not in self.self_kv)
        self.tokens, self.position = np.zeros((rows, 1), np.int64), np.zeros(1, np.int64)
        self.indices = np.stack(np.meshgrid(range(rows), range(heads), [0], indexing="ij"), -1)  # (rows, heads, 1, 3)
        self.result = np.empty((rows, 1, result.shape[-1]), np.float32)
        arrays = {"tokens": self.tokens, "position": self.position, "indices": self.indices, result.name: self.result}
        self.values = {name: as_value(array) for name, array in arrays.items()}  # a binding keeps no memory alive
        taken = {given.name for given in session.get_inputs()}
        for name, value in (self.values | self.cross_kv | self.self_kv).items():
            if name in taken:
                binding.bind_ortvalue_input(name, value)
        binding.bind_ortvalue_output(result.name, self.values[result.name])

    def bind_present(self, binding: IOBinding) -> None:
        """Binds k.i and v.i: to new memory, beside the past, or over it, so that only the new row is written."""
        if self.interface.cache == SHIFTS and not self.spare:
            self.spare = {name: as_value(np.empty(value.shape(), np.float32)) for name, value in self.self_kv.items()}
        for name, value in self.self_kv.items():
            if self.interface.cache == GROWS:
                binding.bind_output(name.removeprefix("past_"))
            else:
                binding.bind_ortvalue_output(name.removeprefix("past_"), self.spare.get(name, value))

    def advance(self) -> None:
        """Takes the new row of the last `run` into the past."""
        self.length += 1
        if self.interface.cache == GROWS and self.binding is not None:
            self.self_kv = dict(zip(self.self_kv, self.binding.get_outputs()[1:], strict=True))
            self.binding = None
        elif self.interface.cache == SHIFTS:
            self.self_kv, self.spare = self.spare, self.self_kv
            self.binding = None
