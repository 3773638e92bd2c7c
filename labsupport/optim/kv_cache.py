"""Caches of keys and values, so that a decode step computes one token and not the whole text again.

A cache holds `self_kv`, the texts' keys and values in every decoder layer, (rows, heads, length, head_dim) each, a row
for each text; and `cross_kv`, those of the encoder's output, (windows, heads, frames, head_dim), computed once for each
window of sound. The texts of one window (beams) stand side by side, and are queries of one attention.

Each cache says how a layer puts a step's keys and values behind those of the past (`append`), and which places a query
may attend to (`visible`). Both are pure functions of tensors, which a compiled graph can hold; all else is bookkeeping
and stays outside of it.
"""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np

from labsupport.arrays import xp
from labsupport.base.errors import OptimError
from labsupport.optim.memory_model import count_parameters, cross_cache_bytes, self_cache_bytes, to_bytes

KeysValues = tuple[Any, Any]
POSITIONS = 448  # tokens of the longest text that any Whisper can produce


class DynamicCache:
    """Grows by one concatenation a step: the simplest cache, and the one to beat.

    Args:
        capacity: tokens that it may hold.
    """

    fixed = False  # whether the step's tensors keep their shapes

    def __init__(self, capacity: int = POSITIONS) -> None:
        self.capacity, self.length, self.rows = capacity, 0, 0
        self.self_kv: list[KeysValues] = []
        self.cross_kv: list[KeysValues] = []

    # what a step's graph holds

    @staticmethod
    def append(past: KeysValues | None, new: KeysValues, position: Any) -> KeysValues:
        """A layer's keys and values of the past, and behind them those of this step.

        Args:
            position: (new,) int64, the places of this step's tokens in their text.
        """
        if past is None:
            return new
        keys = xp.concat([past[0], new[0]], axis=2)  # (rows, heads, length + new, head_dim)
        return keys, xp.concat([past[1], new[1]], axis=2)

    @staticmethod
    def visible(position: Any, capacity: int) -> Any:
        """(new, capacity) bool: which places of what `append` gives each of the step's queries may attend to.

        None says that all places are filled, the newest last: then the causal rule is enough.
        """

    # the bookkeeping around it

    def set_cross_kv(self, cross_kv: list[KeysValues]) -> None:
        """Takes cross-attention's keys and values of every layer; each window begins with one row.

        Raises:
            OptimError: the cache has been used already.
        """
        if self.cross_kv:
            raise OptimError("This cache holds the text of other windows.", hint="Begin with `model.new_cache()`.")
        self.cross_kv, self.rows = cross_kv, count_rows(cross_kv)

    def check_step(self, rows: int, new: int, positions: int = POSITIONS) -> None:
        """Checks that `new` tokens can follow in each of `rows` texts.

        Args:
            positions: of the model.

        Raises:
            OptimError: they cannot; the message says why.
        """
        if not self.cross_kv:
            raise OptimError("The cache holds no window of sound.", hint="Call `model.project_cross_kv` first.")
        if rows != self.rows:
            raise OptimError(f"{rows} texts, but the cache holds {self.rows}.", hint="See `select_rows`.")
        places = min(self.capacity, positions)
        if self.length + new > places:
            what = f"{self.length} tokens and {new} more do not fit into {places} places."
            raise OptimError(what, hint="Whisper's texts end at 448 tokens; begin the next window.")

    def past_kv(self, new: int, all_rows: bool = False, all_places: bool = False) -> list[Any]:
        """What every layer holds before a step of `new` tokens; None for each layer where there is nothing yet.

        Args:
            all_rows: with a static cache's rows of texts that have ended, so that their number stays.
            all_places: with its places that hold nothing yet, so that every shape stays. Where slices are copies, as
                MindSpore's are, what is written to them is lost: ask for all.
        """
        return self.self_kv or [None] * len(self.cross_kv)

    def mask(self, position: Any, all_places: bool = False) -> Any:
        """`visible` for what `append` gives on `past_kv`; arguments as there."""

    def active_cross_kv(self, all_rows: bool = False) -> list[KeysValues]:
        """Cross-attention's keys and values of the windows that go on; `all_rows` as in `past_kv`."""
        return self.cross_kv

    @property
    def buffer_rows(self) -> int:
        """Rows of `past_kv(all_rows=True)`; those beyond `rows` belong to texts that have ended."""
        return self.rows

    def update(self, self_kv: list[KeysValues], new: int) -> None:
        """Takes what `append` gave for every layer: each text is `new` tokens longer now."""
        self.self_kv = self_kv
        self.length += new

    def reorder_beams(self, rows: np.ndarray) -> None:
        """Row i goes on from the text of row `rows[i]`. Cross-attention stays: a beam never leaves its window.

        Raises:
            OptimError: there is no such row, or their number changes.
        """
        self.check_beams(rows)
        self.self_kv = gather_rows(self.self_kv, rows)

    def select_rows(self, rows: np.ndarray) -> None:
        """Keeps or repeats rows: texts that end, windows that become beams.

        Raises:
            OptimError: there is no such row.
        """
        self.check_rows(rows)
        self.self_kv = gather_rows(self.self_kv, rows)
        self.cross_kv = gather_rows(self.cross_kv, self.select_windows(rows))
        self.rows = len(rows)

    def check_rows(self, rows: np.ndarray) -> None:
        if len(rows) == 0 or rows.min() < 0 or rows.max() >= self.rows:
            raise OptimError(f"The cache holds rows 0 to {self.rows - 1}, not all of {rows.tolist()}.")

    def check_beams(self, rows: np.ndarray) -> None:
        self.check_rows(rows)
        if len(rows) != self.rows:
            raise OptimError(f"{len(rows)} rows for {self.rows} texts.", hint="`select_rows` changes their number.")

    def select_windows(self, rows: np.ndarray) -> np.ndarray:
        """The windows to hold for these rows: once for each, if all have equally many texts, side by side."""
        windows = rows // (self.rows // count_rows(self.active_cross_kv()))
        distinct = windows[np.sort(np.unique(windows, return_index=True)[1])]
        shared = np.array_equal(np.repeat(distinct, len(windows) // len(distinct)), windows)
        return distinct if shared else windows


class PaddedCache(DynamicCache):
    """Article B's: of fixed size from the start, into the step's graph and out of it. Inside, the oldest place is
    sliced off and the newest token put behind: it always stands at the end, and the empty places before the first.
    """

    fixed = True

    @staticmethod
    def append(past: KeysValues, new: KeysValues, position: Any) -> KeysValues:  # type: ignore[override]
        """Slice and concatenation: as many places fall out in front as come in behind."""
        dropped = new[0].shape[2]
        keys, values = past[0][:, :, dropped:], past[1][:, :, dropped:]  # (rows, heads, capacity - new, head_dim)
        return xp.concat([keys, new[0]], axis=2), xp.concat([values, new[1]], axis=2)  # capacity places again

    @staticmethod
    def visible(position: Any, capacity: int) -> Any:
        """Of the tokens that the places hold, those that exist (0 and up) and are not later than the query."""
        held = xp.indices(capacity, position)[None, :] + position[-1:] - (capacity - 1)  # (1, capacity)
        return (held >= 0) & (held <= position[:, None])  # (new, capacity)

    def set_cross_kv(self, cross_kv: list[KeysValues]) -> None:
        super().set_cross_kv(cross_kv)
        key = cross_kv[0][0]
        shape = (self.rows, key.shape[1], self.capacity, key.shape[3])
        self.self_kv = [(xp.full(shape, 0.0, key), xp.full(shape, 0.0, key)) for _ in cross_kv]

    def mask(self, position: Any, all_places: bool = False) -> Any:
        return self.visible(position, self.capacity)


class StaticCache(DynamicCache):
    """Allocated once, and written in place: a token's keys and values go to their own place, and nothing else moves.

    Texts that end leave their rows empty behind those that go on, so that the shapes stay.
    """

    fixed = True

    @staticmethod
    def append(past: KeysValues, new: KeysValues, position: Any) -> KeysValues:  # type: ignore[override]
        """Writes into the past itself."""
        return xp.write(past[0], new[0], position), xp.write(past[1], new[1], position)

    @staticmethod
    def visible(position: Any, capacity: int) -> Any:
        """Place i holds token i."""
        return xp.indices(capacity, position)[None, :] <= position[:, None]  # (new, capacity)

    def set_cross_kv(self, cross_kv: list[KeysValues]) -> None:
        super().set_cross_kv(cross_kv)
        self.windows, self.self_kv = self.rows, self.acquire(self.rows)

    def acquire(self, rows: int) -> list[KeysValues]:
        """Buffers for so many rows, which go back to the pool when this cache is gone."""
        key = self.cross_kv[0][0]
        buffers = BUFFER_POOL.acquire((rows, key.shape[1], self.capacity, key.shape[3]), len(self.cross_kv), key)
        self.release = weakref.finalize(self, BUFFER_POOL.release, buffers)
        return buffers

    @property
    def buffer_rows(self) -> int:
        return count_rows(self.self_kv)

    def past_kv(self, new: int, all_rows: bool = False, all_places: bool = False) -> list[Any]:
        rows = self.buffer_rows if all_rows else self.rows
        return slice_kv(self.self_kv, rows, self.capacity if all_places else self.length + new)

    def mask(self, position: Any, all_places: bool = False) -> Any:
        return self.visible(position, self.capacity) if all_places else None  # of the filled places the newest is last

    def active_cross_kv(self, all_rows: bool = False) -> list[KeysValues]:
        return self.cross_kv if all_rows else slice_kv(self.cross_kv, self.windows)

    def update(self, self_kv: list[KeysValues], new: int) -> None:
        self.length += new  # `append` has written it

    def reorder_beams(self, rows: np.ndarray) -> None:
        self.check_beams(rows)
        self.self_kv = move_rows(self.self_kv, rows, self.length)

    def select_rows(self, rows: np.ndarray) -> None:
        self.check_rows(rows)
        windows = self.select_windows(rows)
        if len(rows) * self.windows == len(windows) * self.rows and len(rows) <= self.rows:
            self.self_kv = move_rows(self.self_kv, rows, self.length)
            self.cross_kv = move_rows(self.cross_kv, windows)
        else:
            self.cross_kv = gather_rows(self.active_cross_kv(), windows)
            self.copy_rows(rows)
        self.windows, self.rows = len(windows), len(rows)

    def copy_rows(self, rows: np.ndarray) -> None:
        """Goes over to other buffers, as many rows as are chosen, with what the filled places hold."""
        past, release = self.past_kv(0), self.release
        self.self_kv = self.acquire(len(rows))
        for buffers, filled in zip(self.self_kv, past, strict=True):
            for buffer, tensor in zip(buffers, filled, strict=True):
                xp.fill_rows(buffer, xp.take(tensor, xp.asarray(rows, tensor)))
        release()


class BufferPool:
    """Static caches' memory, handed from one cache to the next: page faults, zeros and compiled graphs only once.

    What an earlier text left in it nobody attends to, for its places are beyond `length`.
    """

    def __init__(self) -> None:
        self.free: dict[tuple, list[list[KeysValues]]] = {}

    def acquire(self, shape: tuple[int, ...], layers: int, like: Any) -> list[KeysValues]:
        """A pair of buffers for each layer, of `like`'s dtype and on its device."""
        idle = self.free.get(buffer_key(shape, layers, like))
        if idle:
            return idle.pop()
        return [(xp.buffer(shape, like), xp.buffer(shape, like)) for _ in range(layers)]

    @property
    def idle_bytes(self) -> int:
        """Bytes that no cache uses."""
        return sum(part.nbytes for sets in self.free.values() for pairs in sets for pair in pairs for part in pair)

    def release(self, buffers: list[KeysValues]) -> None:
        key = buffers[0][0]
        self.free.setdefault(buffer_key(tuple(key.shape), len(buffers), key), []).append(buffers)


BUFFER_POOL = BufferPool()


def buffer_key(shape: tuple[int, ...], layers: int, like: Any) -> tuple:
    return shape, layers, str(like.dtype), str(getattr(like, "device", ""))


def slice_kv(pairs: list[KeysValues], rows: int, stop: int | None = None) -> list[KeysValues]:
    """The first rows, and of each the first places: views where a framework has them."""
    if (rows, stop or pairs[0][0].shape[2]) == (pairs[0][0].shape[0], pairs[0][0].shape[2]):
        return pairs
    return [(k[:rows, :, :stop], v[:rows, :, :stop]) for k, v in pairs]  # (rows, heads, stop, head_dim)


def count_rows(pairs: list[KeysValues]) -> int:
    """Rows of the batch."""
    return pairs[0][0].shape[0]


def gather_rows(pairs: list[KeysValues], rows: np.ndarray) -> list[KeysValues]:
    """The given rows of the batch of every layer's keys and values: copies."""
    if not pairs or np.array_equal(rows, np.arange(count_rows(pairs))):
        return pairs
    index = xp.asarray(rows, pairs[0][0])
    return [(xp.take(k, index), xp.take(v, index)) for k, v in pairs]


def move_rows(pairs: list[KeysValues], rows: np.ndarray, stop: int | None = None) -> list[KeysValues]:
    """Row i becomes row `rows[i]`, in place: only the rows that change, and only the `stop` places that are filled."""
    to = np.flatnonzero(rows != np.arange(len(rows)))
    if len(to) == 0:
        return pairs
    return [(xp.move_rows(k, rows[to], to, stop), xp.move_rows(v, rows[to], to, stop)) for k, v in pairs]


def step_bytes(config: Any, position: int, rows: int = 1, windows: int | None = None) -> dict[str, int]:
    """Bytes of float32 that a decode step has to read, however it is written.

    Args:
        config: a `checkpoints.config.Config`.
        position: tokens that each text has already.
        rows: texts.
        windows: of sound; by default each text has its own.

    Returns:
        "weights" of the decoder (of its table of positions one row), "cross_kv", and "self_kv" with the new token's.
    """
    weights = count_parameters(config)["decoder"] - (config.text_positions - 1) * config.d_model
    return {
        "weights": to_bytes(weights),
        "cross_kv": cross_cache_bytes(config, rows if windows is None else windows),
        "self_kv": self_cache_bytes(config, rows, position + 1),
    }


def moved_bytes(config: Any, position: int, rows: int = 1, capacity: int = POSITIONS) -> dict[str, int]:
    """Bytes that each cache moves in a step beside what `step_bytes` counts: read to copy, written, read needlessly.

    A step at `position`; arguments as in `step_bytes`.
    """
    place = self_cache_bytes(config, rows, 1)
    return {
        "DynamicCache": place * 2 * (position + 1),  # reads the past and the new token, and writes them
        "PaddedCache": place * (2 * capacity + capacity - position - 1),  # all places; then attends to the empty ones
        "StaticCache": place * 2,  # reads and writes the new token
    }
