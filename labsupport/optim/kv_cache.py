"""Caches of keys and values, so that a decode step computes one token and not the whole text again.

Keys and values are (rows, heads, length, head_dim), a pair for each decoder layer; a row is a text. Each cache says how
a layer puts a step's keys and values behind those of the past (`append`) and which of them a query may see (`seen`).
Both are pure functions of tensors, which a compiled graph can hold; all else is bookkeeping and stays outside.

Cross-attention's keys and values are computed once for each window of sound, and held once: the texts that belong to
one window (beams) stand side by side, and are queries of one attention.
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
        self.own: list[KeysValues] = []
        self.cross: list[KeysValues] = []
        self.audio = None

    # what a step's graph holds

    @staticmethod
    def append(past: KeysValues | None, new: KeysValues, position) -> KeysValues:
        """A layer's keys and values of the past, and behind them those of this step.

        Args:
            position: (new,) int64, the places of this step's tokens in their text.
        """
        if past is None:
            return new
        return xp.concat([past[0], new[0]], axis=2), xp.concat([past[1], new[1]], axis=2)

    @staticmethod
    def seen(position, capacity: int):
        """(new, capacity) bool: which places of what `append` gives each of the step's queries may see.

        Nothing (None) says that all places are filled, the newest last: the causal rule is all there is to say.
        """

    # what happens around it

    def expect(self, rows: int, new: int, audio, positions: int = POSITIONS) -> None:
        """Checks that `new` tokens for each of `rows` texts over this sound can follow.

        Args:
            audio: (rows, frames, d_model), what this cache was begun with, or what `keep` gave since.
            positions: of the model.

        Raises:
            OptimError, OptimError, OptimError: they cannot; the message says why.
        """
        if rows != audio.shape[0]:
            raise OptimError(
                f"{rows} texts, but the sound of {audio.shape[0]}.", hint="One row of sound for each text."
            )
        if self.audio is not None and rows != self.rows:
            raise OptimError(f"{rows} texts, but the cache holds {self.rows}.", hint="Tell it by `keep` who goes on.")
        self.check_audio(audio)
        places = min(self.capacity, positions)
        if self.length + new > places:
            what = f"{self.length} tokens and {new} more do not fit into {places} places."
            raise OptimError(what, hint="Whisper's texts end at 448 tokens; begin the next window.")

    def begin(self, audio, cross: list[KeysValues]) -> None:
        """Takes the sound, and cross-attention's keys and values of every layer."""
        self.audio, self.cross, self.rows = audio, cross, audio.shape[0]

    def past(self, new: int, ended: bool = False, empty: bool = False) -> list[KeysValues | None]:
        """What every layer holds before a step of `new` tokens.

        Args:
            ended: a static cache's rows of texts that have ended, too, so that their number stays.
            empty: its places that hold nothing yet, too, so that every shape stays. Where slices are copies, as
                MindSpore's are, what is written to them is lost: ask for all.
        """
        return self.own or [None] * len(self.cross)

    def mask(self, position, empty: bool = False):
        """`seen` for what `append` gives on `past`; arguments as there."""

    def heard(self, ended: bool = False) -> list[KeysValues]:
        """Cross-attention's keys and values, (windows, heads, frames, head_dim); `ended` as in `past`."""
        return self.cross

    @property
    def width(self) -> int:
        """Rows of `past(ended=True)`; those beyond `rows` belong to texts that have ended."""
        return self.rows

    def store(self, own: list[KeysValues], new: int) -> None:
        """Takes what `append` gave for every layer: all of them have now seen `new` tokens more."""
        self.own = own
        self.length += new

    def reorder(self, rows: np.ndarray) -> None:
        """Row i goes on from the text of row `rows[i]`. Cross-attention stays: a beam never leaves its window.

        Raises:
            OptimError: there is no such row, or their number changes.
        """
        self.check_rows(rows)
        if len(rows) != self.rows:
            raise OptimError(f"{len(rows)} rows for {self.rows} texts.", hint="`keep` changes their number.")
        self.own = select_rows(self.own, rows)

    def keep(self, rows: np.ndarray, audio):
        """Keeps or repeats rows of the batch, sound and all: texts that end, windows that become beams.

        Returns:
            the sound of these rows, with which the next step has to come.

        Raises:
            OptimError: there is no such row.
            OptimError: the cache holds the text of another sound.
        """
        self.check_rows(rows)
        self.check_audio(audio)
        self.own, self.cross = select_rows(self.own, rows), select_rows(self.cross, self.windows_of(rows))
        return self.take_audio(rows)

    def check_rows(self, rows: np.ndarray) -> None:
        if len(rows) == 0 or rows.min() < 0 or rows.max() >= self.rows:
            raise OptimError(f"The cache holds rows 0 to {self.rows - 1}, not all of {rows.tolist()}.")

    def check_audio(self, audio) -> None:
        if self.audio is not None and audio is not self.audio:
            raise OptimError("This cache holds the text of another sound.", hint="Begin with `model.new_cache()`.")

    def take_audio(self, rows: np.ndarray):
        self.audio, self.rows = xp.take(self.audio, xp.asarray(rows, self.audio)), len(rows)
        return self.audio

    def windows_of(self, rows: np.ndarray) -> np.ndarray:
        """The windows to hold for these rows: once for each, if all have equally many texts, side by side."""
        windows = rows // (self.rows // len_of(self.heard()))
        distinct = windows[np.sort(np.unique(windows, return_index=True)[1])]
        shared = np.array_equal(np.repeat(distinct, len(windows) // len(distinct)), windows)
        return distinct if shared else windows


class PaddedCache(DynamicCache):
    """Article B's: of fixed size from the start, into the step's graph and out of it. Inside, the oldest place is
    sliced off and the newest token put behind: it always stands at the end, and the empty places before the first.
    """

    fixed = True

    @staticmethod
    def append(past: KeysValues, new: KeysValues, position) -> KeysValues:
        """Slice and concatenation: as many places fall out in front as come in behind."""
        dropped = new[0].shape[2]
        keys, values = past[0][:, :, dropped:], past[1][:, :, dropped:]
        return xp.concat([keys, new[0]], axis=2), xp.concat([values, new[1]], axis=2)

    @staticmethod
    def seen(position, capacity: int):
        """Of the tokens that the places hold, those that exist (0 and up) and are not later than the query."""
        held = xp.indices(capacity, position)[None, :] + position[-1:] - (capacity - 1)
        return (held >= 0) & (held <= position[:, None])

    def begin(self, audio, cross: list[KeysValues]) -> None:
        super().begin(audio, cross)
        key = cross[0][0]
        shape = (self.rows, key.shape[1], self.capacity, key.shape[3])
        self.own = [(xp.full(shape, 0.0, key), xp.full(shape, 0.0, key)) for _ in cross]

    def mask(self, position, empty: bool = False):
        return self.seen(position, self.capacity)


class StaticCache(DynamicCache):
    """Allocated once, and written in place: a token's keys and values go to their own place, and nothing else moves.

    Texts that end leave their rows empty behind those that go on, so that the shapes stay.
    """

    fixed = True

    @staticmethod
    def append(past: KeysValues, new: KeysValues, position) -> KeysValues:
        """Writes into the past itself."""
        return xp.write(past[0], new[0], position), xp.write(past[1], new[1], position)

    @staticmethod
    def seen(position, capacity: int):
        """Place i holds token i."""
        return xp.indices(capacity, position)[None, :] <= position[:, None]

    def begin(self, audio, cross: list[KeysValues]) -> None:
        super().begin(audio, cross)
        self.windows, self.own = self.rows, self.lend(self.rows)

    def lend(self, rows: int) -> list[KeysValues]:
        """Buffers for so many rows, which come back when this cache is gone."""
        key = self.cross[0][0]
        buffers = BUFFERS.lend((rows, key.shape[1], self.capacity, key.shape[3]), len(self.cross), key)
        self.give_back = weakref.finalize(self, BUFFERS.take_back, buffers)
        return buffers

    @property
    def width(self) -> int:
        return len_of(self.own)

    def past(self, new: int, ended: bool = False, empty: bool = False) -> list[KeysValues]:
        rows = self.width if ended else self.rows
        stop = self.capacity if empty else self.length + new
        return cut(self.own, rows, stop)

    def mask(self, position, empty: bool = False):
        return self.seen(position, self.capacity) if empty else None  # of the filled places, the newest is the last

    def heard(self, ended: bool = False) -> list[KeysValues]:
        return self.cross if ended else cut(self.cross, self.windows)

    def store(self, own: list[KeysValues], new: int) -> None:
        self.length += new  # `append` has written it

    def reorder(self, rows: np.ndarray) -> None:
        self.check_rows(rows)
        if len(rows) != self.rows:
            raise OptimError(f"{len(rows)} rows for {self.rows} texts.", hint="`keep` changes their number.")
        self.own = move(self.own, rows, self.length)

    def keep(self, rows: np.ndarray, audio):
        self.check_rows(rows)
        self.check_audio(audio)
        windows = self.windows_of(rows)
        if len(rows) * self.windows == len(windows) * self.rows and len(rows) <= self.rows:
            self.own, self.cross = move(self.own, rows, self.length), move(self.cross, windows)
        else:
            self.cross = select_rows(self.heard(), windows)
            old, give_back = self.past(0), self.give_back
            self.own = self.lend(len(rows))
            for pair, past in zip(self.own, old, strict=True):
                for buffer, filled in zip(pair, past, strict=True):
                    xp.fill_rows(buffer, xp.take(filled, xp.asarray(rows, filled)))
            give_back()
        self.windows = len(windows)
        return self.take_audio(rows)


class Buffers:
    """Static caches' memory, lent to one cache after the other: page faults, zeros and compiled graphs only once.

    What a former text left in it nobody sees, for its places are beyond `length`.
    """

    def __init__(self) -> None:
        self.free: dict[tuple, list[list[KeysValues]]] = {}

    def lend(self, shape: tuple[int, ...], layers: int, like) -> list[KeysValues]:
        """A pair of buffers for each layer, of `like`'s dtype and on its device."""
        idle = self.free.get(describe_buffers(shape, layers, like))
        if idle:
            return idle.pop()
        return [(xp.buffer(shape, like), xp.buffer(shape, like)) for _ in range(layers)]

    @property
    def idle_bytes(self) -> int:
        """What nobody has on loan."""
        return sum(part.nbytes for sets in self.free.values() for pairs in sets for pair in pairs for part in pair)

    def take_back(self, buffers: list[KeysValues]) -> None:
        key = buffers[0][0]
        self.free.setdefault(describe_buffers(tuple(key.shape), len(buffers), key), []).append(buffers)


BUFFERS = Buffers()


def describe_buffers(shape: tuple[int, ...], layers: int, like) -> tuple:
    return shape, layers, str(like.dtype), str(getattr(like, "device", ""))


def cut(pairs: list[KeysValues], rows: int, stop: int | None = None) -> list[KeysValues]:
    """The first rows, and of each the first places: views where a framework has them."""
    if (rows, stop or pairs[0][0].shape[2]) == (pairs[0][0].shape[0], pairs[0][0].shape[2]):
        return pairs
    return [(k[:rows, :, :stop], v[:rows, :, :stop]) for k, v in pairs]


def len_of(pairs: list[KeysValues]) -> int:
    """Rows of the batch."""
    return pairs[0][0].shape[0]


def select_rows(pairs: list[KeysValues], rows: np.ndarray) -> list[KeysValues]:
    """The given rows of the batch of every layer's keys and values: copies."""
    if not pairs or np.array_equal(rows, np.arange(len_of(pairs))):
        return pairs
    index = xp.asarray(rows, pairs[0][0])
    return [(xp.take(k, index), xp.take(v, index)) for k, v in pairs]


def move(pairs: list[KeysValues], rows: np.ndarray, stop: int | None = None) -> list[KeysValues]:
    """Row i becomes row `rows[i]`, in place: only the rows that change, and only the `stop` places that are filled."""
    to = np.flatnonzero(rows != np.arange(len(rows)))
    if len(to) == 0:
        return pairs
    return [tuple(xp.move_rows(tensor, rows[to], to, stop) for tensor in pair) for pair in pairs]


def step_bytes(config, position: int, rows: int = 1, windows: int | None = None) -> dict[str, int]:
    """Bytes of float32 that a decode step has to read, however it is written.

    Args:
        config: a `whisper.config.Config`.
        position: tokens that each text has already.
        rows: texts.
        windows: of sound; by default each text has its own.

    Returns:
        "weights" of the decoder (of its table of positions one row), "cross": cross-attention's keys and values, and
        "own": the texts', with the new token's.
    """
    weights = count_parameters(config)["decoder"] - (config.text_positions - 1) * config.d_model
    return {
        "weights": to_bytes(weights),
        "cross": cross_cache_bytes(config, rows if windows is None else windows),
        "own": self_cache_bytes(config, rows, position + 1),
    }


def moved_bytes(config, position: int, rows: int = 1, capacity: int = POSITIONS) -> dict[str, int]:
    """Bytes that each cache moves in a step beside what `step_bytes` counts: read to copy, written, read needlessly.

    A step at `position`; arguments as in `step_bytes`.
    """
    place = self_cache_bytes(config, rows, 1)
    return {
        "DynamicCache": place * 2 * (position + 1),  # reads the past and the new token, and writes them
        "PaddedCache": place * (2 * capacity + capacity - position - 1),  # all places; then attends to the empty ones
        "StaticCache": place * 2,  # reads and writes the new token
    }
